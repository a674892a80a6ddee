"""Metrics: one table of names, counted in one place, told in two ways.

Under Lambda each invocation prints CloudWatch's embedded metric format (Powertools); on the streaming host `/metrics`
answers Prometheus' text format. The names are the same. Values carry no file name, path, user or cohort. May be imported
from everywhere; imports only limits and errors of the project.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A counter only grows; a gauge is the last value that was set."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Watch:
    """Alarm when the sum of a counter's growth, or the highest value of a gauge, is above `over` in each of `periods` periods
    of `seconds`. `where` narrows it to one value of a label.
    """

    over: float
    seconds: int
    periods: int = 1
    where: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """`alarm`: when somebody should be woken, and `act` what to do then (both for the documentation); "" for none.

    `watch` is the alarm as a machine can watch for it, where it can.
    """

    name: str
    kind: Kind
    unit: str
    about: str
    labels: tuple[str, ...] = ()
    alarm: str = ""
    act: str = ""
    watch: Watch | None = None


def _table(*metrics: Metric) -> Mapping[str, Metric]:
    return {metric.name: metric for metric in metrics}


# Every metric there is. `docs/metrics.md` is printed from this table; a name that is not in it is refused.
TABLE: Mapping[str, Metric] = _table(
    Metric("depot_requests_total", Kind.COUNTER, "1", "Requests answered", ("method", "status")),
    Metric("depot_bytes_in_total", Kind.COUNTER, "By", "Bytes of bodies received"),
    Metric("depot_bytes_out_total", Kind.COUNTER, "By", "Bytes of bodies sent"),
    Metric(
        "depot_job_runs_total", Kind.COUNTER, "1", "Runs of a scheduled job that ended", ("job", "outcome"),
        "any with outcome=failed, twice in a row for the same job", "depot jobs, then run it by hand: depot jobs run NAME",
        Watch(1, 900, where=("outcome", "failed")),
    ),
    Metric(
        "depot_job_last_success_seconds", Kind.GAUGE, "s", "When a job last succeeded, in epoch seconds", ("job",),
        "older than three of its periods", "Nothing fires it: look at the host's log, or EventBridge's rule",
    ),
    Metric(
        "depot_forwarded_bytes_disputed_total", Kind.COUNTER, "1",
        "Bodies whose digest or length differed between the two tiers", (),
        "any", "Nothing was kept of the body. Look for what sits between the tiers and rewrites bodies",
        Watch(0, 300),
    ),
    Metric(
        "depot_uploads_lost_total", Kind.COUNTER, "1", "Uploads whose bytes were acknowledged and are not there", (),
        "any", "Ask the owner to send the file again; find out what deleted from the NAS",
        Watch(0, 300),
    ),
    Metric(
        "depot_ledger_broken_total", Kind.COUNTER, "1", "Times that the ledger did not verify", (),
        "any", "Follow docs/ledger-format.md: export, verify, compare with the last good export",
        Watch(0, 300),
    ),
    Metric(
        "depot_ledger_unavailable_total", Kind.COUNTER, "1", "Operations refused since the ledger could not be written", (),
        "more than a few a minute", "Look at DynamoDB: throttling, outage, the role's policy",
        Watch(5, 60, 3),
    ),
    Metric("depot_cleanup_deleted_total", Kind.COUNTER, "1", "Temporary copies that a clean-up deleted and saw gone", ("rule",)),
    Metric(
        "depot_cleanup_failed_total", Kind.COUNTER, "1", "Deletions that failed; they are tried again later", (),
        "grows for an hour", "depot cleanup --dry-run names the files; look at the NAS",
        Watch(0, 3600, 2),
    ),
    Metric(
        "depot_cleanup_stuck_files", Kind.GAUGE, "1", "Files whose deletion failed five times or more", (),
        "above 0", "PHI stays where it must not: delete by hand on the NAS, then depot cleanup closes the record",
        Watch(0, 3600),
    ),
    Metric(
        "depot_cleanup_limited_total", Kind.COUNTER, "1", "Clean-ups that stopped at a limit", (),
        "any", "Read the plan; if it is right, apply it with the limit named",
        Watch(0, 3600),
    ),
    Metric("depot_integrity_checked_total", Kind.COUNTER, "1", "Files that were read again and were right"),
    Metric("depot_integrity_bytes_total", Kind.COUNTER, "By", "Bytes that were read again"),
    Metric(
        "depot_integrity_failed_total", Kind.COUNTER, "1", "Files found missing or with other bytes than were stored",
        ("reason",), "any", "The file is CORRUPT and is not served: restore it from a copy, or have it sent again",
        Watch(0, 300),
    ),
    Metric(
        "depot_integrity_overdue_files", Kind.GAUGE, "1", "Files not read again within the period", (),
        "above 0 for a day", "Give the job more room: more frequent slices, or a longer INTEGRITY_PERIOD_DAYS",
        Watch(0, 3600, 24),
    ),
    Metric(
        "depot_overdue_files", Kind.GAUGE, "1", "Temporary copies past their deadline", (),
        "above 0 for two hours", "depot cleanup --dry-run says why each is still there",
        Watch(0, 3600, 2),
    ),
    Metric("depot_overdue_phi_hours", Kind.GAUGE, "h", "Hours that temporary copies are past their deadline, summed"),
    Metric(
        "depot_open_intents", Kind.GAUGE, "1", "Operations that the ledger holds open", (),
        "grows for an hour", "depot sweep; then the log for what is refused",
    ),
    Metric("depot_stored_bytes", Kind.GAUGE, "By", "Bytes of available files", ("disk",)),
    Metric("depot_stored_files", Kind.GAUGE, "1", "Available files", ("disk",)),
)  # fmt: skip


Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric at this moment; a counter's since the process began."""

    metric: Metric
    labels: Labels
    value: float


class Registry:
    """The values of one process. Thread-safe. `told` hears of every change (what the EMF of Lambda is made of)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, Labels], float] = {}
        self.told: Callable[[Sample], object] | None = None

    def count(self, name: str, value: float = 1, /, **labels: str) -> None:
        """Add `value` (0 or more) to a counter. Raises `ValueError` for a name, kind or label that is not in the table."""
        metric, key = self._key(name, Kind.COUNTER, labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0) + value
        if self.told is not None:
            self.told(Sample(metric, key[1], value))

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge. Raises as `count` does."""
        metric, key = self._key(name, Kind.GAUGE, labels)
        with self._lock:
            self._values[key] = value
        if self.told is not None:
            self.told(Sample(metric, key[1], value))

    def samples(self) -> Iterator[Sample]:
        """Every value there is now, in the order of the table."""
        with self._lock:
            values = dict(self._values)
        for name, metric in TABLE.items():
            for (named, labels), value in sorted(values.items()):
                if named == name:
                    yield Sample(metric, labels, value)

    def clear(self) -> None:
        """For tests."""
        with self._lock:
            self._values.clear()

    @staticmethod
    def _key(name: str, kind: Kind, labels: Mapping[str, str]) -> tuple[Metric, tuple[str, Labels]]:
        metric = TABLE.get(name)
        if metric is None or metric.kind is not kind or set(labels) != set(metric.labels):
            raise ValueError(f"no {kind} {name!r} with these labels is in the table of metrics")
        return metric, (name, tuple((label, str(labels[label])) for label in metric.labels))


# The process's own.
registry = Registry()
count, gauge = registry.count, registry.gauge
