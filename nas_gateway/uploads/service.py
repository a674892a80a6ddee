"""The upload session behind the three-phase call: init, chunks, complete; every step survives the process.

State is in two tables (a row a session, a row a part) and on the NAS; any process can go on with any session. The order
of a chunk: part durable on the NAS -> part row and offset advanced, by conditional write on epoch and offset -> answered.
Imported by the internal API.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from chalicelib.errors import (
    DigestMismatch,
    FileMissing,
    InvalidRequest,
    LengthMismatch,
    OffsetConflict,
    PayloadTooLarge,
    UploadLost,
    UploadMissing,
    UploadStateConflict,
)
from chalicelib.limits import CHUNKED_ACTION_OVER_BYTES, LEASE_SECONDS, part_bytes_for
from chalicelib.storage.base import Part, PartStorage, Reader, SavedPath
from chalicelib.storage.streams import read_full
from nas_gateway.files import sessions
from nas_gateway.files.access import Call
from nas_gateway.files.placement import Placement
from nas_gateway.files.tables import State, TrackedFile, UploadSession
from nas_gateway.files.transfers import Transfers
from nas_gateway.files.watched import watch
from nas_gateway.ledger.events import Action, Intent

# A session nobody completes ends after a day; its path is free for others after a quarter of an hour without a chunk.
SESSION_SECONDS = 24 * 3600
PATH_HOLD_SECONDS = 15 * 60


@dataclass(frozen=True, slots=True)
class Status:
    """What a client is told of a session. `offset` bytes are safe; `expires_at` in epoch seconds."""

    upload_id: str
    offset: int
    chunk_bytes: int
    expires_at: int
    state: str
    size: int | None


class Uploads:
    """Sessions over the transfers' disks and ledger."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._hashes = RunningHashes()

    # --- phases ----------------------------------------------------------------------------------------------

    def init(
        self,
        call: Call,
        place: Placement,
        *,
        size: int | None = None,
        sha256: str | None = None,
        if_absent: bool = False,
    ) -> Status:
        """Record the intent and open a session. `size` in bytes where known. Raises as `Transfers.announce`."""
        storage = self._transfers.disk(place.disk)
        now = self._transfers.clock()
        session = UploadSession(
            upload_id=uuid.uuid4().hex,
            file_id=uuid.uuid4().hex,
            tracking_id=uuid.uuid4().hex,
            disk=place.disk,
            path=place.path,
            state=State.INTENT,
            owner=call.principal.username,
            created_at=now,
            expires_at=int(now + SESSION_SECONDS),
            part_bytes=part_bytes_for(size),
            cohort=place.cohort,
            size=size,
            sha256=sha256,
            if_absent=if_absent,
        )
        file, intent = self._transfers.announce(
            call,
            place,
            _action(size),
            if_absent=if_absent,
            hold_seconds=PATH_HOLD_SECONDS,
            upload_id=session.upload_id,
            size=size,
            file_id=session.file_id,
            tracking_id=session.tracking_id,
            also=lambda transaction: transaction.save(session),
        )
        try:
            handle = storage.create_parts(place.path, place.content_type, place.metadata)
            opened = [UploadSession.handle.set(handle), UploadSession.state.set(State.OPEN)]
            sessions.update(session, opened, UploadSession.state == State.INTENT)
        except BaseException as error:
            self._transfers.withdraw(file, intent, error, 0, also=sessions.ended(session, State.FAILED))
            raise
        return _status(session)

    def status(self, call: Call, upload_id: str) -> Status:
        """Where a session stands. Raises `UploadMissing`."""
        return _status(sessions.get(upload_id, call.principal))

    def chunk(self, call: Call, upload_id: str, offset: int, body: Reader) -> Status:
        """Append a chunk at `offset`; returns when its bytes are durable and the offset has advanced.

        What arrived in whole parts before a body broke stays acknowledged: the error is raised, `status` tells the truth.
        Raises `OffsetConflict`, `UploadInProgress` (another writer holds it), `LeaseLost`, `UploadLost`.
        """
        session = self._in_state(call, upload_id, State.OPEN)
        if offset != int(session.offset):
            raise OffsetConflict
        storage = self._transfers.disk(session.disk)
        body = watch(body, self._transfers.max_bytes)
        with sessions.leased(session, self._transfers.clock, renumber=storage.renumber_after_loss):
            body.every(LEASE_SECONDS / 3, lambda: sessions.renew(session, self._transfers.clock))
            while data := read_full(body, int(session.part_bytes)):
                self._store_part(session, storage, data)
        self._transfers.registry.renew(
            TrackedFile(session.file_id, disk=session.disk, path=session.path), PATH_HOLD_SECONDS
        )
        return _status(session)

    def complete(self, call: Call, upload_id: str, *, sha256: str | None = None) -> SavedPath:
        """Make the file visible and record the outcome; asking again after a lost answer gives the same answer.

        Raises `LengthMismatch`, `DigestMismatch`, `UploadLost`. The answer's `sha256` is empty when the chunks passed
        through several processes (hash states cannot be kept between calls); the integrity job fills it in.
        """
        session = self._in_state(call, upload_id, State.OPEN, State.COMPLETING, State.AVAILABLE)
        if session.state == State.AVAILABLE:
            file = self._transfers.registry.get(session.file_id)
            if file is None:
                raise UploadMissing
            return _saved(file)
        if session.size is not None and int(session.offset) != int(session.size):
            raise LengthMismatch("The upload is not complete yet. Ask for its status and send the rest.")
        file, intent = self._announced(session)
        # The outcome is recorded inside the lease: a repeated call must not find the parts gone and nothing recorded.
        with sessions.leased(session, self._transfers.clock):
            try:
                self._make_visible(session, file, sha256 or session.sha256)
            except (DigestMismatch, UploadLost) as error:
                state = State.FAILED if isinstance(error, DigestMismatch) else State.LOST
                self._end(session, state, file, intent, error)
                raise
            ended = sessions.ended(session, State.AVAILABLE)
            self._transfers.complete(file, intent, action=_action(int(file.size or 0)), also=ended)
        self._hashes.forget(upload_id)
        return _saved(file)

    def abort(self, call: Call, upload_id: str) -> None:
        """Discard a session and what it stored. One that has ended already is left as it is."""
        session = sessions.get(upload_id, call.principal)
        if session.state not in (State.INTENT, State.OPEN):
            return
        file, intent = self._announced(session)
        with sessions.leased(session, self._transfers.clock):
            error = UploadStateConflict("The upload was aborted by its sender.")
            self._end(session, State.ABORTED, file, intent, error)

    # --- steps -----------------------------------------------------------------------------------------------

    def _store_part(self, session: UploadSession, storage: PartStorage, data: bytes) -> None:
        offset, end = int(session.offset), int(session.offset) + len(data)
        if session.size is not None and end > int(session.size):
            raise LengthMismatch("More bytes arrived than the size that was announced. The rest was not kept.")
        if end > self._transfers.max_bytes:
            raise PayloadTooLarge(f"The largest file taken here is {self._transfers.max_bytes} bytes.")
        if session.closed or (len(data) < storage.min_part_bytes and session.size not in (None, end)):
            raise InvalidRequest(f"Every chunk but the last must hold at least {storage.min_part_bytes} bytes.")
        handle = str(session.handle)
        part = storage.write_part(session.path, handle, int(session.parts) + 1, offset, data)
        sessions.advance(session, part, closes=len(data) < storage.min_part_bytes, clock=self._transfers.clock)
        self._hashes.feed(session.upload_id, offset, data)

    def _make_visible(self, session: UploadSession, file: TrackedFile, expected: str | None) -> None:
        storage = self._transfers.disk(session.disk)
        parts = sessions.parts(session.upload_id)
        size = int(session.offset)
        known = parts[0].sha256 if len(parts) == 1 else self._hashes.at(session.upload_id, size)
        if expected and known and known != expected:
            raise DigestMismatch
        again = session.state == State.COMPLETING
        completing = [UploadSession.state.set(State.COMPLETING)]
        sessions.update(session, completing, UploadSession.state.is_in(State.OPEN, State.COMPLETING))
        try:
            info = storage.complete_parts(session.path, str(session.handle), parts, sha256=known)
        except UploadLost:
            # A crash after the store had made it visible leaves exactly this; only the bytes themselves prove it.
            if not again or not _holds(storage, session.path, parts):
                raise
            info = storage.get_metadata(session.path)
        if info.size != size:
            raise UploadLost("What the storage assembled has another size than what was sent. It was not recorded.")
        if expected and not known:
            known = _read_back(storage, session.path)
            if known != expected:
                storage.delete(session.path)
                raise DigestMismatch
        file.size, file.sha256, file.etag = size, known, info.etag
        file.parts_sha256 = parts_sha256(parts)

    def _end(self, session: UploadSession, state: str, file: TrackedFile, intent: Intent, error: BaseException) -> None:
        """The session is over without a file: discard on the NAS first, so that a crash in between leaves it open."""
        if session.handle:
            self._transfers.disk(session.disk).abort_parts(session.path, session.handle)
        moved = int(session.offset)
        self._transfers.withdraw(file, intent, error, moved, state=state, also=sessions.ended(session, state))
        self._hashes.forget(session.upload_id)

    def _in_state(self, call: Call, upload_id: str, *states: str) -> UploadSession:
        session = sessions.get(upload_id, call.principal)
        if session.state in (State.ABORTED, State.FAILED, State.LOST):
            raise UploadMissing
        if session.state not in states or session.expires_at < self._transfers.clock():
            raise UploadStateConflict(f"The upload is {session.state}. Ask for its status.")
        return session

    def _announced(self, session: UploadSession) -> tuple[TrackedFile, Intent]:
        file = self._transfers.registry.get(session.file_id)
        intent = self._transfers.ledger.open_intent(session.tracking_id)
        if file is None or intent is None:
            raise UploadMissing
        return file, intent


