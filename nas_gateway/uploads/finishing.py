"""The end of a session: the file becomes visible, and the ledger hears of it, in an order that any crash leaves repairable.

`COMPLETING` -> the store completes -> size and digest compared -> `AVAILABLE` and the ledger's outcome in one transaction.
Everything here happens under the session's lease. Used by `service`, `concatenation` and `direct` only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from chalicelib.errors import DigestMismatch, FileMissing, OnHold, UploadLost, UploadMissing, UploadStateConflict
from chalicelib.limits import CHUNKED_ACTION_OVER_BYTES
from chalicelib.storage.base import ObjectInfo, Part, PartStorage
from chalicelib.storage.streams import read_full
from chalicelib.storage.uploads import Receipt
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.files.transfers import Transfers, forwarded_note
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import Action, Intent, Outcome, iso
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.uploads import rows
from nas_gateway.uploads.hashes import RunningHashes, parts_sha256
from nas_gateway.uploads.keeping import kept
from nas_gateway.uploads.tables import UploadSession


class Finisher:
    """Ends sessions, one way or the other."""

    def __init__(
        self, transfers: Transfers, hashes: RunningHashes, keep: Callable[[UploadSession], None], every: float
    ) -> None:
        """`keep` holds a session and its path for a lease; called every so many seconds while a store assembles."""
        self._transfers, self._hashes = transfers, hashes
        self._keep, self._every = keep, every

    def finish(self, session: UploadSession, expected: str | None, *, again: bool) -> Receipt:
        """Make the file of a `COMPLETING` session visible and record it. `expected` is the promised SHA-256 (hex).

        `again`: an earlier call may have got anywhere. Raises `DigestMismatch`, `UploadLost` (the session has ended then),
        and what the store or the ledger raise: then it stays `COMPLETING`, to be asked again.
        """
        file, intent = self.announced(session)
        if again:
            self._keep(session)  # raises where the path went to another upload since: its file must not be overwritten
        # A row of its own for the thread that keeps it: writing refreshes the object that is written.
        held = UploadSession(
            session.upload_id,
            epoch=session.epoch,
            hold_until=session.hold_until,
            file_id=session.file_id,
            disk=session.disk,
            path=session.path,
        )
        try:
            if not again:  # otherwise it may be visible by now
                self._transfers.registry.check_replaceable(file)
            with kept(lambda: self._keep(held), self._every):
                self._make_visible(session, file, expected or session.sha256, again)
        except (DigestMismatch, UploadLost, OnHold) as error:
            self.end(session, State.LOST if isinstance(error, UploadLost) else State.FAILED, error)
            raise
        action = action_of(int(file.size or 0))
        seen = forwarded_note(None if session.forwarded is None else int(session.forwarded), session.forwarded_sha256)
        ended = rows.ended(session, State.AVAILABLE)
        try:
            event = self._transfers.complete(file, intent, action=action, note=seen, also=ended)
        except OnHold as error:
            self.end(session, State.FAILED, error)
            raise
        rows.note_ended(session, State.AVAILABLE)
        self._hashes.forget(session.upload_id)
        return receipt_of(file, event)

    def end(self, session: UploadSession, state: str, error: BaseException) -> None:
        """It is over without a file: discard on the NAS first, so that a crash in between leaves it open.

        Raises `LeaseLost`, `LedgerUnavailable`: then it is not over.
        """
        storage = self._transfers.disk(session.disk)
        if session.handle:
            storage.abort_parts(session.path, session.handle)
        file, intent = self.announced(session)
        moved = int(session.offset)
        ended = rows.ended(session, state)
        self._transfers.end(file, intent, error, moved, state=state, also=ended)
        rows.note_ended(session, state)
        self._hashes.forget(session.upload_id)

    def announced(self, session: UploadSession) -> tuple[TrackedFile, Intent]:
        """The file's row and the open intent. Raises `UploadMissing` when the operation has ended."""
        file = self._transfers.registry.get(session.file_id)
        intent = self._transfers.ledger.open_intent(session.tracking_id)
        if file is None or intent is None:
            raise UploadMissing
        return file, intent

    def receipt(self, session: UploadSession) -> Receipt | None:
        """The receipt of a session that is `AVAILABLE`. Where the ledger's index lags, its position is None."""
        file = self._transfers.registry.get(session.file_id)
        if file is None:
            return None
        found = queries.query(tracking_id=session.tracking_id, outcome=Outcome.COMPLETED, limit=1).events
        return receipt_of(file, found[0] if found else None)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _make_visible(self, session: UploadSession, file: TrackedFile, expected: str | None, again: bool) -> None:
        storage = self._transfers.disk(session.disk)
        parts = rows.parts(session.upload_id)
        size = sum(part.size for part in parts)
        if size != int(session.offset):
            raise UploadLost("The recorded parts do not add up to what was sent. The file was not made visible.")
        # Of parts that went straight to the store nobody has seen a digest.
        known = (parts[0].sha256 or None) if len(parts) == 1 else self._hashes.at(session.upload_id, size)
        if expected and known and known != expected:
            raise DigestMismatch
        try:
            info = _complete(storage, session, parts, known)
        except UploadLost:
            # A crash after the store had made it visible leaves exactly this; only the bytes themselves prove it.
            if not again or not holds(storage, session.path, parts):
                raise
            info = storage.get_metadata(session.path)
        if info.size != size:
            raise UploadLost("What the storage assembled has another size than what was sent. It was not recorded.")
        if expected and not known:
            known = _read_back(storage, session.path)
            if known != expected:
                self._keep(session)  # a file that took the path since is not this one's to delete
                storage.delete(session.path)
                raise DigestMismatch
        file.size, file.sha256, file.etag = size, known, info.etag
        file.parts_sha256 = parts_sha256(parts)


def _complete(storage: PartStorage, session: UploadSession, parts: list[Part], sha256: str | None) -> ObjectInfo:
    handle = str(session.handle)
    try:
        return storage.complete_parts(session.path, handle, parts, sha256=sha256)
    except UploadStateConflict:
        # A writer that crashed may have left the next part, never acknowledged and never written again (only where the
        # length was not known: see `Writer`). Some stores refuse to complete then (ADR 5), and none can remove one part:
        # it is overwritten with an empty one, which is named.
        following = (parts[-1].number if parts else 0) + 1
        named = [part.number for part in parts]
        if [number for number, _ in storage.list_parts(session.path, handle)] != [*named, following]:
            raise
        empty = storage.write_part(session.path, handle, following, int(session.offset), b"")
        return storage.complete_parts(session.path, handle, [*parts, empty], sha256=sha256)


def holds(storage: PartStorage, path: str, parts: list[Part]) -> bool:
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


def action_of(size: int | None) -> str:
    """The ledger's action for an upload of this size (seeds: over 10 MB it is a chunked one)."""
    large = (size or 0) > CHUNKED_ACTION_OVER_BYTES
    return Action.FILE_UPLOADED_CHUNKED if large else Action.FILE_UPLOADED_VIA_STREAM


def receipt_of(file: TrackedFile, event: PHIFileTracking | None) -> Receipt:
    """What the sender of a file is given for it."""
    return Receipt(
        file_id=file.file_id,
        path=file.path,
        size=int(file.size or 0),
        sha256=file.sha256,
        parts_sha256=file.parts_sha256,
        etag=file.etag or "",
        tracking_id=file.tracking_id,
        completed_at=iso(event.at) if event is not None else file.updated_iso(),
        ledger=event.position if event is not None else None,
    )
