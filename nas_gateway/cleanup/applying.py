"""Applying a plan: each item looked at again, deleted, seen to be gone, and given a receipt. For this package.

Every item is an operation of its own, whose id is made from the plan's and the item's place in it: whoever goes on with a
plan after a crash finds by it what was begun, and ends it instead of beginning anew.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chalicelib import metrics, observability
from chalicelib.auth.policy import SERVICE
from chalicelib.errors import DepotError, FileMissing, OnHold, OperationEnded, StorageError, UploadInProgress
from nas_gateway.cleanup import plans, receipts
from nas_gateway.cleanup.backup import Backup
from nas_gateway.cleanup.items import SWEPT, Item, Options, Outcome, Rule, Skip
from nas_gateway.cleanup.objects import UnknownObjects
from nas_gateway.cleanup.tables import CleanupReceipt
from nas_gateway.cleanup.tracked import TrackedFiles
from nas_gateway.files.access import Call
from nas_gateway.files.deletion import UNKNOWN, Deleted
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import Action, Intent, Operation
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.uploads.sweep import Sweep

if TYPE_CHECKING:
    from nas_gateway.ledger.signing import SigningKey


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one item. `detail` is the reason of a skip, or the code of an error."""

    outcome: Outcome
    detail: str | None = None
    deleted: Deleted | None = None
    file: TrackedFile | None = None


@dataclass(slots=True)
class Counts:
    """By outcome; `failures` by error code."""

    by_outcome: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def note(self, outcome: str, detail: str | None) -> None:
        self.by_outcome[outcome] += 1
        if outcome == Outcome.FAILED:
            self.failures[detail or "?"] += 1


class Applier:
    """Does the items of plans, one at a time. `key` signs receipts; without one they are unsigned."""

    def __init__(
        self,
        transfers: Transfers,
        tracked: TrackedFiles,
        objects: UnknownObjects,
        sweep: Callable[[], Sweep],
        *,
        key: Callable[[], SigningKey | None],
        backup: Backup | None = None,
    ) -> None:
        self._transfers, self._tracked, self._objects, self._sweep = transfers, tracked, objects, sweep
        self._key, self._backup = key, backup
        transfers.deletion.on_late = self.late

    def do(self, call: Call, plan: plans.Plan, number: int, *, again: bool = False) -> CleanupReceipt:
        """Delete item `number` of a plan if it still is to go. One that fails raises nothing: the next ones go on.

        `again`: an earlier run of this plan may have begun with it.
        Raises `LedgerUnavailable` where what became of it cannot be written down.
        """
        item = plan.items[number]
        try:
            ended = self._begun_before(plan, number, item) if again and item.rule not in SWEPT else None
            if ended is not None:
                done = ended
            elif item.rule in SWEPT:
                done = self._swept(item)
            elif item.rule is Rule.OBJECT:
                done = self._object(call, plan, number, item)
            else:
                done = self._file(call, plan, number, item)
        except DepotError as error:
            done = _refused(error)
        except Exception as error:  # noqa: BLE001 -- one broken item must not keep the others from being deleted
            observability.log_exception("cleanup_item_failed", error, plan_id=plan.plan_id, rule=item.rule.value)
            done = Done(Outcome.FAILED, "internal_error")
        row = self._row(None if call.is_service else call.principal.username, plan, number, item, done)
        plans.put_outcome(row)
        _tell(item, done, plan.plan_id)
        return row

    def late(self, intent: Intent, file: TrackedFile | None, deleted: Deleted) -> None:
        """A deletion that a plan began was ended by somebody else, such as the sweep: its receipt, in place of the failure.

        What cannot be written down now is in the ledger all the same: it raises nothing.
        """
        plan_id = intent.operation.metadata.get("plan_id")
        if not plan_id:
            return
        try:
            plan = plans.load(plan_id).plan
            for number, item in enumerate(plan.items):
                if operation_id(plan_id, number) == intent.tracking_id:
                    outcome = Outcome.ALREADY_GONE if deleted.already_gone else Outcome.DELETED
                    done = Done(outcome, None, deleted, file)
                    plans.put_outcome(self._row(intent.operation.user, plan, number, item, done), late=True)
        except DepotError as error:
            observability.log_event("receipt_not_written", logging.WARNING, plan_id=plan_id, error_code=error.code)

    # --- one item --------------------------------------------------------------------------------------------

    def _file(self, call: Call, plan: plans.Plan, number: int, item: Item) -> Done:
        tracking_id = operation_id(plan.plan_id, number)
        file = self._transfers.registry.get(item.id)
        if file is None:
            return Done(Outcome.ALREADY_GONE)
        if file.state in (State.DELETED, State.REPLACED):
            return Done(Outcome.ALREADY_GONE)
        begun = file.state == State.DELETING
        rule, reason = self._tracked.judge(file, _options(plan))
        if reason is not None:
            return Done(Outcome.SKIPPED, reason.value)
        if self._backup is not None and not begun:
            if self._tracked.on_hold(file):  # before a copy is made for nothing
                return Done(Outcome.SKIPPED, Skip.ON_HOLD.value)
            self._backup.copy(file.disk, file.path, file.file_id, file)
        operation = Operation(
            action=Action.TEMPORARY_FILE_DELETED,
            user=None if call.is_service else call.principal.username,
            cohort=file.cohort,
            file_id=file.file_id,
            disk=file.disk,
            file_path=file.path,
            file_type=file.file_type,
            file_size=None if file.size is None else int(file.size),
            file_hash=file.sha256 or file.parts_sha256,
            # As `mark_cleaned_up`: the operation that made the copy.
            metadata={"rule": rule.value, "plan_id": plan.plan_id, "cleans": file.tracking_id},
            request_id=call.request_id,
        )
        deleted = self._transfers.deletion.delete(operation, file, tracking_id=tracking_id)
        return Done(Outcome.ALREADY_GONE if deleted.already_gone else Outcome.DELETED, None, deleted, file)

    def _object(self, call: Call, plan: plans.Plan, number: int, item: Item) -> Done:
        tracking_id = operation_id(plan.plan_id, number)
        info, reason = self._objects.again(item, _options(plan))
        if reason is not None:
            return Done(Outcome.SKIPPED, reason.value)
        if info is None:
            return Done(Outcome.ALREADY_GONE)
        if self._backup is not None:
            self._backup.copy(item.disk, item.path, item.id, None)
        operation = Operation(
            action=Action.ORPHAN_OBJECT_DELETED,
            user=None if call.is_service else call.principal.username,
            disk=item.disk,
            file_path=item.path,
            file_size=info.size,
            metadata={"rule": item.rule.value, "plan_id": plan.plan_id, "object": item.id},
            request_id=call.request_id,
        )
        deletion = self._transfers.deletion
        try:
            deleted = deletion.delete(operation, None, tracking_id=tracking_id, missing_ok=True)
        except StorageError:
            intent = self._transfers.ledger.open_intent(tracking_id)
            if intent is None:  # it has failed
                raise
            deleted = deletion.go_on(intent, None)  # it was erased, and not looked for: once more
        return Done(Outcome.ALREADY_GONE if deleted.already_gone else Outcome.DELETED, None, deleted)

    def _swept(self, item: Item) -> Done:
        report = self._sweep().run(only={(item.rule.value, item.id)})
        if report.failures:
            return Done(Outcome.FAILED, next(iter(next(iter(report.failed.values())))))
        if report.repaired:
            return Done(Outcome.DELETED)
        return Done(Outcome.SKIPPED, Skip.LIVE_LEASE.value) if report.skipped else Done(Outcome.ALREADY_GONE)

    def _begun_before(self, plan: plans.Plan, number: int, item: Item) -> Done | None:
        """The end of an operation that an earlier run of this plan began; None where none was."""
        tracking_id = operation_id(plan.plan_id, number)
        file = None if item.rule is Rule.OBJECT else self._transfers.registry.get(item.id)
        intent = self._transfers.ledger.open_intent(tracking_id)
        if intent is not None:
            deleted = self._transfers.deletion.go_on(intent, file)
            return Done(Outcome.ALREADY_GONE if deleted.already_gone else Outcome.DELETED, None, deleted, file)
        events = queries.query(tracking_id=tracking_id, limit=10).events
        ended = [event for event in events if event.outcome != "intent"]
        if not ended:
            return None
        event = ended[-1]
        if event.outcome != "completed":
            return Done(Outcome.FAILED, event.error_code)
        deleted = _told(event)
        return Done(Outcome.ALREADY_GONE if deleted.already_gone else Outcome.DELETED, None, deleted, file)

    def _row(self, user: str | None, plan: plans.Plan, number: int, item: Item, done: Done) -> CleanupReceipt:
        row = CleanupReceipt(plan.plan_id, number, item_id=item.id, outcome=done.outcome.value, detail=done.detail)
        if done.deleted is not None:
            who = user or SERVICE.username
            signed = receipts.make(item, plan.plan_id, who, done.deleted, done.file, self._key)
            row.receipt, row.signature, row.public_key = signed.text, signed.signature, signed.public_key
        return row


