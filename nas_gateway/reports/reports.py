"""`Reports`: makes the daily snapshot, and the report from the last snapshot and what is cheap to ask now.

Made by the wiring and the internal API. Permission: who may read the ledger, clean up or administer, everywhere or for
some cohorts; who sees some cohorts only is told nothing of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from chalicelib import metrics
from chalicelib.auth.policy import Permission, report_scope
from nas_gateway.files.access import Call
from nas_gateway.files.tables import CHECK_BUCKETS, State, TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import queries
from nas_gateway.reports import snapshots
from nas_gateway.reports.count import AGE_HOURS, GROWTH_DAYS, Count, day_of
from nas_gateway.reports.snapshots import Head

if TYPE_CHECKING:
    from nas_gateway.jobs import Deadline

# What a report reads of overdue copies (each disk) and of open operations at most: it says when there are more.
MAX_OVERDUE: Final = 10_000
MAX_OPEN: Final = 1_000
# Rows of one list of the report.
MAX_ROWS: Final = 500

Sees = Callable[[str], bool]


class Reports:
    """`disks` are all disks' names; `jobs` lists the scheduled jobs with their last runs, as JSON."""

    def __init__(
        self, transfers: Transfers, disks: Sequence[str], jobs: Callable[[], Sequence[Mapping[str, Any]]]
    ) -> None:
        self._transfers, self._disks, self._jobs = transfers, tuple(disks), jobs

    # --- the snapshot ----------------------------------------------------------------------------------------

    def job(self, deadline: Deadline) -> Mapping[str, int]:
        """Count every stored file, and write a snapshot. When the time is over, the next run goes on with the next bucket.

        Cost: one query a thousand files, in 16 stretches; memory: the ids of one stretch. Raises `LedgerUnavailable`.
        """
        whole = Count()
        for bucket in range(CHECK_BUCKETS):
            now = self._transfers.clock()
            lines = snapshots.counted(bucket, now)
            if lines is None:
                if deadline.over:
                    return {"left": CHECK_BUCKETS - bucket}
                count = self._bucket(bucket, now)
                snapshots.keep_bucket(bucket, count, now)
                lines = list(count.lines())
            whole.add_lines(lines)
        self._finish(whole)
        files = sum(value[0] for value in whole.groups.values())
        return {"files": files, "groups": len(whole.groups), "left": 0}

    def fresh(self) -> None:
        """A snapshot of this moment, whatever was counted before. Raises `LedgerUnavailable`."""
        whole = Count()
        for bucket in range(CHECK_BUCKETS):
            whole.add_lines(self._bucket(bucket, self._transfers.clock()).lines())
        self._finish(whole)

    def _bucket(self, bucket: int, now: float) -> Count:
        count = Count()
        for file in snapshots.files_in_bucket(bucket):
            _stored(count, file, now)
        return count

    def _finish(self, whole: Count) -> None:
        now = self._transfers.clock()
        for disk in self._disks:
            for file in self._transfers.registry.temporary(disk):
                if file.state not in (State.AVAILABLE, State.CORRUPT, State.DELETING):
                    continue  # on its way
                whole.temporary(file.cohort or "", int(file.size or 0), file.created_at, now)
                if not file.check_due:  # only logged, or being deleted: no other index holds it
                    _stored(whole, file, now)
        snapshots.write(whole, now)
        for disk, (files, size) in {**{disk: [0, 0] for disk in self._disks}, **whole.by(0)}.items():
            metrics.gauge("depot_stored_files", files, disk=disk)
            metrics.gauge("depot_stored_bytes", size, disk=disk)
        self.gauges()

    def gauges(self) -> None:
        """Set the metrics that tell what is overdue and open. Raises `LedgerUnavailable`."""
        late = self._overdue(lambda cohort: True)
        metrics.gauge("depot_overdue_files", late["files"])
        metrics.gauge("depot_overdue_phi_hours", late["phi_hours"])
        metrics.gauge("depot_open_intents", self._open(lambda cohort: True)["count"])

    # --- the report ------------------------------------------------------------------------------------------

    def storage(self, call: Call) -> dict[str, Any]:
        """The report that this caller may see. Raises `Forbidden` (recorded), `LedgerUnavailable`."""
        scope = self._scope(call)
        now = self._transfers.clock()
        sees: Sees = (lambda cohort: True) if scope is None else scope.__contains__
        found = snapshots.last()
        made, count = (None, Count()) if found is None else (found[0].at, found[1].within(sees))
        temporary = [value for key, value in count.groups.items() if key[3] != "submission"]
        report: dict[str, Any] = {
            "generated_at": _iso(now),
            "snapshot_at": None if made is None else _iso(made),
            "snapshot_age_hours": None if made is None else round((now - made) / 3600, 2),
            "cohorts": None if scope is None else sorted(scope),
            "totals": {
                **_sum(list(count.groups.values())),
                "temporary": _sum(temporary),
                "corrupt": _sum([value for key, value in count.groups.items() if key[4] == State.CORRUPT]),
            },
            "by_disk": _named(count.by(0)),
            "by_cohort": _named(count.by(1)),
            "by_type": _named(count.by(2)),
            "growth": _growth(count, snapshots.history(now - GROWTH_DAYS * 86400), sees, now),
            "temporary_ages": _ages(count),
            "oldest_temporary_hours": round((now - min(count.oldest.values())) / 3600, 2) if count.oldest else None,
            "overdue": self._overdue(sees),
            "open_intents": self._open(sees),
            "jobs": [] if scope is not None else [dict(job) for job in self._jobs()],
        }
        return report

    def _scope(self, call: Call) -> frozenset[str] | None:
        """The cohorts whose numbers the caller may see; None is all."""
        if call.is_service:
            return None
        seen = report_scope(call.principal)
        if seen is not None and not seen:
            self._transfers.access.deny(call, Permission.LEDGER, "", "", None)
        return seen

    def _overdue(self, sees: Sees) -> dict[str, Any]:
        """Copies past their deadline, and for how long: asked now, from the index of deadlines."""
        now, complete = self._transfers.clock(), True
        cohorts: dict[str, list[float]] = {}
        for disk in self._disks:
            number = 0
            for file in snapshots.overdue(disk, now, MAX_OVERDUE):
                number += 1
                if file.state not in (State.AVAILABLE, State.CORRUPT, State.DELETING) or not sees(file.cohort or ""):
                    continue
                hours = (now - (file.cleanup_due or now)) / 3600
                value = cohorts.setdefault(file.cohort or "", [0, 0, 0.0, 0.0])
                value[0] += 1
                value[1] += int(file.size or 0)
                value[2] += hours
                value[3] = max(value[3], hours)
            complete = complete and number < MAX_OVERDUE
        rows = [
            {
                "name": name,
                "files": int(files),
                "bytes": int(size),
                "phi_hours": round(hours, 2),
                "longest": round(top, 2),
            }
            for name, (files, size, hours, top) in sorted(cohorts.items(), key=lambda item: (-item[1][2], item[0]))
        ]
        return {
            "files": sum(int(value[0]) for value in cohorts.values()),
            "bytes": sum(int(value[1]) for value in cohorts.values()),
            "phi_hours": round(math.fsum(value[2] for value in cohorts.values()), 2),
            "complete": complete,
            "by_cohort": rows,
        }

    @staticmethod
    def _open(sees: Sees) -> dict[str, Any]:
        found = list(islice(queries.open_operations(), MAX_OPEN))
        seen = [intent for intent in found if sees(intent.operation.cohort or "")]
        oldest = min((intent.stream_start for intent in seen), default=None)
        return {
            "count": len(seen),
            "complete": len(found) < MAX_OPEN,
            "oldest": None if oldest is None else _iso(oldest.timestamp()),
        }


