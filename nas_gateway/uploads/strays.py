"""What lies on the NAS and belongs to nothing alive: uploads in parts, tails, staged files. Used by `sweep` only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, runtime_checkable

from chalicelib.auth.policy import SERVICE
from chalicelib.errors import DepotError, UploadInProgress, UploadLost, UploadMissing, UploadStateConflict
from chalicelib.storage.base import OpenUpload, StagedTail
from nas_gateway.files.tables import State
from nas_gateway.ledger.events import Action, Operation, Outcome, iso
from nas_gateway.uploads import rows, tails
from nas_gateway.uploads.left_open import NAMELESS
from nas_gateway.uploads.report import Finding, Report, Rule
from nas_gateway.uploads.service import Uploads
from nas_gateway.uploads.tables import UploadSession


@runtime_checkable
class Staging(Protocol):
    """Drivers that stage whole saves themselves."""

    def discard_staged(self, before: datetime) -> int:
        """Remove what dead saves left and nobody has written to since; how many."""
        ...


class Strays:
    """Finds and removes them on `disks`. `stale` in seconds: what is younger is left alone."""

    def __init__(self, uploads: Uploads, disks: Sequence[str], *, stale: float) -> None:
        self._uploads, self._transfers = uploads, uploads.transfers
        self._disks, self._stale = tuple(disks), stale

    def uploads(self, handles: set[str | None], report: Report) -> Iterator[Finding]:
        """Uploads in parts that nothing alive stands for. Disks may overlap, so each is looked at through all of them."""
        before = self._transfers.clock() - self._stale
        seen: dict[str, list[tuple[str, OpenUpload]]] = defaultdict(list)
        for disk in self._disks:
            try:
                for upload in self._transfers.disk(disk).open_uploads():
                    if upload.handle not in handles and upload.started_at.timestamp() < before:
                        seen[upload.handle].append((disk, upload))
            except DepotError as error:
                report.fail(Rule.ORPHAN, error.code)
        for handle, sightings in seen.items():
            if not any(self._under_way(disk, upload) for disk, upload in sightings):
                disk, upload = min(sightings, key=lambda sighting: len(sighting[1].path))
                yield Finding(Rule.ORPHAN, disk, handle, partial(self._abort, disk, upload))

    def _under_way(self, disk: str, found: OpenUpload) -> bool:
        """Whether the operation that holds the path may be the one that writes this upload. Not left to clocks or indexes."""
        claim = self._transfers.registry.claim(disk, found.path)
        file = self._transfers.registry.get(claim.pending) if claim is not None and claim.pending else None
        intent = self._transfers.ledger.open_intent(file.tracking_id) if file is not None else None
        if intent is None:
            return False
        if not intent.operation.upload_id:
            return True  # in a single stream: nobody else knows its handle
        try:
            return rows.get(intent.operation.upload_id, SERVICE).handle in (None, found.handle)
        except UploadMissing:
            return True

    def _abort(self, disk: str, found: OpenUpload) -> Rule | None:
        storage, ledger = self._transfers.disk(disk), self._transfers.ledger
        try:
            storage.list_parts(found.path or NAMELESS, found.handle)
        except UploadLost:
            # Parts that cannot be listed may still take room: what is left of an upload after its file was made visible.
            if all(upload.handle != found.handle for upload in storage.open_uploads()):
                return None  # another sweep was here
        operation = Operation(
            action=Action.ORPHAN_UPLOAD_ABORTED,
            user=None,
            disk=disk,
            file_path=found.path,
            metadata={"handle": found.handle, "started_at": iso(found.started_at)},
        )
        intent = ledger.begin(operation)
        try:
            storage.abort_parts(found.path or NAMELESS, found.handle)
        except DepotError as error:
            ledger.finish(intent, Outcome.FAILED, error=error)
            raise
        ledger.finish(intent, Outcome.COMPLETED)
        return Rule.ORPHAN

    def tails(self, report: Report) -> Iterator[Finding]:
        """Tails of sessions that have ended, and those that a live session's row does not name."""
        before = self._transfers.clock() - self._stale
        for disk in self._disks:
            old: dict[str, list[StagedTail]] = defaultdict(list)
            try:
                for tail in self._transfers.disk(disk).list_tails():
                    if tail.modified_at.timestamp() < before:
                        old[tail.name.partition("/")[0]].append(tail)
            except DepotError as error:
                report.fail(Rule.TAIL, error.code)
            for upload_id, held in old.items():
                if _unnamed(_find(upload_id), held):
                    yield Finding(Rule.TAIL, disk, upload_id, partial(self._drop, disk, upload_id, held))

    def _drop(self, disk: str, upload_id: str, held: Sequence[StagedTail]) -> Rule | None:
        session = _find(upload_id)
        if session is not None and session.live:
            # Its writer could be about to name what it stored: under the lease there is none.
            session = take_idle(self._uploads, session, State.OPEN, State.COMPLETING)
            with rows.released(session):
                strays = self._delete_tails(disk, _unnamed(session, held))
        else:
            strays = self._delete_tails(disk, held)
        return Rule.TAIL if strays else None

    def _delete_tails(self, disk: str, strays: Sequence[StagedTail]) -> int:
        for tail in strays:
            self._transfers.disk(disk).delete_tail(tail.name)
        return len(strays)

    def discard_staged(self, report: Report) -> None:
        """What single uploads that died left in a staging area. They cannot be listed, so a dry run says nothing of them."""
        before = datetime.fromtimestamp(self._transfers.clock() - self._stale, UTC)
        for disk in self._disks:
            storage = self._transfers.disk(disk)
            if isinstance(storage, Staging):
                try:
                    if removed := storage.discard_staged(before):
                        report.repaired[Rule.STAGED] += removed
                except DepotError as error:
                    report.fail(Rule.STAGED, error.code)


def take_idle(uploads: Uploads, session: UploadSession, *states: str) -> UploadSession:
    """Lease a session that nobody holds, expired or not. Raises `UploadInProgress` when it has moved on since."""
    try:
        return rows.take(
            session.upload_id,
            SERVICE,
            states,
            clock=uploads.transfers.clock,
            lease=uploads.lease,
            wait=0,
            even_expired=True,
        )
    except UploadStateConflict:
        raise UploadInProgress from None


def _unnamed(session: UploadSession | None, held: Sequence[StagedTail]) -> list[StagedTail]:
    """Those that the session's row does not name; all of them where it has ended."""
    if session is None or not session.live:
        return list(held)
    named = {tails.name(session.upload_id, tail) for tail in rows.tails(session)}
    return [tail for tail in held if tail.name not in named]


def _find(upload_id: str) -> UploadSession | None:
    try:
        return rows.get(upload_id, SERVICE)
    except UploadMissing:
        return None
