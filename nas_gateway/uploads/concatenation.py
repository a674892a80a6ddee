"""Concatenation (tus): finished partial uploads become one file, copied on the NAS side.

A partial upload is an ordinary temporary file on the scratch disk, tracked and due for clean-up like any other. The final
upload is a session whose bytes come from those files: part by part, acknowledged like a client's, so a crash in the middle
goes on where it was. Parts are copied by the store itself where it can; what is too small for a part there, at the seams,
passes through here. Used by the internal API.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from chalicelib import observability
from chalicelib.auth.policy import Principal
from chalicelib.errors import (
    DepotError,
    InvalidRequest,
    LengthMismatch,
    ObjectCorrupt,
    UploadMissing,
    UploadStateConflict,
)
from chalicelib.storage.base import ByteRange, Part, PartStorage
from chalicelib.storage.streams import read_full
from chalicelib.storage.uploads import NewUpload, Receipt, UploadStatus
from nas_gateway.files.access import Call
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.uploads import rows
from nas_gateway.uploads.service import Uploads, status_of
from nas_gateway.uploads.tables import Kind, UploadSession

# A final upload names its pieces in one header; parallel clients make a handful.
MAX_SOURCES = 1000


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of a partial upload, as it lies in that upload's file from `start`."""

    file: TrackedFile
    start: int
    part: Part


class Concatenation:
    """Final uploads, over the sessions' use-cases."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads, self._transfers = uploads, uploads.transfers

    def concatenate(self, call: Call, new: NewUpload, upload_ids: Sequence[str]) -> UploadStatus:
        """See `UploadSessions.concatenate`."""
        if not 1 <= len(upload_ids) <= MAX_SOURCES or len(set(upload_ids)) != len(upload_ids):
            raise InvalidRequest(f"A final upload names 1 to {MAX_SOURCES} partial uploads, each once.")
        total = sum(int(self._source(call, upload_id).size or 0) for upload_id in upload_ids)
        # Without a key of the client's, the pieces themselves are one: they can be put together only once.
        digest = hashlib.sha256(",".join(upload_ids).encode()).hexdigest()
        new = replace(new, size=total, idempotency_key=new.idempotency_key or f"concatenation of {digest}")
        session, receipt = self._uploads.opener.open(call, new, Kind.FINAL, sources=list(upload_ids))
        if receipt is None:
            receipt = self.go_on(call, session.upload_id)
        self.discard_sources(call, session)
        return status_of(rows.get(session.upload_id, call.principal), receipt)

    def go_on(self, call: Call, upload_id: str) -> Receipt:
        """Copy what is missing and complete. Safe to repeat after a crash anywhere."""
        session = self._uploads.take(call, upload_id, (State.OPEN, State.COMPLETING))
        with rows.released(session):
            again = session.state == State.COMPLETING
            if not again:
                self._copy(call, session)
                rows.completing(session)
            return self._uploads.finisher.finish(session, None, again=again)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _source(self, call: Call, upload_id: str) -> UploadSession:
        try:
            session = rows.get(upload_id, call.principal)
        except UploadMissing:
            raise InvalidRequest("One of the partial uploads is not there.") from None
        if session.kind != Kind.PARTIAL:
            raise InvalidRequest("A final upload is made of partial uploads only.")
        if session.state != State.AVAILABLE:
            # Its last byte may have been acknowledged by a call that did not come to its end.
            try:
                self._uploads.settle(call, upload_id)
            except LengthMismatch:
                raise InvalidRequest("One of the partial uploads is not finished yet.") from None
            session = rows.get(upload_id, call.principal)
        return session

    def _pieces(self, call: Call, session: UploadSession) -> Iterator[Piece]:
        """The parts of all sources, behind what has been copied. Their offsets are those in the final file."""
        base = 0
        for upload_id in session.sources or ():
            source = rows.get(upload_id, call.principal)
            file = self._transfers.registry.get(source.file_id)
            if file is None or file.state != State.AVAILABLE:
                raise UploadStateConflict("A partial upload has been cleaned up meanwhile. Send it again.")
            for part in rows.parts(upload_id):
                if base + part.offset >= int(session.offset):
                    yield Piece(file, part.offset, replace(part, offset=base + part.offset))
            base += int(source.offset)

    def _copy(self, call: Call, session: UploadSession) -> None:
        storage = self._uploads.storage(session)
        skipped = rows.unclean_epochs(session) if storage.renumber_after_loss else 0
        number, group = int(session.parts) + 1 + skipped, list[Piece]()
        for piece in self._pieces(call, session):
            group.append(piece)
            end = piece.part.offset + piece.part.size
            if sum(item.part.size for item in group) < storage.min_part_bytes and end != int(session.size or 0):
                continue
            part = self._copied(storage, session, number, group)
            self._uploads.keep(session)
            rows.advance(session, offset=end, new=[part], clock=self._transfers.clock, lease=self._uploads.lease)
            number, group = number + 1, []

    def _copied(self, storage: PartStorage, session: UploadSession, number: int, group: Sequence[Piece]) -> Part:
        where = (session.path, str(session.handle), number, group[0].part.offset)
        if len(group) == 1:
            file, part = group[0].file, group[0].part
            source = self._transfers.disk(file.disk)
            return storage.copy_part(
                *where, source, file.path, group[0].start, part.size, sha256=part.sha256, etag=part.etag
            )
        data = bytearray()
        for piece in group:
            asked = ByteRange(piece.start, piece.start + piece.part.size - 1)
            with self._transfers.disk(piece.file.disk).open(piece.file.path, asked) as download:
                block = read_full(download, piece.part.size)
            if hashlib.sha256(block).hexdigest() != piece.part.sha256:
                raise ObjectCorrupt
            data += block
        return storage.write_part(*where, data)

    def discard_sources(self, call: Call, session: UploadSession) -> None:
        """The pieces are in the file now. One that cannot be deleted is due for clean-up as a temporary file."""
        # What anybody may upload in pieces they need not be allowed to delete; the deletion is on their behalf all the same.
        on_behalf = replace(call, principal=Principal(call.principal.username, "superuser"))
        for upload_id in session.sources or ():
            for last in (
                False,
                True,
            ):  # a single failure, of the ledger say, need not leave PHI lying until its deadline
                try:
                    file = self._transfers.registry.get(rows.get(upload_id, call.principal).file_id)
                    if file is not None and file.state == State.AVAILABLE:
                        self._transfers.delete(on_behalf, file.disk, file.path)
                    break
                except DepotError as error:
                    if last:
                        observability.log_event(
                            "partial_upload_not_deleted", logging.WARNING, error_code=error.code, upload_id=upload_id
                        )
