"""Plans at rest: written whole, read whole, leased while they are applied. For this package.

A plan is one JSON document with one serialisation, and its hash is over that: what is applied is what somebody read.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pynamodb.exceptions import DoesNotExist, PutError, PynamoDBException, UpdateError

from chalicelib import dynamo
from chalicelib.errors import LedgerUnavailable, PlanChanged, PlanExpired, PlanInProgress, PlanMissing
from chalicelib.limits import KIB
from nas_gateway.cleanup.items import Item, Outcome
from nas_gateway.cleanup.tables import CleanupPlan, CleanupReceipt

# Issue: a plan is valid for an hour.
VALID_SECONDS = 3600
# Rows of plans go by themselves after this; receipts stay.
KEPT_SECONDS = 30 * 24 * 3600
# Whoever applies a plan renews this; another takes over from one that died.
LEASE_SECONDS = 120
# DynamoDB: an item holds 400 KB, names and keys included.
CHUNK_BYTES = 200 * KIB
# A plan id that no plan has: rows of plans that are being applied.
APPLYING = "applying"
# ... and of where the walk over a disk's objects goes on.
WALK = "walk"

READY, STARTED, DONE = "ready", "started", "done"


@dataclass(frozen=True, slots=True)
class Plan:
    """`items` are to go, `skipped` stay. `totals` are what people read first. Times epoch seconds."""

    plan_id: str
    created_at: float
    expires_at: float
    options: Mapping[str, Any]
    items: Sequence[Item]
    skipped: Sequence[Item]
    totals: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "plan_id": self.plan_id,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "options": dict(self.options),
            "items": [item.to_json() for item in self.items],
            "skipped": [item.to_json() for item in self.skipped],
            "totals": dict(self.totals),
        }

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the plan's canonical JSON."""
        return hashlib.sha256(canonical(self.to_json())).hexdigest()


@dataclass(frozen=True, slots=True)
class Stored:
    """A plan as it was read: where it stands, and what came of it."""

    plan: Plan
    hash: str
    state: str
    result: Mapping[str, Any] | None


def canonical(values: Any) -> bytes:
    """JSON with sorted keys and no spaces.

    >>> canonical({"b": 1, "a": [True, "é"]}).decode()
    '{"a":[true,"é"],"b":1}'
    """
    return json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def save(plan: Plan) -> str:
    """Keep a plan; its hash. The row that makes it a plan comes last. Raises `LedgerUnavailable`."""
    forgotten = plan.expires_at + KEPT_SECONDS
    about = {"created_at": plan.created_at, "options": dict(plan.options), "totals": dict(plan.totals)}
    try:
        with CleanupPlan.batch_write() as batch:
            for kind, items in (("items", plan.items), ("skipped", plan.skipped)):
                for number, body in enumerate(_chunks(items)):
                    batch.save(
                        CleanupPlan(plan.plan_id, f"{kind}-{number:06d}", kind=kind, body=body, forgotten_at=forgotten)
                    )
        header = CleanupPlan(
            plan.plan_id,
            "0",
            kind="plan",
            body=canonical(about).decode(),
            hash=plan.hash,
            state=READY,
            expires_at=plan.expires_at,
            forgotten_at=forgotten,
        )
        header.save()
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return plan.hash


def load(plan_id: str) -> Stored:
    """Raises `PlanMissing`, `PlanChanged` where what is stored is not what was hashed, `LedgerUnavailable`."""
    found: dict[str, list[Item]] = {"items": [], "skipped": []}
    try:
        rows = list(CleanupPlan.query(plan_id, consistent_read=True)) if plan_id not in (APPLYING, WALK) else []
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    header = next((row for row in rows if row.chunk == "0"), None)
    if header is None:
        raise PlanMissing
    for row in rows:
        if row is not header:
            found[row.kind] += [Item.from_json(values) for values in json.loads(row.body)]
    about = json.loads(header.body)
    plan = Plan(
        plan_id,
        about["created_at"],
        float(header.expires_at),
        about["options"],
        found["items"],
        found["skipped"],
        about["totals"],
    )
    if plan.hash != header.hash:
        raise PlanChanged
    return Stored(plan, header.hash, str(header.state), json.loads(header.result) if header.result else None)


