"""Every stored file is read again and compared within a period: the job's slice of what is due, and `depot verify`.

Made by the wiring. Any number may run at once, here and on other hosts: each file has one that checks it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chalicelib import metrics, observability
from chalicelib.errors import FileMissing, InvalidRequest
from chalicelib.limits import MIB
from nas_gateway.files.checks import CYCLE
from nas_gateway.files.tables import TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.integrity import rows
from nas_gateway.integrity.checker import Checker, Deadline, Outlook, Result

# A disk that could not be read so often in a row is left alone for the rest of the run.
AWAY_AFTER = 3
# What is left over is counted up to this, a bucket of the index.
COUNT_LIMIT = 10_000
# Files of one answer that are named; everything is counted.
MAX_ITEMS = 10_000
_PAGE = 500


class Progress:
    """What `verify` tells while it goes on. Does nothing; a caller overrides what it wants to hear of."""

    def begun(self, files: int, total: int) -> None:
        """Before the first file: how many there are, and their bytes."""

    def read(self, count: int) -> None:
        """Bytes of one block that was read."""

    def ended(self, result: Result, size: int) -> None:
        """One file is done; `size` in bytes, whether or not all of them were read."""


@dataclass(slots=True)
class Report:
    """What `verify` found. `damaged` and `unread` name files, up to `MAX_ITEMS` each; `counts` has all of them."""

    counts: dict[str, int]
    damaged: list[dict[str, str]] = field(default_factory=list)
    unread: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "damaged": list(self.damaged), "unread": list(self.unread)}


class NoDeadline:
    """For who may take as long as it takes."""

    over = False


class Pace:
    """Holds reading down to `rate` bytes a second, so that uploads keep the NAS's attention. Counts over everything read."""

    def __init__(
        self,
        rate: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate, self._monotonic, self._sleep = rate, monotonic, sleep
        self._ready = -math.inf

    def __call__(self, count: int) -> None:
        now = self._monotonic()
        self._ready = max(self._ready, now) + count / self._rate
        if self._ready > now:
            self._sleep(self._ready - now)


class Integrity:
    """The use-case. `period_days` as in the settings; `rate` in bytes a second."""

    def __init__(
        self,
        transfers: Transfers,
        *,
        period_days: float,
        rate: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._transfers, self._clock = transfers, transfers.clock
        self._period = period_days * 86400
        pace = Pace(rate, monotonic=monotonic, sleep=sleep)
        self._checker = Checker(transfers, period=self._period, pace=pace, monotonic=monotonic)

    def job(self, deadline: Deadline) -> Mapping[str, int]:
        """Check what is due, the longest due first, until nothing is or the time is over.

        Counts: `checked` files whose bytes were compared to an end, `bytes` read, `failed` found damaged now, `restored`,
        `digests` found, `skipped` (unreadable now, or another's), `left` still due, `away`: disks that did not answer, whose
        other files were not tried. Raises `LedgerUnavailable`.
        """
        counts, away = _counts(), Counter[str]()
        for file in rows.due(self._clock()):
            if deadline.over:
                break
            if away[file.disk] >= AWAY_AFTER:
                continue
            result = self._checker.check(file, deadline, seen_due=file.check_due)
            _add(counts, result)
            if result.outlook is Outlook.UNREADABLE and result.retryable:
                away[file.disk] += 1
            elif result.outlook is not Outlook.SKIPPED:
                away[file.disk] = 0
        gone = [disk for disk, failures in away.items() if failures >= AWAY_AFTER]
        for disk in gone:
            observability.log_event("integrity_disk_away", logging.ERROR, disk=disk, failed=away[disk])
        counts["away"] = len(gone)
        now = self._clock()
        counts["left"], overdue = rows.count_due(now, now - (1 - CYCLE) * self._period, limit=COUNT_LIMIT)
        metrics.gauge("depot_integrity_overdue_files", overdue)
        return counts

    def verify(
        self,
        *,
        file_id: str | None = None,
        cohort: str | None = None,
        everything: bool = False,
        progress: Progress | None = None,
        user: str | None = None,
        deadline: Deadline | None = None,
    ) -> Report:
        """Check one file, a cohort's or all of them now, due or not; each is due again at its next slot after that.

        Raises `FileMissing` for an id that is no stored file, `InvalidRequest` unless exactly one is asked for, and
        `LedgerUnavailable`.
        """
        if (file_id is not None) + (cohort is not None) + everything != 1:
            raise InvalidRequest("Say which: one file, one cohort, or everything.")
        asked, told = _Asked(self._transfers, file_id, cohort), progress or Progress()
        files, total = asked.size()
        told.begun(files, total)
        report = Report(_counts())
        for file in asked:
            result = self._checker.check(file, deadline or NoDeadline(), user=user, told=told.read)
            _add(report.counts, result)
            _name(report, result)
            told.ended(result, int(file.size or 0))
        return report


class _Asked:
    """The files that `verify` is about, as often as it is gone through."""

    def __init__(self, transfers: Transfers, file_id: str | None, cohort: str | None) -> None:
        self._registry, self._file_id, self._cohort = transfers.registry, file_id, cohort

    def __iter__(self) -> Iterator[TrackedFile]:
        if self._file_id is not None:
            file = self._registry.get(self._file_id)
            if file is None or not rows.is_checked(file):
                raise FileMissing
            yield file
        elif self._cohort is not None:
            cursor: str | None = None
            while True:
                found, cursor = self._registry.listed(self._cohort, cursor, _PAGE)
                yield from filter(rows.is_checked, found)
                if cursor is None:
                    return
        else:
            yield from rows.stored()

    def size(self) -> tuple[int, int]:
        files = total = 0
        for file in self:
            files, total = files + 1, total + int(file.size or 0)
        return files, total


def _counts() -> dict[str, int]:
    return dict.fromkeys(("checked", "bytes", "failed", "restored", "digests", "skipped", "left"), 0)


def _add(counts: dict[str, int], result: Result) -> None:
    counts["bytes"] += result.read
    counts["checked"] += result.outlook in (Outlook.RIGHT, Outlook.DAMAGED, Outlook.RESTORED)
    counts["failed"] += result.new
    counts["restored"] += result.outlook is Outlook.RESTORED
    counts["digests"] += result.digest
    counts["skipped"] += result.outlook in (Outlook.SKIPPED, Outlook.UNREADABLE)
    counts["left"] += result.outlook is Outlook.UNFINISHED


def _name(report: Report, result: Result) -> None:
    if result.outlook is Outlook.DAMAGED and len(report.damaged) < MAX_ITEMS:
        report.damaged.append({"file_id": result.file_id, "reason": str(result.reason)})
    elif result.outlook not in (Outlook.RIGHT, Outlook.RESTORED, Outlook.DAMAGED) and len(report.unread) < MAX_ITEMS:
        report.unread.append({"file_id": result.file_id, "why": result.error_code or str(result.outlook)})


def rate_of(mib_per_second: float) -> float:
    """The setting in bytes a second."""
    return mib_per_second * MIB
