"""What a sweep found and did, by rule. Used by `sweep` and `left_open`; read by the CLI and the schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# Named in a report at most; everything is counted.
MAX_ITEMS = 1000


class Rule(StrEnum):
    """What was repaired. Each is a row of docs/architecture.md, "The sweep"."""

    ABANDONED = "abandoned_intent"  # announced, and nothing came
    EXPIRED = "expired_session"
    COMPLETED = "completed_again"
    CONCATENATED = "concatenation_finished"
    LOST = "lost"  # every byte was acknowledged, and the NAS does not have them: an alarm
    PATH_LOST = "path_taken_over"  # another upload's file is at the path now
    CLOSED = "session_closed"  # the ledger had the outcome, the session did not know
    UPLOAD_FAILED = "upload_failed"  # one that came in a single stream
    OUTCOME_UNKNOWN = "outcome_unknown"
    DELETED = "deleted_again"
    ORPHAN = "orphan_upload"
    TAIL = "stray_tail"
    STAGED = "staged_file"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to repair. `repair` does it: the rule that applied in the end, or None where somebody else was at it."""

    rule: Rule
    disk: str
    id: str  # of the upload or the operation; opaque, never a path
    repair: Callable[[], Rule | None]


@dataclass(slots=True)
class Report:
    """Counts by rule; `failed` by rule and error code; `skipped` is what somebody else held. A dry run only finds."""

    dry_run: bool
    found: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: int = 0
    items: list[dict[str, str]] = field(default_factory=list)

    @property
    def failures(self) -> int:
        return sum(codes.total() for codes in self.failed.values())

    def note(self, finding: Finding) -> None:
        self.found[finding.rule] += 1
        if len(self.items) < MAX_ITEMS:
            self.items.append({"rule": str(finding.rule), "disk": finding.disk, "id": finding.id})

    def fail(self, rule: str, code: str) -> None:
        self.failed.setdefault(rule, Counter())[code] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "found": dict(self.found),
            "repaired": dict(self.repaired),
            "failed": {rule: dict(codes) for rule, codes in self.failed.items()},
            "skipped": self.skipped,
            "items": list(self.items),
        }