class Lease:
    """The right to apply a plan: one holds it. `take` makes it."""

    def __init__(self, plan_id: str, holder: str) -> None:
        self._plan_id, self._holder = plan_id, holder

    @classmethod
    def take(cls, stored: Stored, now: float) -> Lease:
        """Raises `PlanInProgress`, `PlanExpired`, `LedgerUnavailable`. A plan that was begun in time may be ended later."""
        if stored.state == READY and stored.plan.expires_at < now:
            raise PlanExpired
        lease = cls(stored.plan.plan_id, uuid.uuid4().hex)
        free = CleanupPlan.lease_until.does_not_exist() | (CleanupPlan.lease_until < now)
        lease._update(
            [
                CleanupPlan.state.set(STARTED),
                CleanupPlan.holder.set(lease._holder),
                CleanupPlan.lease_until.set(now + LEASE_SECONDS),
            ],
            CleanupPlan.state.is_in(READY, STARTED) & free,
        )
        try:
            CleanupPlan(
                APPLYING, stored.plan.plan_id, kind="applying", forgotten_at=stored.plan.expires_at + KEPT_SECONDS
            ).save()
        except PynamoDBException as error:
            raise LedgerUnavailable from error
        return lease

    def renew(self, now: float) -> None:
        """Raises `PlanInProgress` when another has taken it over."""
        self._update([CleanupPlan.lease_until.set(now + LEASE_SECONDS)], CleanupPlan.holder == self._holder)

    def let_go(self) -> None:
        """There is more to do, for somebody else."""
        self._update(
            [CleanupPlan.lease_until.remove(), CleanupPlan.holder.remove()], CleanupPlan.holder == self._holder
        )

    def end(self, result: Mapping[str, Any]) -> None:
        """The plan is done: from here on this is the answer."""
        self._update(
            [
                CleanupPlan.state.set(DONE),
                CleanupPlan.result.set(canonical(result).decode()),
                CleanupPlan.lease_until.remove(),
                CleanupPlan.holder.remove(),
            ],
            CleanupPlan.holder == self._holder,
        )
        no_longer_applied(self._plan_id)

    def _update(self, actions: list[Any], condition: Any) -> None:
        try:
            CleanupPlan(self._plan_id, "0").update(actions, condition=condition)
        except UpdateError as error:
            if dynamo.code_of(error) == "ConditionalCheckFailedException":
                raise PlanInProgress from None
            raise LedgerUnavailable from error


def unfinished() -> list[str]:
    """Plans whose applying began and has not ended. Raises `LedgerUnavailable`."""
    try:
        return [str(row.chunk) for row in CleanupPlan.query(APPLYING, consistent_read=True)]
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def no_longer_applied(plan_id: str) -> None:
    """Nobody need look for this plan any more. Raises `LedgerUnavailable`."""
    try:
        CleanupPlan(APPLYING, plan_id).delete()
    except PynamoDBException as error:
        raise LedgerUnavailable from error


# --- the walk over objects --------------------------------------------------------------------------------------------


def cursors() -> dict[str, str]:
    """Where the next plan goes on looking at objects. Raises `LedgerUnavailable`."""
    try:
        kept: dict[str, str] = json.loads(CleanupPlan.get(WALK, "0", consistent_read=True).body or "{}")
    except DoesNotExist:
        return {}
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return kept


def keep_cursors(found: Mapping[str, str]) -> None:
    """Of two plans at once the last counts: objects are looked at twice then. Raises `LedgerUnavailable`."""
    try:
        CleanupPlan(WALK, "0", kind="walk", body=canonical(dict(found)).decode()).save()
    except PynamoDBException as error:
        raise LedgerUnavailable from error


# --- outcomes ---------------------------------------------------------------------------------------------------------


def put_outcome(row: CleanupReceipt, *, late: bool = False) -> None:
    """What became of an item: the first that is written stands, but for a failure that `late` makes good.

    Raises `LedgerUnavailable`.
    """
    free = CleanupReceipt.plan_id.does_not_exist()
    if late:
        free |= CleanupReceipt.outcome == Outcome.FAILED.value
    try:
        row.save(condition=free)
    except PutError as error:
        if dynamo.code_of(error) != "ConditionalCheckFailedException":
            raise LedgerUnavailable from error


def outcomes(plan_id: str) -> list[CleanupReceipt]:
    """In the order of the plan. Raises `LedgerUnavailable`."""
    try:
        return list(CleanupReceipt.query(plan_id, consistent_read=True))
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def _chunks(items: Sequence[Item]) -> Iterator[str]:
    texts, size = list[str](), 0
    for item in items:
        text = canonical(item.to_json()).decode()
        if texts and size + len(text.encode()) > CHUNK_BYTES:
            yield f"[{','.join(texts)}]"
            texts, size = [], 0
        texts.append(text)
        size += len(text.encode()) + 1
    if texts:
        yield f"[{','.join(texts)}]"
