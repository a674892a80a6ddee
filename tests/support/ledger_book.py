"""A ledger in memory with real checkpoints: what the verifier, the checkpointer and the export are tried on by thousands.

`Book` is a source of events (`reading.Events`) that is written to at the end, and can be tampered with.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nas_gateway.ledger.checkpoints import Checkpointer
from nas_gateway.ledger.events import MAX_INTEGER, SHARDS
from nas_gateway.ledger.export import lines
from nas_gateway.ledger.signing import SigningKey
from nas_gateway.ledger.stores import AppendedFile
from nas_gateway.ledger.verify import CONTEXT, EMPTY, GENESIS, Checkpoint, Fault, Head, Seen, Signed, Verifier

_SEQ = re.compile(rb'"seq":(\d+)')
START = datetime(2025, 1, 1, tzinfo=UTC)
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
# Signing is deterministic, and tests want the same key each time.
KEY = SigningKey.parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "KEY")
OTHER_KEY = SigningKey.parse("ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=", "OTHER_KEY")


def to_line(event: dict[str, Any]) -> bytes:
    return _encode(event).encode() + b"\n"


def resealed(event: dict[str, Any]) -> dict[str, Any]:
    """With the hash that its content has: what somebody does who can write, but not sign."""
    body = {name: value for name, value in event.items() if name != "hash"}
    return {**body, "hash": hashlib.sha256(_encode(body).encode()).hexdigest()}


class Book:
    """Events of 16 chains, in memory; `folder` holds the checkpoints."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.chooser = random.Random(seed)
        self.chains: list[list[bytes]] = [[] for _ in range(SHARDS)]
        self.tips = [GENESIS] * SHARDS
        self.store, self.key = AppendedFile(folder), KEY
        self.now = START
        self.tampered = False  # then an event's place in the list may not be its number

    def lines(self, shard: int, first: int, last: int = MAX_INTEGER) -> Iterator[tuple[int, bytes]]:
        chain = self.chains[shard]
        for line in chain if self.tampered else chain[first - 1 : last]:
            seq = int(_SEQ.findall(line)[-1])
            if first <= seq <= last:
                yield seq, line

    def add(self, count: int = 1, shards: int = SHARDS) -> None:
        for _ in range(count):
            self.now += timedelta(seconds=1)
            shard = self.chooser.randrange(shards)
            event = resealed(self.event(shard, len(self.chains[shard]) + 1, self.tips[shard]))
            self.chains[shard].append(to_line(event))
            self.tips[shard] = event["hash"]

    def event(self, shard: int, seq: int, prev: str) -> dict[str, Any]:
        chooser = self.chooser
        name = f"{chooser.getrandbits(64):016x}"
        event: dict[str, Any] = {
            "v": 1, "shard": shard, "seq": seq, "prev_hash": prev, "event_id": name, "tracking_id": name, "user": "Åsa",
            "at": self.now.isoformat(timespec="microseconds").replace("+00:00", "Z"), "server_role": "services",
            "action": "file_uploaded_via_stream", "outcome": "intent", "cleanup_required": False, "bytes_transferred": seq,
        }  # fmt: skip
        if chooser.random() < 0.5:
            event |= {
                "outcome": "completed",
                "file_size": seq * 1000,
                "cohort": "VACS",
                "file_path": 'a"\\\n\x01/ü.csv',
            }
        if chooser.random() < 0.3:
            event["metadata"] = {"k": name, "": "\u2028\x7f"}
        return event

    def checkpointer(self) -> Checkpointer:
        return Checkpointer(self.store, self.key, events=self, clock=lambda: self.now)

    def checkpoint(self) -> None:
        assert self.checkpointer().run() is not None

    def rotate(self, new: SigningKey) -> None:
        assert self.checkpointer().rotate(new) is not None
        self.key = new

    def export(self) -> list[bytes]:
        return list(lines(self.store, events=self))


def usual_book(folder: Path, seed: int) -> Book:
    """170 events, six checkpoints, one change of the key, and a tail that none covers."""
    book = Book(folder, seed)
    for number in range(5):
        book.add(30)
        book.checkpoint()
        if number == 2:
            book.rotate(OTHER_KEY)
    book.add(20)
    return book


def write_large(path: Path, events: int, every: int) -> None:
    """A good export of many typical events (700 to 850 bytes), with a checkpoint after each `every`; nothing is kept."""
    heads, last = [EMPTY] * SHARDS, None
    action = {"action": "file_uploaded_via_stream", "outcome": "completed", "server_role": "services", "v": 1}
    names = {"user": "ana", "cohort": "VACS", "disk": "submissions", "file_type": "patient", "cleanup_required": False}
    stamp = "2025-01-01T00:00:00.000000Z"
    times = {"at": stamp, "stream_start": stamp, "stream_complete": stamp}
    with path.open("wb") as file:
        for first in range(0, events, every):
            count = min(every, events - first)
            for shard in range(SHARDS):
                for number in range(count * shard // SHARDS, count * (shard + 1) // SHARDS):
                    name = f"{first + number:032x}"
                    seq, prev = heads[shard].seq + 1, heads[shard].hash
                    ids = dict.fromkeys(("event_id", "tracking_id", "file_id", "upload_id", "request_id"), name)
                    where = {"shard": shard, "seq": seq, "prev_hash": prev, "bytes_transferred": number}
                    file_ = {
                        "file_path": f"submissions/VACS/2024/patient/{name}.csv",
                        "file_size": number,
                        "file_hash": prev,
                    }
                    event = resealed({**action, **names, **times, **ids, **where, **file_})
                    heads[shard] = Head(seq, event["hash"])
                    file.write(to_line(event))
            number, prev = (last.number + 1, last.hash()) if last else (1, GENESIS)
            last = Checkpoint(number, stamp, tuple(heads), prev, KEY.public)
            file.write(Signed(last, KEY.sign(CONTEXT + last.body())).line())


def check(lines: list[bytes], seen: Seen | None = None, copies: Iterator[bytes] | None = None) -> Fault | None:
    """What the verifier says to these lines."""
    run = Verifier(KEY.public, seen, copies)
    for line in lines:
        if fault := run.feed(line):
            return fault
    return run.end()


def seen_after(lines: list[bytes]) -> Seen:
    """What a good run over these lines remembers."""
    run = Verifier(KEY.public)
    for line in lines:
        assert run.feed(line) is None
    assert run.end() is None
    return Seen(KEY.public, run.number, run.hash, run.heads)


__all__ = [
    "KEY",
    "OTHER_KEY",
    "START",
    "Book",
    "check",
    "resealed",
    "seen_after",
    "to_line",
    "usual_book",
    "write_large",
]
