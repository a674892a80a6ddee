"""The use-cases around one file: upload, download, describe, delete. Each is an intent, the bytes, and an outcome.

The order is the point: the ledger hears of an operation before the first byte moves and of its end after the last, also
when it failed. If the ledger cannot be written, nothing moves. Imported by the internal API and the tracked storage.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pynamodb.transactions import TransactWrite

from chalicelib import observability
from chalicelib.auth.policy import Permission
from chalicelib.errors import (
    DepotError,
    FileMissing,
    InvalidRequest,
    LeaseLost,
    LedgerUnavailable,
    ObjectCorrupt,
    OnHold,
    PayloadTooLarge,
)
from chalicelib.limits import LEASE_SECONDS, MAX_OBJECT_BYTES, MAX_TEMPORARY_HOURS
from chalicelib.storage.base import ByteRange, Download, ObjectInfo, PartStorage, Reader, SavedPath
from chalicelib.storage.paths import normalise, normalise_prefix
from chalicelib.storage.streams import length_of
from nas_gateway.files.access import Access, Call, under_glass
from nas_gateway.files.deletion import Deletion
from nas_gateway.files.downloads import TrackedDownload, enriched
from nas_gateway.files.placement import Placement
from nas_gateway.files.quotas import Throttle
from nas_gateway.files.registry import Change, Registry
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.files.watched import watch
from nas_gateway.ledger.events import Action, Intent, Operation, Outcome, iso
from nas_gateway.ledger.ledger import ChangeRefused, Ledger
from nas_gateway.ledger.tables import PHIFileTracking

_NOT_RECORDED = (
    "The file was stored, but its completion could not be recorded in the ledger. "
    "Look whether it is listed before sending it again; the operator's next sweep settles it."
)


class Transfers:
    """The use-cases over one set of disks. Dependencies come in; nothing is read from the environment."""

    def __init__(
        self,
        disk: Callable[[str], PartStorage],
        ledger: Ledger,
        registry: Registry,
        *,
        disks: Sequence[str],
        temporary_hours: int = 4,
        max_bytes: int = MAX_OBJECT_BYTES,
        clock: Callable[[], float] = time.time,
        throttle: Throttle | None = None,
    ) -> None:
        self.disk, self.ledger, self.registry = disk, ledger, registry
        self.access = Access(ledger, registry, throttle)
        self.deletion = Deletion(disk, ledger, registry, clock=clock)
        self._disks = tuple(disks)
        self._temporary = timedelta(hours=temporary_hours)
        self.max_bytes, self.clock = max_bytes, clock

    # --- upload ----------------------------------------------------------------------------------------------

    def upload(
        self,
        call: Call,
        place: Placement,
        content: Reader,
        *,
        sha256: str | None = None,
        if_absent: bool = False,
        action: str = Action.FILE_UPLOADED_VIA_STREAM,
        cleanup_hours: float | None = None,
    ) -> SavedPath:
        """Store a stream as one file. Raises what the reader and the driver raise; nothing is kept then.

        `cleanup_hours`: a temporary file's own deadline, instead of the usual one.
        """
        storage = self.disk(place.disk)
        source = watch(content, self.max_bytes)
        reserve = length_of(content)
        file, intent = self.announce(
            call, place, action, if_absent=if_absent, cleanup_hours=cleanup_hours, reserve=reserve
        )
        source.every(LEASE_SECONDS / 3, lambda: self.registry.renew(file, LEASE_SECONDS))
        try:
            saved = storage.save(
                place.path, source, place.content_type, place.metadata, if_absent=if_absent, sha256=sha256
            )
        except BaseException as error:
            self.withdraw(file, intent, error, source.count)
            raise
        file.size, file.sha256, file.etag = saved.size, saved.sha256, saved.etag
        seen = source.forwarded
        event = self.complete(
            file, intent, note=forwarded_note(seen.count, seen.digest.hexdigest()) if seen and seen.confirmed else None
        )
        return SavedPath(
            place.path,
            size=saved.size,
            sha256=saved.sha256,
            etag=saved.etag,
            tracking_id=intent.tracking_id,
            file_id=file.file_id,
            recorded_at=iso(event.at),
            ledger=event.position,
        )

    def announce(
        self,
        call: Call,
        place: Placement,
        action: str,
        *,
        if_absent: bool,
        hold_seconds: float = LEASE_SECONDS,
        upload_id: str | None = None,
        size: int | None = None,
        file_id: str | None = None,
        tracking_id: str | None = None,
        also: Change | None = None,
        unplaced: bool = False,
        cleanup_hours: float | None = None,
        reserve: int | None = None,
    ) -> tuple[TrackedFile, Intent]:
        """Authorise an upload, take its path and record its intent. Nothing has moved yet.

        `unplaced`: bytes that belong to no cohort yet; `reserve`: how many count against quotas, where `size` is not told.
        Raises `Forbidden`, `FileExists`, `UploadInProgress`, `PayloadTooLarge`, `QuotaExceeded`, `TooManyUploads`,
        `LedgerUnavailable`.
        """
        if size is not None and size > self.max_bytes:
            raise PayloadTooLarge(f"The largest file taken here is {self.max_bytes} bytes.")
        self.access.upload(call, place, if_absent=if_absent, unplaced=unplaced)
        now = self.clock()
        due = self._due(place, now, cleanup_hours)
        file = self._new_row(call, place, now, due)
        file.file_id, file.tracking_id = file_id or file.file_id, tracking_id or file.tracking_id
        operation = Operation(
            action=action,
            user=call.principal.username,
            cohort=place.cohort,
            file_id=file.file_id,
            upload_id=upload_id,
            disk=place.disk,
            file_path=place.path,
            file_type=place.file_type,
            file_size=size,
            metadata=place.metadata,
            cleanup_required=place.temporary,
            expected_cleanup_by=due,
            cleanup_scheduled_for=due,
            request_id=call.request_id,
        )
        reserve = size if reserve is None else reserve
        claim = self.registry.announce(file, if_absent=if_absent, hold_seconds=hold_seconds, size=reserve)
        try:
            intent = self.ledger.begin(operation, tracking_id=file.tracking_id, changes=_both(claim, also))
        except ChangeRefused as refused:
            raise self.registry.refused(file, if_absent=if_absent, index=refused.index, size=reserve) from None
        return file, intent

    def complete(
        self,
        file: TrackedFile,
        intent: Intent,
        *,
        action: str | None = None,
        note: Mapping[str, str] | None = None,
        also: Change | None = None,
    ) -> PHIFileTracking:
        """The bytes are on the NAS: make the file available and record the outcome, in one transaction; the event.

        Raises `LeaseLost` (also when a change of `also` was refused: then nothing was recorded), or `LedgerUnavailable`
        whose message says that the file is there but not recorded.
        """
        try:
            return self.ledger.finish(
                intent,
                Outcome.COMPLETED,
                bytes_transferred=int(file.size or 0),
                file_size=int(file.size or 0),
                file_hash=file.sha256 or file.parts_sha256,
                action=action,
                metadata=note,
                changes=_both(self.registry.arrived(file), also),
            )
        except ChangeRefused as refused:
            if refused.index:  # not the path's own row
                self._check_not_held(file, intent, also)
                raise LeaseLost from None  # somebody else goes on with this very upload
            error = LeaseLost("Another upload took this path over while this one was held up. It was not recorded.")
            self.withdraw(file, intent, error, int(file.size or 0))
            raise error from None
        except LedgerUnavailable as error:
            raise LedgerUnavailable(_NOT_RECORDED) from error

    def _check_not_held(self, file: TrackedFile, intent: Intent, also: Change | None) -> None:
        """Raises `OnHold` where a hold was set while the bytes were on their way: the row of the held file stays.

        Its bytes may be gone by then: an alarm. (A hold on the file itself waits for such an upload; one on its cohort
        cannot.) An upload session is ended by who finishes it.
        """
        try:
            self.registry.check_replaceable(file)
        except OnHold as error:
            observability.log_event("held_file_overwritten", logging.ERROR, disk=file.disk, file_id=file.file_id)
            if also is None:
                self.withdraw(file, intent, error, int(file.size or 0))
            raise

    def withdraw(
        self,
        file: TrackedFile,
        intent: Intent,
        error: BaseException,
        moved: int,
        *,
        state: str = State.FAILED,
        also: Change | None = None,
    ) -> None:
        """The upload failed: let the path go and record why, with the bytes that moved. Raises nothing new.

        Where the ledger fails too, the open intent stays behind as the trace; the sweeper settles it.
        """
        try:
            self.end(file, intent, error, moved, state=state, also=also)
        except DepotError as failure:
            _unrecorded(failure, intent)

    def end(
        self,
        file: TrackedFile,
        intent: Intent,
        error: BaseException,
        moved: int,
        *,
        state: str,
        also: Change | None,
    ) -> None:
        """As `withdraw`, but raises `LedgerUnavailable`, and `LeaseLost` when a change of `also` was refused.

        Nothing was recorded then.
        """
        while True:
            changes = _both(self.registry.withdrawn(file, state), also)
            try:
                self.ledger.finish(intent, Outcome.FAILED, bytes_transferred=moved, error=error, changes=changes)
            except ChangeRefused as refused:
                if refused.index:  # not the path's own row: somebody else goes on with this very upload
                    raise LeaseLost from None
                continue  # the path changed hands between reading and writing: it is no longer ours to release
            return

    # --- download --------------------------------------------------------------------------------------------

    def download(self, call: Call, disk: str, path: str, range: ByteRange | None = None) -> Download:
        """Open a file for reading; closing what comes back records the outcome. Raises as `Storage.open`."""
        path = normalise(path)
        storage = self.disk(disk)
        file = self.access.file(call, Permission.READ, disk, path)
        _intact(file)
        metadata = {"range": range.header()} if range else {}
        metadata |= under_glass(call, file)
        intent = self.ledger.begin(self._operation(call, Action.FILE_DOWNLOADED_VIA_STREAM, disk, path, file, metadata))
        try:
            return TrackedDownload(storage.open(path, range), file, self._closer(intent))
        except BaseException as error:
            self._finish_quietly(intent, error, 0)
            raise

    def _closer(self, intent: Intent) -> Callable[[int, BaseException | None], None]:
        def close(moved: int, error: BaseException | None) -> None:
            outcome = Outcome.FAILED if error else Outcome.COMPLETED
            try:
                self.ledger.finish(intent, outcome, bytes_transferred=moved, error=error)
            except DepotError as failure:
                # The bytes are gone out; the open intent stays behind as the trace.
                _unrecorded(failure, intent)

        return close

    # --- describe --------------------------------------------------------------------------------------------

    def describe(self, call: Call, disk: str, path: str) -> ObjectInfo:
        """What the NAS holds at a path, with what the registry knows of it. Raises `FileMissing`."""
        path = normalise(path)
        file = self.access.file(call, Permission.LIST, disk, path)
        _intact(file)
        return enriched(self.disk(disk).get_metadata(path), file)

    def exists(self, call: Call, disk: str, path: str) -> bool:
        path = normalise(path)
        try:
            self.access.file(call, Permission.LIST, disk, path)
        except FileMissing:
            return False
        return self.disk(disk).exists(path)

    def file(self, call: Call, file_id: str) -> TrackedFile:
        """A stored file by its id, damaged or not. One of another cohort is `FileMissing`, not `Forbidden`, and recorded."""
        file = self.registry.get(file_id)
        if file is None or file.state not in (State.AVAILABLE, State.CORRUPT):
            raise FileMissing
        if not call.principal.may(Permission.LIST, file.cohort):
            self.access.hide(call, Permission.LIST, file)
        return file

    def temporary_files(self, *, created_before: float, limit: int) -> list[TrackedFile]:
        """Temporary files that are there and older than a moment (epoch seconds), those longest due first."""
        horizon = created_before + self._temporary.total_seconds()
        found = self.registry.due_for_cleanup(self._disks, before=horizon, limit=limit)
        # A deadline of its own may lie before the usual one: such a file is young all the same.
        return [
            file
            for file in found
            if file.state == State.AVAILABLE
            and (file.created_at <= created_before or (file.cleanup_due or 0) < self.clock())
        ]

    # --- delete ----------------------------------------------------------------------------------------------

    def delete(self, call: Call, disk: str, path: str) -> str:
        """Delete one file; the tracking id. Raises `FileMissing`, `Forbidden`, `OnHold`, `UploadInProgress`.

        How, and what stays where it fails: `deletion`.
        A file that the registry knows and the NAS no longer has is closed, and the event says that it was already gone.
        """
        path = normalise(path)
        self.disk(disk)  # raises for a disk that is not there
        file = self.access.file(call, Permission.DELETE, disk, path)
        operation = self._operation(call, Action.FILE_DELETED_VIA_API, disk, path, file)
        return self.deletion.delete(operation, file).tracking_id

    def delete_prefix(
        self, call: Call, disk: str, prefix: str, *, dry_run: bool
    ) -> tuple[list[str], Mapping[str, str], str | None]:
        """Delete every file below a folder: (deleted paths, error code by path, tracking id).

        Each file has an event of its own; one that cannot be deleted does not stop the others. A dry run deletes nothing
        and returns what would be.
        """
        prefix = normalise_prefix(prefix)
        paths = [info.path for info in self.disk(disk).list_files(prefix)]
        for path in paths:
            self.access.file(call, Permission.DELETE, disk, path)
        if dry_run:
            return paths, {}, None
        operation = self._operation(call, Action.PREFIX_DELETED_VIA_API, disk, prefix, None, {"files": str(len(paths))})
        intent = self.ledger.begin(operation)
        deleted, failed = list[str](), dict[str, str]()
        try:
            for path in paths:
                try:
                    self.delete(call, disk, path)
                    deleted.append(path)
                except FileMissing:
                    continue  # gone meanwhile
                except DepotError as error:
                    failed[path] = error.code
        finally:
            done = Outcome.COMPLETED if len(deleted) + len(failed) == len(paths) and not failed else Outcome.FAILED
            counts = {"deleted": str(len(deleted)), "failed": str(len(failed))}
            self.ledger.finish(intent, done, metadata=counts)
        return deleted, failed, intent.tracking_id

    # --- shared ----------------------------------------------------------------------------------------------

    def _operation(
        self,
        call: Call,
        action: str,
        disk: str,
        path: str,
        file: TrackedFile | None,
        metadata: Mapping[str, str] | None = None,
    ) -> Operation:
        return Operation(
            action=action,
            user=call.principal.username,
            cohort=file.cohort if file else None,
            file_id=file.file_id if file else None,
            disk=disk,
            file_path=path,
            file_type=file.file_type if file else None,
            file_size=int(file.size) if file and file.size is not None else None,
            file_hash=(file.sha256 or file.parts_sha256) if file else None,
            metadata=dict(metadata or {}),
            request_id=call.request_id,
        )

    def _due(self, place: Placement, now: float, hours: float | None) -> datetime | None:
        """When a file must be gone; None for what stays. Raises `InvalidRequest` for a deadline that cannot be."""
        if hours is not None and not (place.temporary and 0 < hours <= MAX_TEMPORARY_HOURS):
            raise InvalidRequest(f"Only temporary files have a deadline: above 0, at most {MAX_TEMPORARY_HOURS} hours.")
        period = self._temporary if hours is None else timedelta(hours=hours)
        return datetime.fromtimestamp(now, UTC) + period if place.temporary else None

    def _new_row(self, call: Call, place: Placement, now: float, due: datetime | None) -> TrackedFile:
        return TrackedFile(
            file_id=uuid.uuid4().hex,
            tracking_id=uuid.uuid4().hex,
            disk=place.disk,
            path=place.path,
            filename=place.filename,
            state=State.INTENT,
            purpose=place.purpose.value,
            owner=call.principal.username,
            created_at=now,
            updated_at=now,
            cohort=place.cohort,
            file_type=place.file_type,
            protocol_year=place.protocol_year,
            content_type=place.content_type,
            metadata=dict(place.metadata),
            cleanup_disk=place.disk if due else None,
            cleanup_due=due.timestamp() if due else None,
        )

    def _finish_quietly(self, intent: Intent, error: BaseException, moved: int) -> None:
        self._closer(intent)(moved, error)


def _intact(file: TrackedFile | None) -> None:
    """What was found to be damaged is not handed out. Raises `ObjectCorrupt`."""
    if file is not None and file.state == State.CORRUPT:
        raise ObjectCorrupt


def _unrecorded(failure: DepotError, intent: Intent) -> None:
    """The open intent stays behind as the trace; the operator is told."""
    fields = {"error_code": failure.code, "tracking_id": intent.tracking_id}
    observability.log_event("outcome_not_recorded", logging.WARNING, **fields)


def forwarded_note(count: int | None, sha256: str | None) -> dict[str, str]:
    """What the web tier says it forwarded, as the completion's event tells it beside the services tier's own figures."""
    if count is None:
        return {}
    return {"forwarded_bytes": str(count), **({"forwarded_sha256": sha256} if sha256 else {})}


def _both(first: Change, second: Change | None) -> Change:
    def change(transaction: TransactWrite) -> None:
        first(transaction)
        if second is not None:
            second(transaction)

    return change
