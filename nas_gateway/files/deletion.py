"""Deletion that is verified: decided in one transaction, carried out on the NAS, looked at, and only then recorded as done.

1. The intent's transaction makes the row DELETING, takes the path, and checks that no hold stands (`registry.deleting`).
2. The store erases the file and its versions; uploads in parts at the path that no live session names are aborted.
3. The store is asked what remains; anything is a failure.
4. The outcome's transaction closes the row and frees the path.

A crash anywhere leaves an open intent and a row that says DELETING: nobody can read or list the file any more, the sweep
and the clean-up go on with it, and nothing else can happen to it. A deletion that failed is tried again later, each time
after twice as long. Imported by the use-cases of this folder, the sweep and the clean-up.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass

from chalicelib import observability
from chalicelib.errors import DepotError, FileMissing, OnHold, StorageError, StorageUnavailable, UploadInProgress
from chalicelib.limits import LEASE_SECONDS
from chalicelib.storage.base import PartStorage
from nas_gateway.files import held
from nas_gateway.files.registry import Change, Registry
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.ledger.events import Intent, Operation, Outcome
from nas_gateway.ledger.ledger import ChangeRefused, Ledger
from nas_gateway.ledger.tables import PHIFileTracking

# Seconds until a failed deletion is tried again: doubled each time, at most a day.
FIRST_RETRY, LONGEST_RETRY = 5 * 60, 24 * 3600
# Deletions that failed so often need somebody.
STUCK_TRIES = 5
# States of a row whose bytes can be deleted; in the last, deletion has begun.
DELETABLE = (State.AVAILABLE, State.CORRUPT, State.DELETING)

UNKNOWN = "unknown"  # versions, of a store that cannot say

_STILL_THERE = "The file, or a version of it, is still there after it was deleted. It is tried again later."
_TAKEN = "An upload to the same place, or another deletion of the file, is under way. Try again in a moment."


@dataclass(frozen=True, slots=True)
class Deleted:
    """A deletion that ended. `versions` and `parts` went besides the file; None where the store keeps no versions."""

    tracking_id: str
    event: PHIFileTracking
    already_gone: bool
    versions: int | None
    parts: int


class Deletion:
    """Deletes files that the registry knows, and objects that it does not."""

    def __init__(
        self,
        disk: Callable[[str], PartStorage],
        ledger: Ledger,
        registry: Registry,
        *,
        clock: Callable[[], float] = time.time,
        live_handles: Callable[[], Collection[str | None]] | None = None,
    ) -> None:
        """`live_handles` are the uploads in parts that sessions stand for; without it none is aborted."""
        self._disk, self._ledger, self._registry, self._clock = disk, ledger, registry, clock
        self.live_handles = live_handles
        # Told of every deletion that `go_on` ended: whoever began it may have promised somebody a receipt.
        self.on_late: Callable[[Intent, TrackedFile | None, Deleted], None] = lambda intent, file, deleted: None

    def delete(
        self,
        operation: Operation,
        file: TrackedFile | None,
        *,
        tracking_id: str | None = None,
        missing_ok: bool = False,
    ) -> Deleted:
        """Delete what `operation` names; `file` is its row, None for an object that no row knows.

        A file that the registry knows and the NAS no longer has is closed, and the event says so. An object that is not
        there is `FileMissing` unless `missing_ok`. Raises `OnHold`, `UploadInProgress`, `FileMissing`, `StorageError`,
        `LedgerUnavailable`.
        """
        intent = self.begin(operation, file, tracking_id=tracking_id)
        return self.carry_out(intent, file, missing_ok=missing_ok)

    def begin(self, operation: Operation, file: TrackedFile | None, *, tracking_id: str | None = None) -> Intent:
        """Step 1. From here on the file ends deleted. Raises as `delete`."""
        tracking_id = tracking_id or uuid.uuid4().hex
        if file is None:
            change = self._registry.clearing(str(operation.disk), str(operation.file_path), tracking_id, LEASE_SECONDS)
        else:
            change = self._registry.deleting(file, tracking_id, LEASE_SECONDS)
        try:
            return self._ledger.begin(operation, tracking_id=tracking_id, changes=change)
        except ChangeRefused as refused:
            raise self._why(file, refused.index) from None

    def go_on(self, intent: Intent, file: TrackedFile | None) -> Deleted:
        """Steps 2 to 4 of a deletion that whoever began it did not end. Raises as `delete`."""
        operation = intent.operation
        if file is None:
            self._registry.hold_empty(str(operation.disk), str(operation.file_path), intent.tracking_id, LEASE_SECONDS)
        else:
            if held.standing(held.scopes_of(file)):
                raise OnHold
            self._registry.hold(file, intent.tracking_id, LEASE_SECONDS)
        deleted = self.carry_out(intent, file, missing_ok=True)
        self.on_late(intent, file, deleted)
        return deleted

    def carry_out(self, intent: Intent, file: TrackedFile | None, *, missing_ok: bool = False) -> Deleted:
        """Steps 2 to 4, while the path is ours. Raises as `delete`.

        An object that may have been erased, of which the store did not answer, leaves its intent open: call `go_on`, or the
        sweep does.
        """
        path, began = str(intent.operation.file_path), False
        try:
            storage = self._disk(str(intent.operation.disk))
            there, began = storage.exists(path), True
            versions: int | None = storage.erase(path)
            parts = self._abort_uploads(storage, path)
            left = storage.remains(path)
            if left.object or left.versions:
                raise StorageError(_STILL_THERE)
            gone = not there and not versions
            if gone and file is None and not missing_ok:
                raise FileMissing
        except BaseException as error:
            # Where the store did not answer, an object that no row knows may be gone: only an open intent has somebody look.
            if file is not None or not (began and isinstance(error, StorageUnavailable)):
                self._failed(intent, file, error)
            raise
        versions = None if left.versions is None else versions
        note = {"already_gone": "true"} if gone else {}
        if versions != 0:
            note["versions"] = UNKNOWN if versions is None else str(versions)
        note |= {"parts": str(parts)} if parts else {}
        try:
            event = self._ledger.finish(intent, Outcome.COMPLETED, metadata=note, changes=self._closing(intent, file))
        except ChangeRefused:
            raise UploadInProgress(_TAKEN) from None
        return Deleted(intent.tracking_id, event, gone, versions, parts)

    # --- steps -----------------------------------------------------------------------------------------------

    def _abort_uploads(self, storage: PartStorage, path: str) -> int:
        """Parts at the path are copies of PHI too. The path is ours, so none can be of a sender who still holds it."""
        found = storage.remains(path).uploads
        if not found or self.live_handles is None:
            return 0
        live = set(self.live_handles())
        strays = [handle for handle in found if handle not in live]
        for handle in strays:
            storage.abort_parts(path, handle)
        if strays and set(storage.remains(path).uploads) & set(strays):
            raise StorageError(_STILL_THERE)
        return len(strays)

    def _closing(self, intent: Intent, file: TrackedFile | None) -> Change:
        if file is not None:
            return self._registry.deleted(file, holder=intent.tracking_id)
        return self._registry.cleared(str(intent.operation.disk), str(intent.operation.file_path), intent.tracking_id)

    def _failed(self, intent: Intent, file: TrackedFile | None, error: BaseException) -> None:
        """Record the failure and when it is tried again. Where that fails too, the open intent is the trace."""
        if file is None:
            change = self._closing(intent, None)
        else:
            tries = int(file.cleanup_tries or 0) + 1
            change = self._registry.not_deleted(file, intent.tracking_id, tries, self._clock() + retry_after(tries))
            if tries >= STUCK_TRIES:
                fields = {
                    "file_id": file.file_id,
                    "disk": file.disk,
                    "attempt": tries,
                    "tracking_id": intent.tracking_id,
                }
                observability.log_event("deletion_stuck", logging.ERROR, **fields)
        try:
            self._ledger.finish(intent, Outcome.FAILED, error=error, changes=change)
        except (DepotError, ChangeRefused) as failure:
            code = failure.code if isinstance(failure, DepotError) else "change_refused"
            fields = {"error_code": code, "tracking_id": intent.tracking_id}
            observability.log_event("outcome_not_recorded", logging.WARNING, **fields)

    def _why(self, file: TrackedFile | None, index: int) -> DepotError:
        """What `deleting` was refused for: the path, the row, or a hold, in the order of its changes."""
        if file is None:
            return UploadInProgress(_TAKEN)
        if index >= 2:
            return OnHold()
        row = self._registry.get(file.file_id)
        return UploadInProgress(_TAKEN) if row is not None and row.state in DELETABLE else FileMissing()


def retry_after(tries: int) -> float:
    """Seconds until the next try after so many (1 or more) failed.

    >>> [retry_after(n) / 60 for n in (1, 2, 3, 20)]
    [5.0, 10.0, 20.0, 1440.0]
    """
    return float(min(FIRST_RETRY * 2 ** min(tries - 1, 30), LONGEST_RETRY))
