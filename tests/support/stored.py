"""Stored files, what can become of their bytes behind Depot's back, and an integrity check over them. For tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from chalicelib.storage.base import Download
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.files.access import Call
from nas_gateway.files.checks import bucket_of
from nas_gateway.files.placement import place
from nas_gateway.files.registry import claim_key
from nas_gateway.files.tables import PathClaim, State, TrackedFile
from nas_gateway.integrity.integrity import Integrity
from nas_gateway.ledger import queries
from tests.support.crash import World
from tests.support.sender import Sender

PERIOD_DAYS = 30.0
DAY = 86400.0


class Countdown:
    """A deadline that is over after so many looks at it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def over(self) -> bool:
        self.looks -= 1
        return self.looks < 0


class Watching:
    """A store that does something when a file's block number `at` (from 1) has been read. Everything else passes."""

    def __init__(self, store: Any, act: Callable[[], None], at: int = 1) -> None:
        self._store, self._act, self._at, self.opened = store, act, at, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open(self, path: str, range: Any = None) -> Download:
        self.opened.append(f"{path} {range.start if range else 0}")
        download, real, blocks = self._store.open(path, range), None, 0
        real = download.read

        def read(size: int = -1, /) -> bytes:
            nonlocal blocks
            block = real(size)
            blocks += 1
            if blocks == self._at:
                self._act()
            return bytes(block)

        download.read = read
        return download  # type: ignore[no-any-return]


def check_of(world: World, **values: Any) -> Integrity:
    """An integrity check in a process of its own, which reads as fast as it can."""
    values = {"period_days": PERIOD_DAYS, "rate": float("inf"), **values}
    return Integrity(world.process().transfers, **values)


def file_id_of(world: World, name: str, data: bytes, disk: str = "submissions") -> str:
    """Store a file in one stream."""
    where = place(disk, f"submissions/VACS/2024/patient/{name}")
    saved = world.process().transfers.upload(Call(), where, BytesReader(data))
    return str(saved.file_id)


def in_parts(world: World, name: str, data: bytes, part_bytes: int) -> str:
    """Store a file by a session whose pieces come to different processes, so that nobody sees it whole."""
    path = f"submissions/VACS/2024/patient/{name}"
    sender = Sender(world, data, NewUpload(disk="submissions", path=path), (part_bytes,), part_bytes=part_bytes)
    status = sender.begin(world.process())
    while status.state != "AVAILABLE":
        status = sender.step(world.process(), status)
    assert row(sender.upload_id).sha256 is None
    return sender.upload_id


def row(file_id: str) -> TrackedFile:
    return TrackedFile.get(file_id, consistent_read=True)


def claim(file_id: str) -> PathClaim:
    file = row(file_id)
    return PathClaim.get(claim_key(file.disk, file.path), consistent_read=True)


def change(store: Any, path: str, data: bytes) -> None:
    """Other bytes for a file of a `MemoryStorage`, with everything that it says of itself as before: rot on the disk."""
    info, _ = store._files[path]
    store._files[path] = (info, data)


def flipped(data: bytes, chance: random.Random) -> bytes:
    """One bit is another."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def events(file_id: str, *actions: str) -> list[Any]:
    found = queries.query(file_id=file_id, limit=1000).events
    return [event for event in found if event.action in actions or not actions]


def only(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts that are not 0, but the bytes."""
    return {name: count for name, count in counts.items() if count and name != "bytes"}


# --- many of them, and what becomes of some ---------------------------------------------------------------------------

KINDS = ("flipped", "truncated", "swapped", "deleted")


def planted(world: World, store: Any, count: int, chance: random.Random) -> dict[str, bytes]:
    """So many stored files and the rows that uploads of them would leave, by file id; all of them due.

    The rows are put as they are: an upload of each would take moto a minute a thousand.
    """
    files = dict[str, bytes]()
    with TrackedFile.batch_write() as rows, PathClaim.batch_write() as claims:
        for number in range(count):
            file_id, data = f"{chance.getrandbits(128):032x}", chance.randbytes(chance.randint(2, 3000))
            where = place(store.disk, f"submissions/VACS/2024/patient/{number:05d}.csv")
            saved = store.save(where.path, data)
            rows.save(
                TrackedFile(
                    file_id=file_id,
                    tracking_id=file_id,
                    disk=store.disk,
                    path=where.path,
                    filename=where.filename,
                    state=State.AVAILABLE,
                    purpose=where.purpose.value,
                    owner="service",
                    cohort="VACS",
                    created_at=world.now,
                    updated_at=world.now,
                    size=len(data),
                    sha256=saved.sha256,
                    etag=saved.etag,
                    check_bucket=bucket_of(file_id),
                    check_due=world.now - 1,
                )
            )
            claims.save(PathClaim(claim_key(store.disk, where.path), file_id=file_id))
            files[file_id] = data
    return files


def damage(
    files: Mapping[str, bytes], count: int, chance: random.Random, write: Callable[[str, bytes | None], None]
) -> set[str]:
    """Flip, truncate, swap or delete so many (a multiple of 8) of them, in equal shares; which they are.

    `write` puts bytes (None: takes them away) at a path.
    """
    chosen = chance.sample(sorted(files), count)
    for number, file_id in enumerate(chosen):
        data, path, kind = files[file_id], row(file_id).path, KINDS[number * len(KINDS) // count]
        if kind == "flipped":
            write(path, flipped(data, chance))
        elif kind == "truncated":
            write(path, data[: chance.randrange(len(data))])
        elif kind == "swapped":
            # Two neighbours among the chosen have each other's bytes.
            write(path, files[chosen[number ^ 1]])
        else:
            write(path, None)
    return set(chosen)
