"""The use-cases around one file: upload, download, describe, delete. Each is an intent, the bytes, and an outcome.

The order is the point: the ledger hears of an operation before the first byte moves and of its end after the last, also
when it failed. If the ledger cannot be written, nothing moves. Imported by the internal API and the tracked storage.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pynamodb.transactions import TransactWrite

from chalicelib.auth.policy import SERVICE, Permission, Principal
from chalicelib.errors import (
    ClientDisconnected,
    DepotError,
    FileMissing,
    LeaseLost,
    LedgerUnavailable,
    PayloadTooLarge,
    UploadInProgress,
)
from chalicelib.limits import LEASE_SECONDS, MAX_OBJECT_BYTES
from chalicelib.storage.base import ByteRange, Download, ObjectInfo, PartStorage, Reader, SavedPath
from chalicelib.storage.paths import normalise, normalise_prefix
from nas_gateway.files.placement import Placement
from nas_gateway.files.registry import Change, Registry
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.files.watched import watch
from nas_gateway.ledger.events import Action, Intent, Operation, Outcome
from nas_gateway.ledger.ledger import ChangeRefused, Ledger

_log = logging.getLogger("depot.files")

_NOT_RECORDED = (
    "The file was stored, but its completion could not be recorded in the ledger. "
    "Look whether it is listed before sending it again; the operator's next sweep settles it."
)


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and under which request id. Without a user it is the services tier itself."""

    principal: Principal = SERVICE
    request_id: str | None = None

    @property
    def is_service(self) -> bool:
        return self.principal is SERVICE


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
    ) -> None:
        self.disk, self.ledger, self.registry = disk, ledger, registry
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
    ) -> SavedPath:
        """Store a stream as one file. Raises what the reader and the driver raise; nothing is kept then."""
        storage = self.disk(place.disk)
        source = watch(content, self.max_bytes)
        file, intent = self.announce(call, place, Action.FILE_UPLOADED_VIA_STREAM, if_absent=if_absent)
        source.every(LEASE_SECONDS / 3, lambda: self.registry.renew(file, LEASE_SECONDS))
        try:
            saved = storage.save(
                place.path, source, place.content_type, place.metadata, if_absent=if_absent, sha256=sha256
            )
        except BaseException as error:
            self.withdraw(file, intent, error, source.count)
            raise
        file.size, file.sha256, file.etag = saved.size, saved.sha256, saved.etag
        self.complete(file, intent)
        return SavedPath(
            place.path,
            size=saved.size,
            sha256=saved.sha256,
            etag=saved.etag,
            tracking_id=intent.tracking_id,
            file_id=file.file_id,
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
    ) -> tuple[TrackedFile, Intent]:
        """Authorise an upload, take its path and record its intent. Nothing has moved yet.

        Raises `Forbidden`, `FileExists`, `UploadInProgress`, `PayloadTooLarge`, `LedgerUnavailable`.
        """
        if size is not None and size > self.max_bytes:
            raise PayloadTooLarge(f"The largest file taken here is {self.max_bytes} bytes.")
        self._authorise_upload(call, place, if_absent=if_absent)
        now = self.clock()
        due = datetime.fromtimestamp(now, UTC) + self._temporary if place.temporary else None
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
        claim = self.registry.announce(file, if_absent=if_absent, hold_seconds=hold_seconds)
        try:
            intent = self.ledger.begin(operation, tracking_id=file.tracking_id, changes=_both(claim, also))
        except ChangeRefused:
            raise self.registry.refused(file, if_absent=if_absent) from None
        return file, intent

    def complete(
        self, file: TrackedFile, intent: Intent, *, action: str | None = None, also: Change | None = None
    ) -> None:
        """The bytes are on the NAS: make the file available and record the outcome, in one transaction.

        Raises `LeaseLost`, or `LedgerUnavailable` whose message says that the file is there but not recorded.
        """
        try:
            self.ledger.finish(
                intent,
                Outcome.COMPLETED,
                bytes_transferred=int(file.size or 0),
                file_size=int(file.size or 0),
                file_hash=file.sha256 or file.parts_sha256,
                action=action,
                changes=_both(self.registry.arrived(file), also),
            )
        except ChangeRefused:
            error = LeaseLost("Another upload took this path over while this one was held up. It was not recorded.")
            self.withdraw(file, intent, error, int(file.size or 0))
            raise error from None
        except LedgerUnavailable as error:
            raise LedgerUnavailable(_NOT_RECORDED) from error

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
            changes = _both(self.registry.withdrawn(file, state), also)
            self.ledger.finish(intent, Outcome.FAILED, bytes_transferred=moved, error=error, changes=changes)
        except ChangeRefused:  # the path changed hands between reading and writing: it is no longer ours to release
            self._finish_quietly(intent, error, moved)
        except DepotError as failure:
            _log.warning("outcome not recorded", extra={"code": failure.code, "tracking_id": intent.tracking_id})

    # --- download --------------------------------------------------------------------------------------------

    def download(self, call: Call, disk: str, path: str, range: ByteRange | None = None) -> Download:
        """Open a file for reading; closing what comes back records the outcome. Raises as `Storage.open`."""
        path = normalise(path)
        storage = self.disk(disk)
        file = self._permitted(call, Permission.READ, disk, path)
        metadata = {"range": range.header()} if range else {}
        intent = self.ledger.begin(self._operation(call, Action.FILE_DOWNLOADED_VIA_STREAM, disk, path, file, metadata))
        try:
            return _TrackedDownload(storage.open(path, range), file, self._closer(intent))
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
                _log.warning("outcome not recorded", extra={"code": failure.code, "tracking_id": intent.tracking_id})

        return close

    # --- describe --------------------------------------------------------------------------------------------

    def describe(self, call: Call, disk: str, path: str) -> ObjectInfo:
        """What the NAS holds at a path, with what the registry knows of it. Raises `FileMissing`."""
        path = normalise(path)
        file = self._permitted(call, Permission.LIST, disk, path)
        return _enriched(self.disk(disk).get_metadata(path), file)

    def exists(self, call: Call, disk: str, path: str) -> bool:
        path = normalise(path)
        try:
            self._permitted(call, Permission.LIST, disk, path)
        except FileMissing:
            return False
        return self.disk(disk).exists(path)

    def file(self, call: Call, file_id: str) -> TrackedFile:
        """An available file by its id. One of another cohort is `FileMissing`, not `Forbidden`."""
        file = self.registry.get(file_id)
        if file is None or file.state != State.AVAILABLE or not call.principal.may(Permission.LIST, file.cohort):
            raise FileMissing
        return file

    def require_prefix(self, call: Call, permission: Permission, prefix: str) -> None:
        """Listing a folder of the NAS itself: a user may see below `submissions/{cohort}/` of a permitted cohort."""
        parts = prefix.split("/")
        cohort = parts[1] if parts[0] == "submissions" and len(parts) > 1 else None
        if not call.is_service and not call.principal.may(permission, cohort):
            self._deny(call, permission, "", prefix, cohort)

    def temporary_files(self, *, created_before: float, limit: int) -> list[TrackedFile]:
        """Temporary files that are there and older than a moment (epoch seconds), those longest due first."""
        horizon = created_before + self._temporary.total_seconds()
        found = self.registry.due_for_cleanup(self._disks, before=horizon, limit=limit)
        return [file for file in found if file.state == State.AVAILABLE]

    # --- delete ----------------------------------------------------------------------------------------------

    def delete(self, call: Call, disk: str, path: str) -> str:
        """Delete one file; the tracking id. Raises `FileMissing`, `Forbidden`.

        A file that the registry knows and the NAS no longer has is closed, and the event says that it was already gone.
        """
        path = normalise(path)
        storage = self.disk(disk)
        file = self._permitted(call, Permission.DELETE, disk, path)
        intent = self.ledger.begin(self._operation(call, Action.FILE_DELETED_VIA_API, disk, path, file))
        note: dict[str, str] = {}
        try:
            try:
                storage.delete(path)
            except FileMissing:
                if file is None:
                    raise
                note["already_gone"] = "true"
        except BaseException as error:
            self._finish_quietly(intent, error, 0)
            raise
        try:
            changes = self.registry.deleted(file) if file else None
            self.ledger.finish(intent, Outcome.COMPLETED, metadata=note, changes=changes)
        except ChangeRefused:
            raise UploadInProgress("A new upload took the path while it was being deleted.") from None
        return intent.tracking_id

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
            self._permitted(call, Permission.DELETE, disk, path)
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

    def _authorise_upload(self, call: Call, place: Placement, *, if_absent: bool) -> None:
        if call.is_service:
            return
        if not call.principal.may(Permission.UPLOAD, place.cohort):
            self._deny(call, Permission.UPLOAD, place.disk, place.path, place.cohort)
        # Replacing is deleting, of what may be another cohort's.
        old = None if if_absent else self.registry.at(place.disk, place.path)
        if old is not None and not call.principal.may(Permission.DELETE, old.cohort):
            self._deny(call, Permission.DELETE, place.disk, place.path, old.cohort)

    def _permitted(self, call: Call, permission: Permission, disk: str, path: str) -> TrackedFile | None:
        """The row of the file at a path, once the caller may do this to it.

        To a user, a file of another cohort, and one that no row knows, is not there.
        """
        file = self.registry.at(disk, path)
        if call.is_service or (file is None and call.principal.scope(permission) is None):
            return file
        if file is None or not call.principal.may(Permission.LIST, file.cohort):
            self._note_denial(call, permission, disk, path, file.cohort if file else None)
            raise FileMissing
        if not call.principal.may(permission, file.cohort):
            self._deny(call, permission, disk, path, file.cohort)
        return file

    def _deny(self, call: Call, permission: Permission, disk: str, path: str, cohort: str | None) -> None:
        self._note_denial(call, permission, disk, path, cohort)
        call.principal.require(permission, cohort)
        raise AssertionError("require() must have raised")

    def _note_denial(self, call: Call, permission: Permission, disk: str, path: str, cohort: str | None) -> None:
        operation = Operation(
            action=Action.ACCESS_DENIED,
            user=call.principal.username,
            cohort=cohort,
            disk=disk,
            file_path=path,
            metadata={"permission": permission.value},
            request_id=call.request_id,
        )
        self.ledger.record(operation, Outcome.FAILED)

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