class LocalReports:
    """`storage.reports.StorageReports` without a network between: for the testing role, where both tiers are one process."""

    def __init__(self, reports: Reports, call: Callable[[], Call]) -> None:
        self._reports, self._call = reports, call

    def storage(self) -> dict[str, Any]:
        return self._reports.storage(self._call())


def _stored(count: Count, file: TrackedFile, now: float) -> None:
    size, cohort, kind = int(file.size or 0), file.cohort or "", file.file_type or ""
    count.stored(file.disk, cohort, kind, file.purpose, file.state, size, file.created_at, now)


def _sum(values: Sequence[Sequence[int]]) -> dict[str, int]:
    return {"files": sum(value[0] for value in values), "bytes": sum(value[1] for value in values)}


def _named(values: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Largest first; those beyond `MAX_ROWS` as one."""
    ordered = sorted(values.items(), key=lambda item: (-item[1][1], item[0]))
    rows: list[dict[str, Any]] = [{"name": name, "files": value[0], "bytes": value[1]} for name, value in ordered]
    rest = [value for _, value in ordered[MAX_ROWS:]]
    return [*rows[:MAX_ROWS], {"name": f"({len(rest)} others)", **_sum(rest)}] if rest else rows


def _ages(count: Count) -> list[dict[str, Any]]:
    ends = [*AGE_HOURS[1:], None]
    return [
        {
            "from_hours": start,
            "to_hours": end,
            **_sum([value for (bar, _), value in count.ages.items() if bar == number]),
        }
        for number, (start, end) in enumerate(zip(AGE_HOURS, ends, strict=True))
    ]


def _growth(count: Count, heads: Sequence[Head], sees: Sees, now: float) -> list[dict[str, Any]]:
    """For each day what was added, of what is still there, and what there was in all by that day's last snapshot."""
    totals = {
        day_of(head.at): _sum([value for cohort, value in head.cohorts.items() if sees(cohort)]) for head in heads
    }
    days = [day_of(now - back * 86400) for back in range(GROWTH_DAYS - 1, -1, -1)]
    rows = []
    for day in days:
        added = _sum([value for (on, _), value in count.added.items() if on == day])
        total = totals.get(day)
        rows.append(
            {
                "day": day,
                "added_files": added["files"],
                "added_bytes": added["bytes"],
                "files": total and total["files"],
                "bytes": total and total["bytes"],
            }
        )
    return rows


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
