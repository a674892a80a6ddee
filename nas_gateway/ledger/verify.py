"""Checks an exported ledger offline: every event, every chain, every signed checkpoint; streaming, in constant memory.

    python verify.py FILE --public-key KEY [--state FILE] [--checkpoints FILE]      (or: depot ledger verify …)

This file can be copied out and run alone: it imports the standard library and `cryptography`, and nothing of Depot (a test
holds it to that). `docs/ledger-format.md` says what it checks. Exit code 0: whole; 1: not; 2: wrong use.
The rest of the ledger takes the format of checkpoints from here.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

VERSION: Final = 1
SHARDS: Final = 16
GENESIS: Final = "0" * 64
# What is signed is this and the checkpoint's canonical bytes: the key's signatures cannot be taken for anything else's.
CONTEXT: Final = b"depot ledger checkpoint v1\n"
# Bytes. The longest event that can be recorded has some 20 KiB; a longer line must not fill the memory.
MAX_LINE: Final = 4 * 1024 * 1024


class Head(NamedTuple):
    """The last event of a shard: its number and its hash. `(0, GENESIS)` before the first."""

    seq: int
    hash: str


EMPTY: Final = Head(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong: an event (shard, seq) or a checkpoint, why, and the line. Holds no content."""

    shard: int
    seq: int
    reason: str
    checkpoint: int | None = None
    line: int = 0

    def __str__(self) -> str:
        what = f"shard {self.shard}, seq {self.seq}" if self.checkpoint is None else f"checkpoint {self.checkpoint}"
        return f"{what}: {self.reason}" + (f" (line {self.line})" if self.line else "")


# --- the form of an event's line: the canonical form of docs/ledger-format.md, and nothing else ---------------------

_PLAIN = r"[ !#-\[\]-\xff]*+"  # all but control characters, quotation marks and backslashes; faster than their negation
_TEXT = rf'"{_PLAIN}(?:\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f])){_PLAIN})*+"'
_TIME = r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"'
_COUNT = r"(?:0|[1-9]\d{0,15})"
_MAP = rf"\{{{_TEXT}:{_TEXT}(?:,{_TEXT}:{_TEXT})*+\}}"
_HASH = '"([0-9a-f]{64})"'
# Name, form, whether every event has it; in the order of the line.
FIELDS: Final = (
    ("action", _TEXT, True), ("at", _TIME, True), ("bytes_transferred", _COUNT, True),
    ("cleanup_required", "(?:true|false)", True), ("cleanup_scheduled_for", _TIME, False), ("cohort", _TEXT, False),
    ("content_object", _TEXT, False), ("disk", _TEXT, False), ("error_code", _TEXT, False),
    ("error_message", _TEXT, False), ("event_id", _TEXT, True), ("expected_cleanup_by", _TIME, False),
    ("file_hash", _TEXT, False), ("file_id", _TEXT, False), ("file_path", _TEXT, False), ("file_size", _COUNT, False),
    ("file_type", _TEXT, False), ("hash", _HASH, True), ("metadata", _MAP, False), ("outcome", _TEXT, True),
    ("prev_hash", _HASH, True), ("request_id", _TEXT, False), ("seq", f"({_COUNT})", True),
    ("server_role", _TEXT, True), ("shard", r"(1[0-5]|\d)", True), ("stream_complete", _TIME, False),
    ("stream_start", _TIME, False), ("tracking_id", _TEXT, True), ("upload_id", _TEXT, False), ("user", _TEXT, False),
)  # fmt: skip


def _field(name: str, form: str, always: bool) -> str:
    pair = f'"{name}":{form},'
    return f"({pair})" if name == "hash" else pair if always else f"(?:{pair})?+"


