"""What the calls about clean-up, holds and the storage report answer.

Declared because the services tier makes these as plain objects. Used by the operations alone; a test compares every one with
what the running tiers answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from chalicelib.web.openapi.kinds import Bytes, Count, Digest, Id, Numbers, Time
from chalicelib.web.openapi.schemas import says

# --- clean-up and holds -----------------------------------------------------------------------------------------------


class PlanItem(TypedDict):
    """A candidate, or with `reason` one that stays. Sizes in bytes, ages in hours."""

    file_id: str
    rule: str
    disk: str
    size: Bytes
    age_hours: float
    idle_hours: float
    tries: Count
    overdue_hours: NotRequired[float]
    reason: NotRequired[str]


class PlanOptions(TypedDict):
    hours: float | None


class PlanLimits(TypedDict):
    """How much one plan may delete: files, and percent of a disk's files."""

    max_files: Count
    max_percent: Annotated[float, says(minimum=0, maximum=100)]


class PlanTotals(TypedDict):
    """`by_rule` and `skipped` count; `disks_away`: disks that could not be looked at, and why."""

    items: Count
    bytes: Bytes
    by_rule: Numbers
    skipped: Numbers
    walk_unfinished: list[str]
    disks_away: dict[str, str]


class PlanResult(TypedDict):
    """What came of applying a plan. `stopped`: ask again for the rest. `failures` count by error code."""

    plan_id: Id
    hash: Digest
    outcome: str
    found: Count
    deleted: Count
    already_gone: Count
    skipped: Count
    failed: Count
    not_done: Count
    failures: Numbers


class PlanOutcome(TypedDict):
    """What became of one item; `detail` is why it stayed, or an error code."""

    file_id: str
    outcome: str
    detail: NotRequired[str]


class AppliedPlan(PlanResult):
    """What came of applying a plan, item by item."""

    items: list[PlanOutcome]


class Plan(TypedDict):
    """What a clean-up would delete and why, and what stays and why. Good for an hour."""

    plan_id: Id
    hash: Digest
    state: str
    created_at: Time
    expires_at: Time
    options: PlanOptions
    limits: PlanLimits
    totals: PlanTotals
    items: list[PlanItem]
    skipped: list[PlanItem]
    result: PlanResult | None


class DeletionReceipt(TypedDict):
    """Proof that one item went; `receipt` is canonical JSON, `signature` over it (docs/cleanup.md)."""

    file_id: str
    outcome: str
    detail: str | None
    receipt: str | None
    signature: str | None
    public_key: str | None


class Receipts(TypedDict):
    plan_id: Id
    receipts: list[DeletionReceipt]


class Hold(TypedDict):
    """A legal hold on a file or on a cohort."""

    scope: str
    file_id: str | None
    cohort: str | None
    reason: str
    set_by: str
    set_at: Time


class Holds(TypedDict):
    holds: list[Hold]


class LiftedHold(TypedDict):
    scope: str
    lifted: Literal[True]


# --- the report -------------------------------------------------------------------------------------------------------


class Sum(TypedDict):
    files: Count
    bytes: Bytes


class NamedSum(Sum):
    name: str


class Totals(Sum):
    temporary: Sum
    corrupt: Sum


class GrowthDay(TypedDict):
    """What was added on a day, and what there was in all; null where nobody counted."""

    day: str
    added_files: Count
    added_bytes: Bytes
    files: Count | None
    bytes: Bytes | None


class AgeBand(Sum):
    """Temporary copies of an age; `to_hours` null: no end."""

    from_hours: float
    to_hours: float | None


class OverdueCohort(NamedSum):
    phi_hours: float
    longest: float


class Overdue(Sum):
    """Temporary copies past their deadline. Not `complete`: there are more than were read."""

    phi_hours: float
    complete: bool
    by_cohort: list[OverdueCohort]


class OpenIntents(TypedDict):
    count: Count
    complete: bool
    oldest: Time | None


class StorageReport(TypedDict):
    """What is stored, how it grows, what is overdue (docs/reports.md). `cohorts` null: all."""

    generated_at: Time
    snapshot_at: Time | None
    snapshot_age_hours: float | None
    cohorts: list[str] | None
    totals: Totals
    by_disk: list[NamedSum]
    by_cohort: list[NamedSum]
    by_type: list[NamedSum]
    growth: list[GrowthDay]
    temporary_ages: list[AgeBand]
    oldest_temporary_hours: float | None
    overdue: Overdue
    open_intents: OpenIntents
    jobs: list[dict[str, Any]]