def _both(first: Change, second: Change | None) -> Change:
    def change(transaction: TransactWrite) -> None:
        first(transaction)
        if second is not None:
            second(transaction)

    return change


def _enriched(info: ObjectInfo, file: TrackedFile | None) -> ObjectInfo:
    if file is None:
        return info
    return ObjectInfo(
        path=info.path,
        size=info.size,
        etag=info.etag,
        modified_at=info.modified_at,
        content_type=file.content_type or info.content_type,
        sha256=file.sha256 or info.sha256,
        metadata=file.metadata or info.metadata,
    )


class _TrackedDownload(Download):
    """A driver's download whose end is recorded: completed when every byte was read, otherwise failed with the count."""

    def __init__(
        self, inner: Download, file: TrackedFile | None, closed: Callable[[int, BaseException | None], None]
    ) -> None:
        self.info, self.start, self.count = _enriched(inner.info, file), inner.start, inner.count
        self._inner, self._closed, self._moved, self._done = inner, closed, 0, False
        self._error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            block = self._inner.read(size)
        except BaseException as error:
            self._error = error
            raise
        self._moved += len(block)
        return block

    def __iter__(self) -> Iterator[bytes]:
        return super().__iter__()

    def close(self) -> None:
        if self._done:
            return
        self._done = True
        try:
            self._inner.close()
        finally:
            error = self._error
            if error is None and self._moved < self.count:
                error = ClientDisconnected("The reader went away before the end of the file.")
            self._closed(self._moved, error)