# Groups: 1 the field `hash` with its comma, 2 hash, 3 prev_hash, 4 seq, 5 shard.
@functools.cache
def _event() -> Callable[[bytes], re.Match[bytes] | None]:
    form = rf'\{{{"".join(_field(*each) for each in FIELDS)}"v":{VERSION}\}}\n'
    return re.compile(form.encode(), re.ASCII).fullmatch


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def sealed(line: bytes) -> tuple[int, Head] | None:
    """Shard and head of one event's line, if it is one whose content matches its hash."""
    found = _event()(line)
    if found is None:
        return None
    start, end = found.span(1)
    _, digest, _, seq, shard = (group.decode() for group in found.groups())
    if hashlib.sha256(line[:start] + line[end:-1]).hexdigest() != digest:
        return None
    return int(shard), Head(int(seq), digest)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All heads at one time, signed. Keys are raw Ed25519 public keys in base64; `next_key` only where the key changes."""

    number: int
    at: str
    heads: tuple[Head, ...]
    prev: str
    key: str
    next_key: str | None = None

    def body(self) -> bytes:
        """The canonical bytes: what is hashed, and after `CONTEXT` what is signed."""
        values: dict[str, Any] = {
            "v": VERSION, "number": self.number, "at": self.at, "key": self.key, "prev": self.prev,
            "heads": [[shard, *head] for shard, head in enumerate(self.heads)],
        }  # fmt: skip
        return _encode(values if self.next_key is None else {**values, "next_key": self.next_key}).encode()

    def hash(self) -> str:
        return hashlib.sha256(self.body()).hexdigest()


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint with its signatures (base64): by its key, and by `next_key` where it names one."""

    checkpoint: Checkpoint
    signature: str
    countersignature: str | None = None

    def line(self) -> bytes:
        """As it is stored and exported: one line of canonical JSON, with its end."""
        second = b"" if self.countersignature is None else b'"countersignature":"%s",' % self.countersignature.encode()
        return b'{"checkpoint":%s,%s"signature":"%s"}\n' % (self.checkpoint.body(), second, self.signature.encode())

    def genuine(self) -> bool:
        """Whether the signatures are those of the keys that it names. (Who trusts the key is another question.)"""
        message, named = CONTEXT + self.checkpoint.body(), self.checkpoint.next_key
        if named is None:
            return self.countersignature is None and _signed(self.checkpoint.key, self.signature, message)
        return _signed(self.checkpoint.key, self.signature, message) and _signed(
            named, self.countersignature or "", message
        )


