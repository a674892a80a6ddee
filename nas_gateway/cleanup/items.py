"""What a plan is made of: rules, reasons for leaving something alone, items, options. No I/O. For this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from chalicelib.errors import InvalidRequest

# Seconds by which clocks may differ, of our processes and of the store: nothing goes within them of its deadline. (AWS
# refuses requests whose clock is more than 5 minutes off, and NTP keeps hosts far closer than that.)
SKEW_SECONDS = 5 * 60


class Rule(StrEnum):
    """Why something is to go. Each is a row of docs/cleanup.md."""

    OVERDUE = "temporary_overdue"
    AGE = "temporary_age"
    DELETING = "deletion_unfinished"
    OBJECT = "orphan_object"
    UPLOAD = "orphan_upload"
    SESSION = "expired_session"
    TAIL = "stray_tail"


# Found, and removed, by the sweep; they are no files, and no limit counts them.
SWEPT = frozenset({Rule.UPLOAD, Rule.SESSION, Rule.TAIL})


class Skip(StrEnum):
    """Why something that looked like a candidate stays."""

    LIVE_LEASE = "live_lease"
    BEING_READ = "being_read"
    ON_HOLD = "on_hold"
    SUBMISSION = "submission"
    TOO_YOUNG = "too_young"
    FOREIGN_TENANT = "foreign_tenant"
    BACKING_OFF = "backing_off"


class Outcome(StrEnum):
    DELETED = "deleted"
    ALREADY_GONE = "already_gone"  # behind our back; the record is closed
    SKIPPED = "skipped"  # it stays: something changed since the plan was made
    FAILED = "failed"
    NOT_DONE = "not_done"  # a limit or the deadline came first


@dataclass(frozen=True, slots=True)
class Item:
    """One candidate, or with `reason` one that stays. Sizes in bytes, times epoch seconds.

    `id` is a file's id, or for what has none a digest of its place; `path` is never shown.
    """

    id: str
    rule: Rule
    disk: str
    path: str = ""
    size: int = 0
    created_at: float = 0
    active_at: float = 0
    due_at: float | None = None
    tries: int = 0
    reason: Skip | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        told = dict(values)
        reason = told.pop("reason", None)
        return cls(**{**told, "rule": Rule(told["rule"])}, reason=Skip(reason) if reason else None)

    def shown(self, now: float) -> dict[str, Any]:
        """As people see it: ages in hours, no path."""
        told: dict[str, Any] = {
            "file_id": self.id,
            "rule": self.rule.value,
            "disk": self.disk,
            "size": self.size,
            "age_hours": round((now - self.created_at) / 3600, 2),
            "idle_hours": round((now - self.active_at) / 3600, 2),
            "tries": self.tries,
        }
        if self.due_at is not None:
            told["overdue_hours"] = round((now - self.due_at) / 3600, 2)
        return {**told, "reason": self.reason.value} if self.reason else told


@dataclass(frozen=True, slots=True)
class Options:
    """What to plan. `hours`: what is older (0: everything, now); None: what is past its own deadline."""

    hours: float | None = None

    def __post_init__(self) -> None:
        if self.hours is not None and not 0 <= self.hours <= 24 * 3660:
            raise InvalidRequest("hours must be a number of 0 (now) or more.")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one plan may delete: files in all, and percent of a disk's files where that is more than `FREE` of them."""

    max_files: int
    max_percent: float

    def __post_init__(self) -> None:
        if self.max_files < 0 or not 0 <= self.max_percent <= 100:
            raise InvalidRequest("max_files must be 0 or more, and max_percent 0 to 100.")
