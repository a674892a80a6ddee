"""The clean-up: plan, apply, receipts, the scheduled job. Made by the wiring; used by the internal API, the CLI and the job.

A plan deletes nothing. Applying it deletes what it lists and what still is to go, up to the limits, and answers what became
of each item; asked again it answers the same.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, Protocol

from chalicelib import metrics, observability
from chalicelib.auth.policy import Permission
from chalicelib.errors import DepotError, PlanChanged, PlanInProgress, PlanMissing
from nas_gateway.cleanup import plans
from nas_gateway.cleanup.applying import Applier, Counts
from nas_gateway.cleanup.items import SWEPT, Item, Limits, Options, Outcome, Rule
from nas_gateway.cleanup.limits import allowed
from nas_gateway.cleanup.objects import UnknownObjects, Walk
from nas_gateway.cleanup.tables import CleanupReceipt
from nas_gateway.cleanup.tracked import TrackedFiles
from nas_gateway.files import maintenance
from nas_gateway.files.access import Call
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger.events import Action, Operation
from nas_gateway.ledger.events import Outcome as Ended
from nas_gateway.uploads.sweep import Sweep

# A plan looks at so many rows and so many objects at most; the next goes on.
MAX_FOUND = 20_000
# Named in an answer at most; everything is counted.
SHOWN = 1000


class Deadline(Protocol):
    """`nas_gateway.jobs.Deadline`, as far as it is needed here."""

    def left(self) -> float: ...


class Cleanup:
    """The use-cases. `limits` are the usual ones."""

    def __init__(
        self,
        transfers: Transfers,
        tracked: TrackedFiles,
        objects: UnknownObjects,
        sweep: Callable[[], Sweep],
        applier: Applier,
        limits: Limits,
    ) -> None:
        self._transfers = transfers
        self._tracked, self._objects, self._sweep = tracked, objects, sweep
        self._applier, self.limits = applier, limits

    def _clock(self) -> float:
        return self._transfers.clock()

    # --- plan ------------------------------------------------------------------------------------------------

    def plan(self, call: Call, hours: float | None = None) -> dict[str, Any]:
        """Make a plan and keep it for an hour. `hours`: what is older (0: now); None: what is past its deadline.

        Raises `Forbidden`, `InvalidRequest`, `LedgerUnavailable`.
        """
        self._require(call)
        return self._shown(self._made(hours))

    def show(self, call: Call, plan_id: str, number: int = SHOWN, after: int = 0) -> dict[str, Any]:
        """A plan that was made, `number` of its items from `after` on. Raises `Forbidden`, `PlanMissing`."""
        self._require(call)
        return self._shown(plans.load(plan_id), number, after)

    def _made(self, hours: float | None) -> plans.Stored:
        options, now = Options(hours), self._clock()
        walk = Walk(plans.cursors())
        found = list(
            chain(
                self._tracked.find(options, MAX_FOUND),
                self._objects.find(options, walk, MAX_FOUND),
                self._leftovers(),
            )
        )
        plans.keep_cursors(walk.cursors)
        items = [item for item in found if item.reason is None]
        skipped = [item for item in found if item.reason is not None]
        totals = {
            "items": len(items),
            "bytes": sum(item.size for item in items),
            "by_rule": dict(Counter(item.rule.value for item in items)),
            "skipped": dict(Counter(str(item.reason) for item in skipped)),
            "walk_unfinished": sorted({name.partition(":")[0] for name in walk.cursors}),
            "disks_away": dict(walk.failed),
        }
        plan = plans.Plan(uuid.uuid4().hex, now, now + plans.VALID_SECONDS, {"hours": hours}, items, skipped, totals)
        return plans.Stored(plan, plans.save(plan), plans.READY, None)

    def _leftovers(self) -> list[Item]:
        """What the sweep would remove: it is asked, not done again here."""
        now, report = self._clock(), self._sweep().run(dry_run=True)
        rules = {rule.value for rule in SWEPT}
        return [
            Item(id=found["id"], rule=Rule(found["rule"]), disk=found["disk"], created_at=now, active_at=now)
            for found in report.items
            if found["rule"] in rules
        ]

    # --- apply -----------------------------------------------------------------------------------------------

    def apply(
        self,
        call: Call,
        plan_id: str,
        hash: str,
        limits: Mapping[str, float] | None = None,
        deadline: Deadline | None = None,
    ) -> dict[str, Any]:
        """Do what a plan says. A plan is applied once: asked again, the answer is what came of it then.

        Where `deadline` ends before the plan, the outcome is `stopped`: asked again, it goes on. Raises `Forbidden`,
        `PlanMissing`, `PlanExpired`, `PlanChanged`, `PlanInProgress`, `LedgerUnavailable`.
        """
        self._require(call)
        stored = plans.load(plan_id)
        if stored.hash != hash:
            raise PlanChanged
        if stored.state == plans.DONE:
            return self._answer(stored)
        return self._applied(call, stored, self._limits(limits), deadline)

    def _applied(self, call: Call, stored: plans.Stored, limits: Limits, deadline: Deadline | None) -> dict[str, Any]:
        plan, lease = stored.plan, plans.Lease.take(stored, self._clock())
        if not plan.items:
            return {**self._ended(stored, lease, "done", Counts()), "items": []}
        operation = Operation(
            action=Action.WORKSPACE_CLEANUP,
            user=None if call.is_service else call.principal.username,
            metadata={"plan_id": plan.plan_id, "plan_hash": stored.hash, "files": str(len(plan.items))},
            request_id=call.request_id,
        )
        intent = self._transfers.ledger.begin(operation)
        result: dict[str, Any] | None = None
        try:
            result = self._each(call, stored, lease, limits, deadline)
        finally:
            counts = {key: str(result[key]) for key in ("deleted", "failed", "skipped")} if result else {}
            good = result is not None and not result["failed"]
            told = {**counts, **({"outcome": str(result["outcome"])} if result else {})}
            self._transfers.ledger.finish(intent, Ended.COMPLETED if good else Ended.FAILED, metadata=told)
        self.count_stuck()
        return {**result, "items": self._outcomes(plan.plan_id)}

    def _each(
        self, call: Call, stored: plans.Stored, lease: plans.Lease, limits: Limits, deadline: Deadline | None
    ) -> dict[str, Any]:
        plan, done = stored.plan, {int(row.number): row for row in plans.outcomes(stored.plan.plan_id)}
        left, counts = allowed(plan.items, limits, self._transfers.registry), Counts()
        again, renewed, outcome = stored.state == plans.STARTED, self._clock(), "done"
        for row in done.values():
            counts.note(row.outcome, row.detail)
            left.use(plan.items[int(row.number)], row.outcome)
        for number, item in enumerate(plan.items):
            if number in done:
                continue
            if deadline is not None and deadline.left() <= 0:
                outcome = "stopped"
                break
            if not left.room(item):
                outcome = "limited"
                counts.note(Outcome.NOT_DONE.value, None)
                continue
            if self._clock() - renewed > plans.LEASE_SECONDS / 4:
                lease.renew(self._clock())
                renewed = self._clock()
            row = self._applier.do(call, plan, number, again=again)
            again = False  # items are done in order: only the first could have been begun
            counts.note(row.outcome, row.detail)
            left.use(item, row.outcome)
        return self._ended(stored, lease, outcome, counts)

    def _ended(self, stored: plans.Stored, lease: plans.Lease, outcome: str, counts: Counts) -> dict[str, Any]:
        plan, by = stored.plan, counts.by_outcome
        result: dict[str, Any] = {
            "plan_id": plan.plan_id,
            "hash": stored.hash,
            "outcome": outcome,
            "found": len(plan.items),
            "deleted": by[Outcome.DELETED] + by[Outcome.ALREADY_GONE],
            "already_gone": by[Outcome.ALREADY_GONE],
            "skipped": by[Outcome.SKIPPED],
            "failed": by[Outcome.FAILED],
            "not_done": len(plan.items) - sum(by.values()) + by[Outcome.NOT_DONE],
            "failures": dict(counts.failures),
        }
        if outcome == "stopped":
            lease.let_go()
        else:
            lease.end(result)
        if outcome == "limited":
            metrics.count("depot_cleanup_limited_total")
            observability.log_event(
                "cleanup_limited", logging.WARNING, plan_id=plan.plan_id, skipped=result["not_done"]
            )
        observability.log_event(
            "cleanup_applied", plan_id=plan.plan_id, deleted=result["deleted"], failed=result["failed"], outcome=outcome
        )
        return result

    # --- receipts --------------------------------------------------------------------------------------------

    def receipts(self, call: Call, plan_id: str) -> dict[str, Any]:
        """What became of each item of a plan, with its receipt. Raises `Forbidden`, `PlanMissing`."""
        self._require(call)
        found = plans.outcomes(plan_id)
        if not found:
            plans.load(plan_id)  # raises where there is none
        return {"plan_id": plan_id, "receipts": [_receipt(row) for row in found]}

    # --- as one call, and on schedule ------------------------------------------------------------------------

    def clean_up(self, call: Call, *, hours: float | None, dry_run: bool) -> dict[str, Any]:
        """Plan and apply at once, in the shape of the seeds: `{dry_run, hours, found, deleted, failed, items, …}`."""
        self._require(call)
        stored = self._made(hours)
        shown = self._shown(stored)
        if dry_run:
            return {
                "dry_run": True,
                "hours": hours,
                "found": len(stored.plan.items),
                "deleted": 0,
                "failed": 0,
                **shown,
            }
        result = self._applied(call, stored, self.limits, None)
        told = {str(item["file_id"]): item for item in shown["items"]}
        items = [{**told.get(str(row["file_id"]), {}), **row} for row in result["items"]]
        return {"dry_run": False, "hours": hours, **result, "items": items, "totals": shown["totals"]}

    def job(self, deadline: Deadline) -> Mapping[str, int]:
        """The scheduled run: ends what earlier runs began, then plans and applies. The counts of its record.

        Raises what `plan` raises; a plan that somebody else is at is left to them.
        """
        counts = Counter[str](found=0, deleted=0, failed=0, skipped=0, not_done=0)
        for plan_id in plans.unfinished():
            try:
                stored = plans.load(plan_id)
                if stored.state == plans.STARTED:
                    counts.update(_numbers(self._applied(Call(), stored, self.limits, deadline)))
                else:
                    plans.no_longer_applied(plan_id)  # a crash after its end, or before its beginning
            except PlanInProgress:
                continue
            except (PlanMissing, PlanChanged) as error:
                observability.log_event(
                    "cleanup_plan_unreadable", logging.ERROR, plan_id=plan_id, error_code=error.code
                )
                plans.no_longer_applied(plan_id)
        if deadline.left() > 0:
            counts.update(_numbers(self._applied(Call(), self._made(None), self.limits, deadline)))
        return dict(counts)

    def count_stuck(self) -> int:
        """Files whose deletion failed so often that somebody has to look; also sets the gauge."""
        try:
            stuck = maintenance.stuck_files(self._transfers.registry, self._clock())
        except DepotError:
            return 0
        metrics.gauge("depot_cleanup_stuck_files", stuck)
        return stuck

    # --- steps -----------------------------------------------------------------------------------------------

    def _require(self, call: Call) -> None:
        if not call.is_service and not call.principal.may(Permission.CLEANUP, None):
            self._transfers.access.deny(call, Permission.CLEANUP, "", "", None)

    def _limits(self, told: Mapping[str, float] | None) -> Limits:
        told = told or {}
        return Limits(
            int(told.get("max_files", self.limits.max_files)), float(told.get("max_percent", self.limits.max_percent))
        )

    def _shown(self, stored: plans.Stored, number: int = SHOWN, after: int = 0) -> dict[str, Any]:
        plan = stored.plan
        return {
            "plan_id": plan.plan_id,
            "hash": stored.hash,
            "state": stored.state,
            "created_at": _iso(plan.created_at),
            "expires_at": _iso(plan.expires_at),
            "options": dict(plan.options),
            "limits": {"max_files": self.limits.max_files, "max_percent": self.limits.max_percent},
            "totals": dict(plan.totals),
            "items": _listed(plan.items, plan.created_at, number, after),
            "skipped": _listed(plan.skipped, plan.created_at, number, after),
            "result": dict(stored.result) if stored.result else None,
        }

    def _answer(self, stored: plans.Stored) -> dict[str, Any]:
        return {**(stored.result or {}), "items": self._outcomes(stored.plan.plan_id)}

    def _outcomes(self, plan_id: str) -> list[dict[str, Any]]:
        return [
            {"file_id": row.item_id, "outcome": row.outcome, **({"detail": row.detail} if row.detail else {})}
            for row in islice(plans.outcomes(plan_id), SHOWN)
        ]


def _listed(items: Sequence[Item], now: float, number: int, after: int) -> list[dict[str, Any]]:
    return [item.shown(now) for item in items[after : after + number]]


def _receipt(row: CleanupReceipt) -> dict[str, Any]:
    return {
        "file_id": row.item_id,
        "outcome": row.outcome,
        "detail": row.detail,
        "receipt": row.receipt,
        "signature": row.signature,
        "public_key": row.public_key,
    }


def _numbers(result: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(result[name]) for name in ("found", "deleted", "failed", "skipped", "not_done")}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