def _raw(text: str) -> bytes:
    """The bytes of base64 that is written in the one right way (unused bits are zero). Raises `ValueError`."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("not canonical base64")
    return raw


def _signed(key: str, signature: str, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(_raw(key)).verify(_raw(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_checkpoint(line: bytes) -> Signed:
    """The reverse of `Signed.line`, to the byte. Raises `ValueError`. Signatures are not looked at."""
    try:
        outer = json.loads(line)
        inner = outer["checkpoint"]
        heads = tuple(Head(int(seq), str(digest)) for _, seq, digest in inner["heads"])
        made = Checkpoint(
            int(inner["number"]), str(inner["at"]), heads, str(inner["prev"]), str(inner["key"]), inner.get("next_key")
        )
        signed = Signed(made, str(outer["signature"]), outer.get("countersignature"))
        # Made again from what was understood, it must be the same: nothing else is in there, nothing in another form.
        good = len(heads) == SHARDS and re.fullmatch(_TIME, f'"{made.at}"', re.ASCII) and signed.line() == line
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        good = False
    if not good:
        raise ValueError("is not in the form of a checkpoint")
    return signed


# --- what an earlier run saw ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """The end of the ledger as an earlier run saw it, and the key that it was checked with."""

    key: str
    number: int = 0
    hash: str = GENESIS
    heads: tuple[Head, ...] = (EMPTY,) * SHARDS

    @classmethod
    def load(cls, path: Path) -> Seen | None:
        """None when there is no such file. Raises `ValueError` when it is no state file."""
        try:
            found = json.loads(path.read_bytes())
            heads = tuple(Head(int(seq), str(digest)) for seq, digest in found["heads"])
            if len(heads) == SHARDS and found["v"] == VERSION:
                return cls(str(found["key"]), int(found["number"]), str(found["hash"]), heads)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            pass
        raise ValueError("the state file is not one of this program's")

    def save(self, path: Path) -> None:
        """In one step: a crash leaves the old state or the new."""
        values = {"v": VERSION, "key": self.key, "number": self.number, "hash": self.hash, "heads": self.heads}
        new = path.with_name(path.name + ".new")
        with new.open("w") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


# --- the check ------------------------------------------------------------------------------------------------------


class Verifier:
    """Takes the lines of an export in order. Memory does not grow with them.

    `key` is the public key (base64) that signed checkpoint 1; the chain of keys is followed from there. `seen`: what an
    earlier run saw. `copies`: the lines of the checkpoints as they are kept elsewhere, from any of them on, without gaps.
    `heads`: where to begin.
    """

    def __init__(
        self, key: str, seen: Seen | None = None, copies: Iterator[bytes] | None = None, heads: Sequence[Head] = ()
    ) -> None:
        self.key, self._match = key, _event()
        self.lines = self.number = 0
        self.hash, self.at = GENESIS, ""
        self._seen = seen or Seen(key)
        self._copies, self._first_copy = _from_first(copies)
        self._signed = list(heads) or [EMPTY] * SHARDS  # the heads at the last checkpoint
        self._seqs = [head.seq for head in self._signed]
        self._hashes = [head.hash.encode() for head in self._signed]
        self._watched = [head.seq for head in self._seen.heads]
        self._before = sum(self._seqs)
        self._shard = 0  # within a stretch between two checkpoints, shards ascend

    @property
    def heads(self) -> tuple[Head, ...]:
        return tuple(Head(seq, digest.decode()) for seq, digest in zip(self._seqs, self._hashes, strict=True))

    def feed(self, line: bytes) -> Fault | None:
        """Check one line (with its end). After a fault, nothing more should be fed."""
        return self.feed_all((line,))

    def feed_all(self, lines: Iterable[bytes]) -> Fault | None:
        """Check lines up to the first fault. This loop is where the time goes: hence the local names."""
        match, sha256, seqs, hashes, watched = self._match, hashlib.sha256, self._seqs, self._hashes, self._watched
        for line in lines:
            self.lines += 1
            found = match(line)
            if found is None or not (line.isascii() or _is_utf8(line)):
                checkpoint = line.startswith(b'{"checkpoint":')
                if fault := self._checkpoint(line) if checkpoint else self._malformed(line):
                    return fault
                continue
            digest, prev, seq_text, shard_text = found.group(2, 3, 4, 5)
            seq, shard = int(seq_text), int(shard_text)
            start, end = found.span(1)
            if (
                seq != seqs[shard] + 1
                or prev != hashes[shard]
                or shard < self._shard
                or sha256(line[:start] + line[end:-1]).hexdigest() != digest.decode()
            ):
                return self._wrong(shard, seq, prev)
            if seq == watched[shard] and digest.decode() != self._seen.heads[shard].hash:
                return Fault(shard, seq, "is not the event that was seen here before", line=self.lines)
            seqs[shard], hashes[shard], self._shard = seq, digest, shard
        return None

    @property
    def events(self) -> int:
        """How many good events there were."""
        return sum(self._seqs) - self._before

    @property
    def unprotected(self) -> int:
        """How many of them the last checkpoint does not cover."""
        return sum(self._seqs) - sum(head.seq for head in self._signed)

    def _wrong(self, shard: int, seq: int, prev: bytes) -> Fault:
        expected = self._seqs[shard] + 1
        if shard < self._shard:
            return Fault(shard, seq, "out of order", line=self.lines)
        if seq > expected:
            return Fault(shard, expected, "missing", line=self.lines)
        if seq < expected:
            return Fault(shard, seq, "out of order or doubled", line=self.lines)
        if prev != self._hashes[shard]:
            return Fault(shard, seq, "does not follow the event before it", line=self.lines)
        return Fault(shard, seq, "content does not match its hash", line=self.lines)

    def _malformed(self, line: bytes) -> Fault:
        """What cannot be read as an event is named by what it says of its place, or else by the place it stands at."""
        shards, seqs = re.findall(rb'"shard":(1[0-5]|\d)\b', line), re.findall(rb'"seq":(\d{1,16})\b', line)
        shard = int(shards[-1]) if shards else self._shard
        seq = int(seqs[-1]) if seqs else self._seqs[shard] + 1
        if not line.endswith(b"\n"):
            reason = "the line is too long" if len(line) >= MAX_LINE else "the file ends within a line"
            return Fault(shard, seq, reason, line=self.lines)
        try:
            version = json.loads(line)["v"]
        except (ValueError, TypeError, KeyError, RecursionError):
            version = None
        odd = version is not None and version != VERSION
        return Fault(shard, seq, "unknown version" if odd else "has no canonical form", line=self.lines)

    def _checkpoint(self, line: bytes) -> Fault | None:
        expected = self.number + 1
        try:
            signed = parse_checkpoint(line)
        except ValueError as error:
            return self._bad(expected, str(error))
        found = signed.checkpoint
        if found.number != expected:
            return self._bad(expected, "missing" if found.number > expected else "out of order or doubled")
        if found.key != self.key:
            return self._bad(expected, "is not signed by the key that should have signed it")
        if not signed.genuine():
            return self._bad(expected, "its signature is wrong")
        if found.prev != self.hash or found.at < self.at:
            return self._bad(expected, "does not follow the checkpoint before it")
        if self._copies is not None and expected >= self._first_copy and next(self._copies, line) != line:
            return self._bad(expected, "differs from the one that is kept elsewhere")
        if fault := self._compare(found):
            return fault
        self.number, self.hash, self.at = expected, found.hash(), found.at
        if expected == self._seen.number and self.hash != self._seen.hash:
            return self._bad(expected, "is not the checkpoint that was seen before")
        self.key = found.next_key or self.key
        self._signed, self._shard = list(found.heads), 0
        return None

    def _bad(self, number: int, reason: str) -> Fault:
        return Fault(-1, -1, reason, number, self.lines)

    def _compare(self, found: Checkpoint) -> Fault | None:
        """The heads as they were signed against those of the events so far."""
        for shard, (signed, seq, digest) in enumerate(zip(found.heads, self._seqs, self._hashes, strict=True)):
            if signed.seq > seq:
                return Fault(shard, seq + 1, f"missing: checkpoint {found.number} covers it", line=self.lines)
            if signed.seq < seq:
                reason = f"stands before checkpoint {found.number}, which does not cover it"
                return Fault(shard, signed.seq + 1, reason, line=self.lines)
            if signed.hash != digest.decode():
                first = self._signed[shard].seq + 1
                reason = f"it, or one after it up to seq {seq}, is not what checkpoint {found.number} signed"
                return Fault(shard, first, reason, line=self.lines)
        return None

    def end(self) -> Fault | None:
        """What only the end of the file can show: that it came too soon."""
        if self._copies is not None and next(self._copies, None) is not None:
            number = max(self.number + 1, self._first_copy)
            return Fault(-1, -1, "missing: it is kept elsewhere, and the file ends before it", number)
        if self.number < self._seen.number:
            reason = "missing: it was seen before, so this is an old copy, or one whose end was cut off"
            return Fault(-1, -1, reason, self.number + 1)
        for shard, seq in enumerate(self._seqs):
            if seq < self._watched[shard]:
                return Fault(shard, seq + 1, "missing: it was seen before, so the end of this chain was cut off")
        return None


def _from_first(copies: Iterator[bytes] | None) -> tuple[Iterator[bytes] | None, int]:
    """The copies, and the number of the first: who downloads them now and then has files that begin anywhere."""
    first = next(copies, None) if copies is not None else None
    if copies is None or first is None:
        return copies, 1
    try:
        number = parse_checkpoint(first).checkpoint.number
    except ValueError:
        number = 1  # it differs from whatever stands there
    return itertools.chain([first], copies), number


def _is_utf8(line: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        line.decode()
        return True
    return False


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `unprotected` events came after checkpoint `number` of time `at` (0 and "": there is none)."""

    events: int
    number: int
    at: str
    unprotected: int
    heads: tuple[Head, ...]
    seen: Seen = field(repr=False)
    fault: Fault | None = None

    @property
    def ok(self) -> bool:
        return self.fault is None

    def to_json(self) -> dict[str, Any]:
        fault = self.fault and {name: getattr(self.fault, name) for name in Fault.__slots__}
        kept = ("events", "number", "at", "unprotected")
        return {"ok": self.ok, **{name: getattr(self, name) for name in kept}, "fault": fault}

    def text(self) -> str:
        """For people, whole sentences."""
        after = f"after checkpoint {self.number} of {self.at}" if self.number else "(there is no checkpoint)"
        if self.fault is not None:
            return f"NOT WHOLE. {self.fault}\n{self.events} events and {self.number} checkpoints before it are good."
        first = f"Whole: {self.events} events and {self.number} checkpoints."
        if not self.unprotected:
            return (
                f"{first}\nAll of it is protected by checkpoint {self.number} of {self.at}." if self.number else first
            )
        return f"{first}\n{self.unprotected} events {after} are not protected: whoever can write to the table could change them."


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, none longer than `MAX_LINE`."""
    return iter(lambda: file.readline(MAX_LINE), b"")


def verify(path: Path, key: str, *, seen: Seen | None = None, checkpoints: Path | None = None) -> Report:
    """Check an export. `key` as `public_key` gives it; `checkpoints` is a file of checkpoint lines from their own store.

    Raises `OSError`. Nothing is written: `report.seen` is what to give the next run, if the report is good.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        copies = lines_of(stack.enter_context(checkpoints.open("rb"))) if checkpoints else None
        run = Verifier(key, seen, copies)
        fault = run.feed_all(lines_of(file)) or run.end()
    now = Seen(key, run.number, run.hash, run.heads)
    return Report(run.events, run.number, run.at, run.unprotected, run.heads, now, fault)


