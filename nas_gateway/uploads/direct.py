"""Transfers that do not pass through us: presigned parts of a `direct` session, what became of them, presigned downloads.

Each URL is an event in the ledger before anybody has it. Key and the store's upload id come from the session's row. What a
client says of its parts counts for nothing: the file is what the store lists, and only if that is all of it. `service` calls
`gather` to complete; the internal API stands on `Direct`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from chalicelib.auth.policy import Permission
from chalicelib.errors import (
    InvalidRequest,
    LengthMismatch,
    ObjectCorrupt,
    PresigningOff,
    UploadEnded,
    UploadMissing,
    UploadStateConflict,
)
from chalicelib.limits import MAX_PARTS, MIN_PART_BYTES, PRESIGN_MAX_SECONDS, part_bytes_for
from chalicelib.storage.base import DirectStorage, Part, PartStorage
from chalicelib.storage.uploads import NewUpload, SignedRequest, StoredPart
from nas_gateway.files.access import Call, under_glass
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.ledger.events import Action, Operation, iso
from nas_gateway.uploads import rows
from nas_gateway.uploads.tables import Kind, UploadSession

if TYPE_CHECKING:
    from nas_gateway.uploads.service import Uploads

# DynamoDB: 100 actions a transaction, one of which is the session's own row.
_ROWS_A_WRITE = 99


class Direct:
    """Signing and listing, over the sessions' use-cases. `disks` are those whose store clients can reach."""

    def __init__(self, uploads: Uploads, disks: Collection[str]) -> None:
        self._uploads, self._transfers = uploads, uploads.transfers
        self._disks = frozenset(disks)

    def on(self, disk: str) -> bool:
        """Whether transfers to and from this disk can be presigned."""
        return disk in self._disks

    def check(self, new: NewUpload) -> NewUpload:
        """The upload as it was asked for. Raises `PresigningOff` for a direct one to a disk that clients cannot reach."""
        if new.direct and not self.on(new.disk):
            raise PresigningOff
        return new

    def sign_part(
        self, call: Call, upload_id: str, number: int, *, size: int | None, sha256: str | None
    ) -> SignedRequest:
        """See `UploadSessions.sign_part`. Without `size` the part has the length that the session's part size gives it."""
        session = self._session(call, upload_id)
        storage = self._storage(session.disk)
        length = _length(session, number, size)
        file = self._transfers.registry.get(session.file_id)
        if file is None:
            raise UploadMissing
        if not call.is_service and not call.principal.may(Permission.UPLOAD, file.cohort):
            self._transfers.access.deny(call, Permission.UPLOAD, session.disk, session.path, file.cohort)
        self._uploads.keep_open(session)
        signed = storage.presign_part(
            session.path,
            str(session.handle),
            number,
            size=length,
            sha256=sha256,
            expires_in=PRESIGN_MAX_SECONDS,
        )
        about = {"part": str(number), "size": str(length), **({"sha256": sha256} if sha256 else {})}
        self._issued(call, file, signed, about, upload_id)
        return signed

    def stored_parts(self, call: Call, upload_id: str) -> list[StoredPart]:
        """See `UploadSessions.stored_parts`."""
        session = self._session(call, upload_id)
        return self._storage(session.disk).stored_parts(session.path, str(session.handle))

    def file_url(self, call: Call, file_id: str, expires_in: int) -> SignedRequest:
        """See `UploadSessions.file_url`."""
        file = self._transfers.file(call, file_id)
        if not call.is_service and not call.principal.may(Permission.READ, file.cohort):
            self._transfers.access.deny(call, Permission.READ, file.disk, file.path, file.cohort)
        if file.state == State.CORRUPT:
            raise ObjectCorrupt
        signed = self._storage(file.disk).presign_download(
            file.path,
            filename=file.filename,
            content_type=file.content_type or "application/octet-stream",
            expires_in=expires_in,
        )
        self._issued(call, file, signed, {}, None)
        return signed

    # --- steps --------------------------------------------------------------------------------------------------------

    def _session(self, call: Call, upload_id: str) -> UploadSession:
        session = rows.get(upload_id, call.principal)
        if session.kind != Kind.DIRECT:
            raise UploadMissing
        if rows.is_over(session, self._transfers.clock()):
            raise UploadEnded
        if session.state != State.OPEN:
            raise UploadStateConflict(f"The upload is {session.state}. It takes no more parts.")
        return session

    def _storage(self, disk: str) -> DirectStorage:
        storage: object = self._transfers.disk(disk) if self.on(disk) else None
        if isinstance(storage, DirectStorage):
            return storage
        raise PresigningOff

    def _issued(
        self, call: Call, file: TrackedFile, signed: SignedRequest, about: dict[str, str], upload_id: str | None
    ) -> None:
        """Tell the ledger. The URL itself is not told: until it expires, whoever has it can use it."""
        ends = datetime.fromtimestamp(self._transfers.clock() + signed.expires_in, UTC)
        operation = Operation(
            action=Action.PRESIGNED_URL_ISSUED,
            user=call.principal.username,
            cohort=file.cohort,
            file_id=file.file_id,
            upload_id=upload_id,
            disk=file.disk,
            file_path=file.path,
            file_type=file.file_type,
            metadata={"method": signed.method, "expires_at": iso(ends), **about, **under_glass(call, file)},
            request_id=call.request_id,
        )
        self._transfers.ledger.record(operation)