class RunningHashes:
    """Whole-file SHA-256 of sessions whose chunks all come to this process; an opportunity, never relied upon.

    At most 256 sessions; one that is dropped, or whose chunks went elsewhere in between, has no hash here.
    """

    def __init__(self, limit: int = 256) -> None:
        self._lock, self._limit = Lock(), limit
        self._running: OrderedDict[str, tuple[int, hashlib._Hash]] = OrderedDict()

    def feed(self, upload_id: str, offset: int, data: bytes) -> None:
        with self._lock:
            at, digest = self._running.pop(upload_id, (0, hashlib.sha256()))
        if at != offset:
            return
        digest.update(data)
        with self._lock:
            self._running[upload_id] = (offset + len(data), digest)
            while len(self._running) > self._limit:
                self._running.popitem(last=False)

    def at(self, upload_id: str, offset: int) -> str | None:
        """The hash of the first `offset` bytes, or None."""
        if offset == 0:
            return hashlib.sha256().hexdigest()
        with self._lock:
            at, digest = self._running.get(upload_id, (0, None))
        return digest.hexdigest() if digest is not None and at == offset else None

    def forget(self, upload_id: str) -> None:
        with self._lock:
            self._running.pop(upload_id, None)


def parts_sha256(parts: list[Part]) -> str:
    """SHA-256 over the parts' digests, and their count: what can be said of a file that nobody saw in one stream."""
    whole = hashlib.sha256(b"".join(bytes.fromhex(part.sha256) for part in parts))
    return f"{whole.hexdigest()}-{len(parts)}"


