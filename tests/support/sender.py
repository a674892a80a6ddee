"""A client of upload sessions as tus clients are: asks where its upload stands, goes on from there, gives up on nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from chalicelib.errors import LeaseLost, LedgerUnavailable, OffsetConflict, StorageUnavailable, UploadInProgress
from chalicelib.storage.base import Reader
from chalicelib.storage.streams import BytesReader, IteratorReader
from chalicelib.storage.uploads import NewUpload, UploadStatus
from nas_gateway.files.access import Call
from nas_gateway.ledger.chain import verify_chain
from nas_gateway.ledger.events import Outcome
from nas_gateway.ledger.tables import OpenOperation
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.service import Uploads
from nas_gateway.uploads.sweep import Sweep
from nas_gateway.uploads.tables import UploadSession
from tests.support.crash import Crash, World
from tests.support.ledger_env import all_events

# What a client waits and asks again after.
PASSING = (StorageUnavailable, LedgerUnavailable, UploadInProgress, LeaseLost, OffsetConflict)
_T = TypeVar("_T")


def chunked(data: bytes) -> Reader:
    """A body whose length nobody says."""
    return IteratorReader([data[at : at + 30_000] for at in range(0, len(data), 30_000)])


@dataclass
class Sender:
    """Sends `data` in pieces of these sizes (the last is repeated). `part_bytes` makes a session's parts smaller."""

    world: World
    data: bytes
    new: NewUpload
    pieces: Sequence[int]
    deferred: bool = False
    part_bytes: int | None = None
    body: Callable[[bytes], Reader] = BytesReader
    upload_id: str = ""
    told: int = 0
    sent: int = 0
    status: UploadStatus | None = field(default=None)

    @property
    def announced(self) -> NewUpload:
        return replace(self.new, size=None if self.deferred else len(self.data))

    def go(self, uploads: Uploads) -> UploadStatus:
        """From wherever it stands to AVAILABLE."""
        status = self.begin(uploads)
        while status.state != "AVAILABLE":
            status = self.step(uploads, status)
        return status

    def begin(self, uploads: Uploads) -> UploadStatus:
        if self.upload_id:
            return self.check(uploads.status(Call(), self.upload_id, settle=True))
        status = uploads.create(Call(), self.announced)
        if self.part_bytes and status.state == "OPEN":
            self.shrink(status.upload_id)
        self.upload_id = status.upload_id
        return self.check(status)

    def step(self, uploads: Uploads, status: UploadStatus) -> UploadStatus:
        """The next chunk, or the announcement of the end."""
        if status.offset < len(self.data):
            size = self.pieces[min(self.sent, len(self.pieces) - 1)]
            self.sent += 1
            block = self.data[status.offset : status.offset + size]
            return self.check(uploads.append(Call(), self.upload_id, status.offset, self.body(block)))
        if status.size is None:
            uploads.declare_size(Call(), self.upload_id, len(self.data))
        return self.check(uploads.status(Call(), self.upload_id, settle=True))

    def shrink(self, upload_id: str) -> None:
        """Smaller parts for a session, so that a test has many of them in few bytes."""
        self.world.faults.paused = True
        UploadSession(upload_id).update([UploadSession.part_bytes.set(self.part_bytes)])
        self.world.faults.paused = False

    def check(self, status: UploadStatus) -> UploadStatus:
        """I1: what was told once stays."""
        assert status.offset >= self.told, f"told {self.told} before and {status.offset} now"
        self.told, self.status = status.offset, status
        return status


def until_done(world: World, act: Callable[[Uploads], _T], *, process: Uploads | None = None, attempts: int = 8) -> _T:
    """Do it again after every fault that passes, in a new process after a crash."""
    process = process or world.process()
    errors: list[BaseException] = []
    while len(errors) < attempts:
        try:
            return act(process)
        except Crash as crash:
            errors.append(crash)
            world.faults.revive()
            process = world.process()
            world.later()
        except PASSING as error:
            errors.append(error)
            world.later()
    raise AssertionError(f"still not done after {[type(error).__name__ for error in errors]}")


def check_stored(world: World, status: UploadStatus, data: bytes, disk: str = "submissions") -> None:
    """I2: the bytes on the NAS are the sender's, and what the receipt says of them is true."""
    assert (status.state, status.offset) == ("AVAILABLE", len(data))
    assert status.receipt is not None
    assert status.receipt.size == len(data)
    assert world.stores[disk].get_file(status.receipt.path) == data
    assert status.receipt.sha256 in (None, hashlib.sha256(data).hexdigest())


def check_ledger() -> None:
    """I4: the chains verify; one intent and one outcome for each operation; no outcome is missing."""
    events: list[dict[str, Any]] = list(all_events())
    assert verify_chain(events).ok
    begun = [event["tracking_id"] for event in events if event["outcome"] == Outcome.INTENT]
    ended = [event["tracking_id"] for event in events if event["outcome"] != Outcome.INTENT]
    assert len(set(begun)) == len(begun)
    assert sorted(begun) == sorted(ended)
    assert list(OpenOperation.scan()) == []


def sweep(world: World) -> None:
    """What the schedule does every five minutes, an hour later."""
    world.later(3600)
    uploads = world.process()
    report = Sweep(uploads, Concatenation(uploads), list(world.stores)).run()
    assert not report.failed


def check_no_residue(world: World) -> None:
    """I3: nothing but files, and no partial uploads among them."""
    if "scratch" in world.stores:
        assert list(world.stores["scratch"].list_files()) == []
    for store in world.stores.values():
        assert list(store.open_uploads()) == []
        assert list(store.list_tails()) == []
