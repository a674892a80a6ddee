"""The upload session's use-cases: create, append, complete, abort. Every step survives the process that makes it.

State is in the session's rows and on the NAS; any process can go on with any session. What this object keeps in memory
(running hashes, recent tails, who is writing) only saves work. Imported by the internal API and the wiring.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace

from chalicelib.auth.policy import Principal
from chalicelib.errors import (
    ChecksumMismatch,
    DigestMismatch,
    ForwardedDiffers,
    InvalidRequest,
    LengthMismatch,
    PayloadTooLarge,
    UploadEnded,
    UploadLost,
    UploadStateConflict,
)
from chalicelib.limits import CHECKED_CHUNK_BYTES, LEASE_SECONDS, MAX_PARTS, MIB, PRESIGN_MAX_SECONDS
from chalicelib.storage.base import PartStorage, Reader
from chalicelib.storage.streams import BytesReader, read_full
from chalicelib.storage.uploads import Checksum, NewUpload, Receipt, UploadStatus
from nas_gateway.files.access import Call
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.files.watched import Watched, watch
from nas_gateway.uploads import direct, rows
from nas_gateway.uploads.finishing import Finisher
from nas_gateway.uploads.hashes import RunningHashes
from nas_gateway.uploads.opening import PATH_HOLD_SECONDS, Opener, all_there, kind_of
from nas_gateway.uploads.tables import Kind, UploadSession
from nas_gateway.uploads.tails import Recent, Tails
from nas_gateway.uploads.writer import Writer

# The path of a session is held again with five minutes to spare.
_HOLD_AGAIN_SECONDS = 10 * 60
# A writer that has waited so long for its next byte is most likely cut off: a client that comes back may take over.
_SILENT_SECONDS = 2.0


class Uploads:
    """Sessions over the transfers' disks and ledger. `lease` in seconds; `scratch_disk` takes partial uploads."""

    def __init__(self, transfers: Transfers, *, lease: float = LEASE_SECONDS, scratch_disk: str = "scratch") -> None:
        self.transfers, self.lease = transfers, lease
        self.wait = rows.WAIT_SECONDS
        self.hashes = RunningHashes()
        transfers.deletion.live_handles = lambda: {session.handle for session in rows.live()}
        self.finisher = Finisher(transfers, self.hashes, self.keep, lease / 3)
        self.opener = Opener(self, scratch_disk)
        self._recent = Recent()
        self._writing: dict[str, Watched] = {}

    # --- opening ------------------------------------------------------------------------------------------------------

    def create(self, call: Call, new: NewUpload) -> UploadStatus:
        """See `UploadSessions.create`. `new.disk` is the name of a disk."""
        session, receipt = self.opener.open(call, new, kind_of(new))
        return status_of(session, receipt)

    # --- asking -------------------------------------------------------------------------------------------------------

    def status(self, call: Call, upload_id: str, *, settle: bool = False) -> UploadStatus:
        """See `UploadSessions.status`."""
        session = rows.get(upload_id, call.principal)
        if settle and all_there(session) and not rows.is_over(session, self.transfers.clock()):
            receipt = self.settle(call, upload_id)
            return status_of(rows.get(upload_id, call.principal), receipt)
        return status_of(session, self.finished(session))

    def finished(self, session: UploadSession) -> Receipt | None:
        """The receipt of a session that is finished, else None."""
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
            try:
                self.write(session, body, finish=finish)
            except ForwardedDiffers as error:
                rows.condemn(session)
                self.discard(session, State.FAILED, error)
                raise
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
            receipt = self.finished(rows.get(upload_id, call.principal))
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
                with suppress(UploadStateConflict):  # another call is completing it: `settle` says what came of that
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