def _holds(storage: PartStorage, path: str, parts: list[Part]) -> bool:
    """Whether the file at a path is made of these parts and nothing else, by reading it and comparing their digests."""
    try:
        with storage.open(path) as download:
            same = all(hashlib.sha256(read_full(download, part.size)).hexdigest() == part.sha256 for part in parts)
            return same and not download.read(1)
    except FileMissing:
        return False


def _read_back(storage: PartStorage, path: str) -> str:
    digest = hashlib.sha256()
    with storage.open(path) as download:
        for block in download:
            digest.update(block)
    return digest.hexdigest()


def _action(size: int | None) -> str:
    large = (size or 0) > CHUNKED_ACTION_OVER_BYTES
    return Action.FILE_UPLOADED_CHUNKED if large else Action.FILE_UPLOADED_VIA_STREAM


def _status(session: UploadSession) -> Status:
    return Status(
        upload_id=session.upload_id,
        offset=int(session.offset),
        chunk_bytes=int(session.part_bytes),
        expires_at=int(session.expires_at),
        state=session.state,
        size=None if session.size is None else int(session.size),
    )


def _saved(file: TrackedFile) -> SavedPath:
    return SavedPath(
        file.path,
        size=int(file.size or 0),
        sha256=file.sha256 or "",
        etag=file.etag or "",
        tracking_id=file.tracking_id,
        file_id=file.file_id,
    )
