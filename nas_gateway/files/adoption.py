"""What `PHIFileTracking.log_operation` says must be cleaned up becomes a row with a deadline, so that it is.

A developer's code may write a temporary file by itself and only log it, as the seeds show. Stands before the ledger as
the default that `log_operation` records through; made by the wiring.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pynamodb.transactions import TransactWrite

from chalicelib.errors import FileMissing, InvalidPath, InvalidRequest, StorageError
from chalicelib.storage.base import ObjectInfo, PartStorage
from nas_gateway.files.placement import Placement, place
from nas_gateway.files.registry import NO_COHORT, Change, Registry, claim_key
from nas_gateway.files.tables import PathClaim, State, TrackedFile
from nas_gateway.ledger.events import Operation, Outcome
from nas_gateway.ledger.ledger import ChangeRefused, Ledger
from nas_gateway.ledger.tables import PHIFileTracking


class AdoptingLedger:
    """`ledger_tables.Recorder` that also keeps the registry right.

    A row is made, or its deadline moved, for a completed event with `cleanup_required` and a path of this installation:
    relative and well-formed, not a submission's. Anything else (an absolute path of some machine, a path that an upload is
    on its way to) is recorded and no more: nothing here could delete it. Where no disk is told, it is the scratch disk for
    paths under `scratch/`, and the workspace disk for others, as `WorkspaceManager` has it.
    """

    def __init__(
        self,
        ledger: Ledger,
        registry: Registry,
        disk: Callable[[str], PartStorage],
        *,
        workspace: str,
        scratch: str,
        disks: Collection[str],
        temporary_hours: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger, self._registry, self._disk = ledger, registry, disk
        self._workspace, self._scratch, self._known = workspace, scratch, frozenset(disks)
        self._hours, self._clock = temporary_hours, clock

    def record(
        self,
        operation: Operation,
        outcome: Outcome = Outcome.COMPLETED,
        *,
        error: BaseException | str | None = None,
        bytes_transferred: int = 0,
    ) -> PHIFileTracking:
        """As `Ledger.record`."""
        where = self._place(operation) if outcome is Outcome.COMPLETED else None
        if where is not None:
            tracking_id = uuid.uuid4().hex
            told, change = self._adopt(operation, where, tracking_id)
            try:
                return self._ledger.record(
                    told, outcome, bytes_transferred=bytes_transferred, tracking_id=tracking_id, changes=change
                )
            except ChangeRefused:
                pass  # the path is somebody else's now, who tracks it
        return self._ledger.record(operation, outcome, error=error, bytes_transferred=bytes_transferred)

    def _place(self, operation: Operation) -> Placement | None:
        if not operation.cleanup_required or not operation.file_path or operation.file_id:
            return None
        try:
            found = place(operation.disk or "", operation.file_path)
        except (InvalidPath, InvalidRequest):
            return None
        if not found.temporary:
            return None
        disk = operation.disk or (self._scratch if found.path.startswith("scratch/") else self._workspace)
        if disk not in self._known:
            return None
        return replace(found, disk=disk, cohort=operation.cohort, file_type=operation.file_type)

    def _adopt(self, operation: Operation, where: Placement, tracking_id: str) -> tuple[Operation, Change]:
        now = self._clock()
        due = operation.expected_cleanup_by or datetime.fromtimestamp(now, UTC) + timedelta(hours=self._hours)
        held = self._registry.at(where.disk, where.path)
        if held is not None:
            told = replace(operation, file_id=held.file_id, disk=where.disk, expected_cleanup_by=due)
            return told, _moved(held, due.timestamp())
        info = self._look(where)
        file = TrackedFile(
            file_id=uuid.uuid4().hex,
            tracking_id=tracking_id,
            disk=where.disk,
            path=where.path,
            filename=where.filename,
            state=State.AVAILABLE,
            purpose=where.purpose.value,
            owner=operation.user or "service",
            created_at=now,
            updated_at=now,
            cohort=where.cohort,
            file_type=where.file_type,
            content_type=where.content_type,
            size=operation.file_size if info is None else info.size,
            etag=None if info is None else info.etag,
            metadata={},
            listed_in=where.cohort or NO_COHORT,
            cleanup_disk=where.disk,
            cleanup_due=due.timestamp(),
        )
        file.listed_at = f"{file.updated_iso()}#{file.file_id}"
        told = replace(operation, file_id=file.file_id, disk=where.disk, expected_cleanup_by=due)
        return told, _new(file)

    def _look(self, where: Placement) -> ObjectInfo | None:
        """What is there. The event must not depend on the NAS: what cannot be seen is tracked all the same."""
        try:
            return self._disk(where.disk).get_metadata(where.path)
        except (FileMissing, StorageError):
            return None


def _new(file: TrackedFile) -> Change:
    def change(transaction: TransactWrite) -> None:
        transaction.update(
            PathClaim(claim_key(file.disk, file.path)),
            [PathClaim.file_id.set(file.file_id)],
            condition=PathClaim.file_id.does_not_exist() & PathClaim.pending.does_not_exist(),
        )
        transaction.save(file, condition=TrackedFile.file_id.does_not_exist())

    return change


def _moved(file: TrackedFile, due: float) -> Change:
    """The deadline that was said last counts, where there is one: a file that stays is not made to go."""

    def change(transaction: TransactWrite) -> None:
        transaction.update(
            TrackedFile(file.file_id),
            [TrackedFile.cleanup_due.set(due)],
            condition=TrackedFile.cleanup_due.exists() & (TrackedFile.state == State.AVAILABLE),
        )

    return change