# --- the command ----------------------------------------------------------------------------------------------------


def public_key(text: str) -> str:
    """A public key as base64 of its 32 bytes, from that, from hex, from PEM, or from a file that holds one of them.

    Raises `ValueError`.
    """
    text = text.strip()
    if not text.startswith("-----") and not re.fullmatch(r"[0-9a-fA-F]{64}|[A-Za-z0-9+/]{43}=", text):
        try:
            text = Path(text).read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError("--public-key is neither a key nor a file that can be read") from None
    try:
        if text.startswith("-----"):
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
            from cryptography.hazmat.primitives.serialization import load_pem_public_key

            loaded = load_pem_public_key(text.encode())
            raw = loaded.public_bytes_raw() if isinstance(loaded, Ed25519PublicKey) else b""
        else:
            raw = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != 32:
        raise ValueError("--public-key is no Ed25519 public key (base64, hex or PEM)")
    return base64.b64encode(raw).decode()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="what 'depot ledger export' wrote")
    parser.add_argument("--public-key", required=True, metavar="KEY", help="base64, hex, PEM, or a file that holds it")
    parser.add_argument("--state", type=Path, metavar="FILE", help="remembers what was seen: an older copy is found")
    parser.add_argument(
        "--checkpoints", type=Path, metavar="FILE", help="checkpoints from their own store, as downloaded"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """The command, with its options parsed; the exit code."""
    try:
        key = public_key(options.public_key)
        seen = Seen.load(options.state) if options.state else None
        if seen is not None and seen.key != key:
            raise ValueError("the state file was made with another public key")
        report = verify(options.file, key, seen=seen, checkpoints=options.checkpoints)
        if report.ok and options.state:
            report.seen.save(options.state)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"verify: {error}\n")
        return 2
    sys.stdout.write((json.dumps(report.to_json()) if options.json else report.text()) + "\n")
    return 0 if report.ok else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="verify", description="Check an exported Depot ledger.")
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