def part_bytes(new: NewUpload) -> int:
    """Bytes of every part but the last of a new session. Raises `InvalidRequest` for what no store would assemble."""
    if not new.direct:
        return part_bytes_for(new.size)
    if not new.size:
        raise InvalidRequest(
            "A direct upload needs its size in bytes from the beginning (1 or more): the length of each part is signed. "
            "Send an empty file, or one of unknown length, to /files."
        )
    wanted = new.part_bytes or part_bytes_for(new.size)
    if wanted < new.size and (wanted < MIN_PART_BYTES or wanted * MAX_PARTS < new.size):
        raise InvalidRequest(f"part_bytes must be {MIN_PART_BYTES} or more and make at most {MAX_PARTS} parts.")
    return wanted


def gather(uploads: Uploads, session: UploadSession, storage: PartStorage) -> None:
    """Record what the store says it holds as this leased session's parts; if that is the whole file, it is `COMPLETING`.

    Raises `LengthMismatch` (the session stays open: what is missing can still be sent), `UploadLost`.
    """
    if not isinstance(storage, DirectStorage):
        raise PresigningOff
    found = storage.stored_parts(session.path, str(session.handle))
    parts = _whole(found, int(session.size or 0), storage.min_part_bytes)
    for first in range(0, len(parts), _ROWS_A_WRITE):
        batch = parts[first : first + _ROWS_A_WRITE]
        uploads.keep(session)
        rows.advance(
            session,
            offset=batch[-1].offset + batch[-1].size,
            new=batch,
            clock=uploads.transfers.clock,
            lease=uploads.lease,
            state=State.COMPLETING if batch[-1] is parts[-1] else None,
        )


def _whole(found: Sequence[StoredPart], size: int, min_part_bytes: int) -> list[Part]:
    """The store's parts with their offsets, once they are the file that was announced. Their digests are not known."""
    parts, offset = list[Part](), 0
    for number, item in enumerate(found, start=1):
        if item.number != number:
            raise LengthMismatch(f"Part {number} is missing. Send it, then complete again.")
        if item.size < min_part_bytes and number < len(found):
            raise LengthMismatch(f"Part {number} is below {min_part_bytes} bytes; only the last may be. Send it again.")
        parts.append(Part(number, offset, item.size, item.etag, ""))
        offset += item.size
    if offset != size:
        raise LengthMismatch(
            f"The storage holds {offset} bytes in {len(found)} parts, and {size} were announced. "
            "Send what is missing, then complete again."
        )
    return parts


def _length(session: UploadSession, number: int, told: int | None) -> int:
    """Bytes of one part: as told, or as the session's part size gives it. Raises `InvalidRequest`.

    Whether a store takes such a number and such a length at all is the driver's to say.
    """
    size, cut = int(session.size or 0), int(session.part_bytes)
    last = -(-size // cut)
    if told is None and number > last:
        raise InvalidRequest(f"The file has {last} parts of {cut} bytes. Say the part's size if it is cut otherwise.")
    length = told if told is not None else cut if number < last else size - cut * (last - 1)
    if length > size:
        raise InvalidRequest("The part is larger than the size that was announced for the file.")
    return length