def operation_id(plan_id: str, number: int) -> str:
    """The tracking id of what is done with an item."""
    return hashlib.sha256(f"{plan_id}/{number}".encode()).hexdigest()[:32]


def _options(plan: plans.Plan) -> Options:
    return Options(plan.options.get("hours"))


def _refused(error: DepotError) -> Done:
    if isinstance(error, OnHold):
        return Done(Outcome.SKIPPED, Skip.ON_HOLD.value)
    if isinstance(error, (UploadInProgress, OperationEnded)):  # somebody else is at it
        return Done(Outcome.SKIPPED, Skip.LIVE_LEASE.value)
    if isinstance(error, FileMissing) and not isinstance(error, StorageError):
        return Done(Outcome.ALREADY_GONE)
    return Done(Outcome.FAILED, error.code)


def _told(event: PHIFileTracking) -> Deleted:
    """A deletion as its event tells it."""
    about = dict(event.metadata or {})
    return Deleted(
        event.tracking_id,
        event,
        about.get("already_gone") == "true",
        None if about.get("versions") == UNKNOWN else int(about.get("versions", "0")),
        int(about.get("parts", "0")),
    )


def _tell(item: Item, done: Done, plan_id: str) -> None:
    if done.outcome is Outcome.DELETED:
        metrics.count("depot_cleanup_deleted_total", rule=item.rule.value)
    if done.outcome is Outcome.FAILED:
        metrics.count("depot_cleanup_failed_total")
        observability.log_event(
            "cleanup_failed",
            logging.WARNING,
            file_id=item.id,
            rule=item.rule.value,
            disk=item.disk,
            error_code=done.detail or "",
            plan_id=plan_id,
        )
