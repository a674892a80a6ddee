"""The upload session's use-cases: create, append, complete, abort. Every step survives the process that makes it.

State is in the session's rows and on the NAS; any process can go on with any session. What this object keeps in memory
(running hashes, recent tails, who is writing) only saves work. Imported by the internal API and the wiring.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import suppress
from dataclasses import replace

from pynamodb.transactions import TransactWrite

from chalicelib.auth.policy import Principal
from chalicelib.errors import (
    ChecksumMismatch,
    DepotError,
    DigestMismatch,
    FileExists,
    InvalidRequest,
    LeaseLost,
    LengthMismatch,
    PayloadTooLarge,
    UploadEnded,
    UploadInProgress,
    UploadLost,
    UploadStateConflict,
)
from chalicelib.limits import CHECKED_CHUNK_BYTES, LEASE_SECONDS, MAX_PARTS, MIB, PRESIGN_MAX_SECONDS
from chalicelib.storage.base import PartStorage, Reader
from chalicelib.storage.streams import BytesReader, read_full
from chalicelib.storage.uploads import Checksum, NewUpload, Receipt, UploadStatus
from nas_gateway.files.access import Call
from nas_gateway.files.placement import Placement, Purpose, place
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.files.watched import Watched, watch
from nas_gateway.uploads import direct, keys, rows
from nas_gateway.uploads.finishing import Finisher, action_of
from nas_gateway.uploads.hashes import RunningHashes
from nas_gateway.uploads.tables import Kind, UploadSession
from nas_gateway.uploads.tails import Recent, Tails
from nas_gateway.uploads.writer import Writer

# The path of a session is free for others after a quarter of an hour without a chunk; it is held again with five minutes
# to spare.
PATH_HOLD_SECONDS, _HOLD_AGAIN_SECONDS = 15 * 60, 10 * 60
# A writer that has waited so long for its next byte is most likely cut off: a client that comes back may take over.
_SILENT_SECONDS = 2.0
_MAX_NOTE_BYTES = 8 * 1024


class Uploads:
    """Sessions over the transfers' disks and ledger. `lease` in seconds; `scratch_disk` takes partial uploads."""

    def __init__(self, transfers: Transfers, *, lease: float = LEASE_SECONDS, scratch_disk: str = "scratch") -> None:
        self.transfers, self.lease, self._scratch = transfers, lease, scratch_disk
        self.wait = rows.WAIT_SECONDS
        self.hashes = RunningHashes()
        self.finisher = Finisher(transfers, self.hashes, self.keep, lease / 3)
        self._recent = Recent()
        self._writing: dict[str, Watched] = {}

    # --- opening ------------------------------------------------------------------------------------------------------

    def create(self, call: Call, new: NewUpload) -> UploadStatus:
        """See `UploadSessions.create`. `new.disk` is the name of a disk."""
        session, receipt = self.open(call, new, _kind(new))
        return status_of(session, receipt)

    def open(
        self, call: Call, new: NewUpload, kind: str, *, sources: list[str] | None = None, again: bool = False
    ) -> tuple[UploadSession, Receipt | None]:
        """Open a session of any kind, or find the one that its idempotency key opened. `again`: it was tried before."""
        _check(new)
        key = keys.key_of(call.principal.username, new.idempotency_key)
        payload = keys.payload_of(new, sources)
        if key and (known := keys.find(key, payload, self.transfers.clock())) is not None:
            return self._known(call, known, new)
        upload_id = uuid.uuid4().hex
        where = self._place(new, upload_id)
        now = self.transfers.clock()
        session = rows.new_row(
            upload_id=upload_id,
            file_id=upload_id,  # so that who holds the path leads to the session
            tracking_id=uuid.uuid4().hex,
            disk=where.disk,
            path=where.path,
            state=State.INTENT,
            kind=kind,
            owner=call.principal.username,
            created_at=now,
            expires_at=int(now + rows.SESSION_SECONDS),
            hold_until=now + PATH_HOLD_SECONDS,
            lease_until=now + self.lease,  # until it is open
            part_bytes=direct.part_bytes(new),
            size=new.size,
            sha256=new.sha256,
            note=dict(new.note) or None,
            sources=sources,
        )
        saved = keys.saved(key, payload, session) if key else None

        def also(transaction: TransactWrite) -> None:
            transaction.save(session)
            if saved is not None:
                saved(transaction)

        try:
            file, intent = self.transfers.announce(
                call,
                where,
                action_of(new.size),
                if_absent=new.if_absent,
                hold_seconds=PATH_HOLD_SECONDS,
                upload_id=upload_id,
                size=new.size,
                file_id=session.file_id,
                tracking_id=session.tracking_id,
                also=also,
                unplaced=new.partial,
            )
        except (FileExists, UploadInProgress) as refused:
            # The same creation, sent twice at once: the other one was first.
            if key and (known := keys.find(key, payload, now)) is not None:
                return self._known(call, known, new)
            if not again and isinstance(refused, UploadInProgress) and self._cleared(call, where):
                return self.open(call, new, kind, sources=sources, again=True)
            raise
        try:
            self._begin(session, where)
        except LeaseLost:  # who took over goes on with it, or has ended it
            raise
        except BaseException as error:
            self.transfers.withdraw(file, intent, error, 0, also=rows.ended(session, State.FAILED))
            raise
        receipt = self.settle(call, upload_id) if new.size == 0 and kind != Kind.DIRECT else None
        return (session, receipt) if receipt is None else (rows.get(upload_id, call.principal), receipt)

    def _cleared(self, call: Call, where: Placement) -> bool:
        """Whether an upload of the same sender that never got a byte has made way for the next attempt.

        A client whose creation was answered into a broken connection knows no address of it, and creates again. (Going on
        with the old one instead could mix two files that differ only in their bytes.)
        """
        claim = self.transfers.registry.claim(where.disk, where.path)
        try:
            old = rows.get(claim.pending, call.principal) if claim is not None and claim.pending else None
            if (
                old is None
                or not old.note
                or int(old.offset)
                or old.kind != Kind.STREAM
                or old.owner != call.principal.username
            ):
                return False
            old = self.take(call, old.upload_id, (State.INTENT, State.OPEN), offset=0, wait=0)
        except DepotError:
            return False
        with rows.released(old):
            self.discard(old, State.ABORTED, UploadStateConflict("Its sender began the upload anew."))
        return True

    def _begin(self, session: UploadSession, where: Placement) -> None:
        storage = self.transfers.disk(where.disk)
        handle = storage.create_parts(where.path, where.content_type, where.metadata)
        try:
            rows.opened(session, handle)
        except LeaseLost:
            storage.abort_parts(where.path, handle)  # the one that the row names, if any, is another
            raise

    def _known(self, call: Call, upload_id: str, new: NewUpload) -> tuple[UploadSession, Receipt | None]:
        session = rows.get(upload_id, call.principal)
        if session.state == State.INTENT:
            # A crash before it was open; or the call that opens it is still at it, and holds it.
            session = self.take(call, upload_id, (State.INTENT, State.OPEN))
            with rows.released(session):
                if session.state == State.INTENT:
                    self._begin(session, self._place(new, upload_id))
        if _all_there(session):  # whose sender may take it for finished, so it has to be
            receipt = self.settle(call, upload_id)
            return rows.get(upload_id, call.principal), receipt
        return session, self.finisher.receipt(session) if session.state == State.AVAILABLE else None

    def _place(self, new: NewUpload, upload_id: str) -> Placement:
        if not new.partial:
            return place(new.disk, new.path, content_type=new.content_type, metadata=new.metadata)
        metadata = {**new.metadata, "purpose": Purpose.SCRATCH.value}
        return place(self._scratch, f"scratch/concat_{upload_id}/part", metadata=metadata)

    # --- asking -------------------------------------------------------------------------------------------------------

    def status(self, call: Call, upload_id: str, *, settle: bool = False) -> UploadStatus:
        """See `UploadSessions.status`."""
        session = rows.get(upload_id, call.principal)
        if settle and _all_there(session) and not rows.is_over(session, self.transfers.clock()):
            receipt = self.settle(call, upload_id)
            return status_of(rows.get(upload_id, call.principal), receipt)
        return status_of(session, self._finished(session))

    def _finished(self, session: UploadSession) -> Receipt | None:
        return self.finisher.receipt(session) if session.state == State.AVAILABLE else None

    # --- bytes --------------------------------------------------------------------------------------------------------

    def append(
        self,
        call: Call,
        upload_id: str,
        offset: int,
        body: Reader,
        *,
        checksum: Checksum | None = None,
        finish: bool = True,
    ) -> UploadStatus:
        """See `UploadSessions.append`. Without `finish`, a file that is all there waits for `complete`."""
        if checksum is not None:
            body = checked(body, checksum)
        try:
            session = self.take(call, upload_id, (State.OPEN,), offset=offset)
        except UploadStateConflict:
            if finish and not body.read(1):
                status = self.status(call, upload_id, settle=True)
                if status.offset == offset:
                    return status
            raise
        receipt = None
        with rows.released(session):
            if session.kind not in (Kind.STREAM, Kind.PARTIAL):
                raise UploadStateConflict("This upload takes no bytes here.")
            self.write(session, body, finish=finish)
            if session.state == State.COMPLETING:
                receipt = self.finisher.finish(session, None, again=False)
        return status_of(session, receipt)

    def take(
        self,
        call: Call,
        upload_id: str,
        states: tuple[str, ...],
        *,
        offset: int | None = None,
        wait: float | None = None,
    ) -> UploadSession:
        """Lease a session; see `rows.take`. A writer of this process that has fallen silent is asked to stop."""
        return rows.take(
            upload_id,
            call.principal,
            states,
            clock=self.transfers.clock,
            lease=self.lease,
            offset=offset,
            wait=self.wait if wait is None else wait,
            nudge=lambda: self._nudge(upload_id),
        )

    def write(self, session: UploadSession, body: Reader, *, finish: bool = True) -> None:
        """Take a body into a leased session, keeping lease and path while it arrives. See `Writer.write`."""
        storage = self.transfers.disk(session.disk)
        watched = watch(body, self.transfers.max_bytes)
        self._keep_path(session)
        watched.every(self.lease / 3, lambda: self.keep(session))
        writer = Writer(
            session,
            storage,
            Tails(storage, self._recent),
            self.hashes,
            lambda **values: rows.advance(session, clock=self.transfers.clock, lease=self.lease, **values),
            self.transfers.max_bytes,
        )
        self._writing[session.upload_id] = watched
        try:
            writer.write(watched, finish=finish)
        finally:
            self._writing.pop(session.upload_id, None)

    def keep(self, session: UploadSession) -> None:
        """Hold on to a leased session and its path. Raises `LeaseLost`."""
        rows.renew(session, self.transfers.clock, self.lease)
        self._keep_path(session)

    def keep_open(self, session: UploadSession) -> None:
        """Hold on to a session that nobody leases, and to its path, while presigned URLs are in use. Raises `LeaseLost`."""
        now = self.transfers.clock()
        if session.hold_until - now >= PRESIGN_MAX_SECONDS:
            return
        file = TrackedFile(session.file_id, disk=session.disk, path=session.path)
        self.transfers.registry.renew(file, 2 * PRESIGN_MAX_SECONDS)
        kept = [
            UploadSession.hold_until.set(now + 2 * PRESIGN_MAX_SECONDS),
            UploadSession.expires_at.set(int(now + rows.SESSION_SECONDS)),
        ]
        rows.update(session, kept, UploadSession.state == State.OPEN)

    def _keep_path(self, session: UploadSession) -> None:
        now = self.transfers.clock()
        if session.hold_until - now < _HOLD_AGAIN_SECONDS:
            file = TrackedFile(session.file_id, disk=session.disk, path=session.path)
            self.transfers.registry.renew(file, PATH_HOLD_SECONDS)
            session.hold_until = now + PATH_HOLD_SECONDS  # the row gets it with the next advance

    def _nudge(self, upload_id: str) -> None:
        writing = self._writing.get(upload_id)
        if writing is not None and writing.silent_seconds() > _SILENT_SECONDS:
            writing.interrupt()

    # --- ending -------------------------------------------------------------------------------------------------------

    def settle(self, call: Call, upload_id: str, *, sha256: str | None = None) -> Receipt:
        """Finish a session whose bytes are all there, whatever the call that brought them came to.

        Raises `LengthMismatch` where they are not.
        """
        try:
            session = self.take(call, upload_id, (State.OPEN, State.COMPLETING))
        except UploadStateConflict:
            # The call that brought the last bytes has finished it since we looked.
            receipt = self._finished(rows.get(upload_id, call.principal))
            if receipt is None:
                raise
            return receipt
        with rows.released(session):
            again = session.state == State.COMPLETING
            if not again and session.kind == Kind.DIRECT:
                direct.gather(self, session, self.storage(session))
            elif not again:
                self.write(session, BytesReader(b""))
            if session.state != State.COMPLETING:
                raise LengthMismatch("The upload is not complete yet. Ask for its status and send the rest.")
            try:
                return self.finisher.finish(session, sha256, again=again)
            except UploadStateConflict:
                if session.kind == Kind.DIRECT:  # a part was sent once more meanwhile: it is another one now
                    rows.reopened(session)
                raise

    def complete(self, call: Call, upload_id: str, *, sha256: str | None = None) -> UploadStatus:
        """See `UploadSessions.complete`. Where no size was announced, what has arrived is the file."""
        session = rows.get(upload_id, call.principal)
        if rows.is_over(session, self.transfers.clock()):
            raise UploadEnded
        if session.state != State.AVAILABLE:
            size = rows.size_of(session)
            if session.kind == Kind.DIRECT:
                pass  # only the store knows what has arrived
            elif size is None and session.state == State.OPEN:
                self.declare_size(call, upload_id, int(session.offset))
            elif size is not None and int(session.offset) != size:
                raise LengthMismatch("The upload is not complete yet. Ask for its status and send the rest.")
            self.settle(call, upload_id, sha256=sha256)
        return self.status(call, upload_id)

    def declare_size(self, call: Call, upload_id: str, size: int) -> UploadStatus:
        """See `UploadSessions.declare_size`."""
        if size > self.transfers.max_bytes:
            raise PayloadTooLarge(f"The largest file taken here is {self.transfers.max_bytes} bytes.")
        session = self.take(call, upload_id, (State.OPEN,))
        with rows.released(session):
            if rows.size_of(session) not in (None, size):
                raise UploadStateConflict("The upload's length was announced before, and it was another.")
            if size < session.offset:
                raise LengthMismatch("More bytes have arrived than this length. Ask for the upload's status.")
            left = -(-(size - int(session.offset)) // max(1, MAX_PARTS - int(session.parts) - 1))
            part_bytes = max(int(session.part_bytes), -(-left // MIB) * MIB)
            told = [
                UploadSession.size.set(size),
                UploadSession.part_bytes.set(part_bytes),
                *rows.letting_go(session),
            ]
            rows.update(session, told, UploadSession.epoch == session.epoch)
        return status_of(session, None)

    def abort(self, call: Call, upload_id: str) -> None:
        """See `UploadSessions.abort`."""
        session = rows.get(upload_id, call.principal)
        if session.state in (State.INTENT, State.OPEN, State.COMPLETING):
            try:
                session = self.take(call, upload_id, (State.INTENT, State.OPEN, State.COMPLETING))
            except UploadStateConflict:
                session = rows.get(upload_id, call.principal)  # finished since we looked
            else:
                with rows.released(session):
                    if session.state == State.COMPLETING and not self._in_store(session):
                        with suppress(UploadLost, DigestMismatch):  # it has ended then, and without a file
                            self.finisher.finish(session, None, again=True)
                        return
                    self.discard(session, State.ABORTED, UploadStateConflict("The upload was aborted by its sender."))
                return
        if session.kind == Kind.PARTIAL and session.state == State.AVAILABLE:
            self._take_back(call, session)

    def _in_store(self, session: UploadSession) -> bool:
        """Whether the store has yet to complete it. Otherwise its file may be visible by now, though nobody recorded it."""
        try:
            self.storage(session).list_parts(session.path, str(session.handle))
        except UploadLost:
            return False
        return True

    def _take_back(self, call: Call, session: UploadSession) -> None:
        """Delete the bytes of a finished partial upload, which no final one will want: nobody else can name them."""
        file = self.transfers.registry.get(session.file_id)
        if file is not None and file.state == State.AVAILABLE:
            # Who may upload in pieces need not be allowed to delete; the deletion is on their behalf all the same.
            on_behalf = replace(call, principal=Principal(call.principal.username, "superuser"))
            self.transfers.delete(on_behalf, file.disk, file.path)
        over = UploadSession.state.is_in(State.AVAILABLE, State.ABORTED)
        rows.update(session, [UploadSession.state.set(State.ABORTED)], over)

    def discard(self, session: UploadSession, state: str, error: BaseException) -> None:
        """End a leased session without a file; its tails go too."""
        tails = rows.tails(session)
        self.finisher.end(session, state, error)
        Tails(self.storage(session), self._recent).drop(session.upload_id, tails)

    def storage(self, session: UploadSession) -> PartStorage:
        return self.transfers.disk(session.disk)


def checked(body: Reader, checksum: Checksum) -> Reader:
    """The chunk, once it is all here and its digest matches. Raises `ChecksumMismatch`, `PayloadTooLarge`."""
    if checksum.algorithm not in ("sha1", "sha256"):
        raise InvalidRequest("A checksum is sha1 or sha256.")
    data = read_full(body, CHECKED_CHUNK_BYTES)
    if len(data) == CHECKED_CHUNK_BYTES and body.read(1):
        raise PayloadTooLarge(
            f"A chunk with a checksum holds at most {CHECKED_CHUNK_BYTES} bytes. Send smaller chunks."
        )
    # SHA-1 guards against damage on the way only; tus clients offer it and little else.
    if hashlib.new(checksum.algorithm, data, usedforsecurity=False).digest() != checksum.digest:
        raise ChecksumMismatch
    return BytesReader(data)


def status_of(session: UploadSession, receipt: Receipt | None) -> UploadStatus:
    """A session's row as its client is told."""
    return UploadStatus(
        upload_id=session.upload_id,
        offset=int(session.offset),
        size=rows.size_of(session),
        state=session.state,
        chunk_bytes=int(session.part_bytes),
        expires_at=int(session.expires_at),
        partial=session.kind == Kind.PARTIAL,
        note=session.note or {},
        receipt=receipt,
    )


def _all_there(session: UploadSession) -> bool:
    return (
        session.state in (State.OPEN, State.COMPLETING)
        and session.kind in (Kind.STREAM, Kind.PARTIAL)
        and int(session.offset) == rows.size_of(session)
    )


def _kind(new: NewUpload) -> str:
    if new.partial and new.direct:
        raise InvalidRequest("A partial upload cannot be a direct one.")
    return Kind.PARTIAL if new.partial else Kind.DIRECT if new.direct else Kind.STREAM


def _check(new: NewUpload) -> None:
    if new.size is not None and new.size < 0:
        raise InvalidRequest("size must be a whole number of bytes, or left out.")
    if len(json.dumps(dict(new.note)).encode()) > _MAX_NOTE_BYTES:
        raise InvalidRequest(f"The metadata of an upload takes at most {_MAX_NOTE_BYTES} bytes.")
