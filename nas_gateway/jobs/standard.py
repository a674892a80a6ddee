"""Depot's own jobs: their names, periods and what they are for. The wiring says what each runs; `schedules` fires them.

Minutes after the slot's begin spread the load, and leave a slot room: neither an event a minute early nor a clock a minute
behind falls into the slot before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from nas_gateway.jobs.deadline import Deadline, Incomplete
from nas_gateway.jobs.jobs import Job

if TYPE_CHECKING:
    from nas_gateway.cleanup.service import Cleanup
    from nas_gateway.integrity.integrity import Integrity
    from nas_gateway.ledger.checkpoints import Checkpointer
    from nas_gateway.uploads.purge import Purge
    from nas_gateway.uploads.sweep import Sweep

Work = Callable[[Deadline], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Plan:
    """`every` is the slot, which runs once; `minute` (0 to 59) is when an event is sent, every five minutes or every hour.

    A job of a day or more gets an event an hour too: all but the first find their slot done, and one that failed to arrive,
    or came while every host was down, is made up for within the hour.
    """

    name: str
    every: timedelta
    minute: int
    about: str

    @property
    def frequent(self) -> bool:
        return self.every < timedelta(hours=1)


FIVE_MINUTES, HOUR, DAY = timedelta(minutes=5), timedelta(hours=1), timedelta(days=1)

# In the order of a listing. docs/jobs.md says what to do when one fails.
PLANS = (
    Plan("sweep", FIVE_MINUTES, 1, "repairs what crashes left: upload sessions, strays on the NAS, open operations"),
    Plan("checkpoint", FIVE_MINUTES, 3, "signs the heads of the ledger's chains"),
    Plan("cleanup", HOUR, 13, "deletes temporary files past their deadline, and what nobody stands for"),
    Plan("integrity", HOUR, 23, "reads stored files again and compares them, as many as are due"),
    Plan("report", DAY, 43, "counts what is stored and what still lies around, for the storage report"),
    Plan("expiry", DAY, 53, "removes the rows of upload sessions that ended long ago, and old records of jobs"),
)


def standard(work: Mapping[str, Work]) -> list[Job]:
    """The jobs, each with its work. Raises `KeyError` when one has none."""
    return [
        Job(plan.name, plan.every, plan.about, work[plan.name], timedelta(minutes=plan.minute), min(plan.every, HOUR))
        for plan in PLANS
    ]


def swept(sweep: Sweep, deadline: Deadline) -> Mapping[str, int]:
    """One sweep, as far as the time goes. Raises `Incomplete` when something could not be repaired."""
    report = sweep.run(over=lambda: deadline.over)
    counts = {"repaired": report.repaired.total(), "failed": report.failures, "skipped": report.skipped}
    if report.failures:
        raise Incomplete(counts, next(iter(next(iter(report.failed.values())))))
    return counts


def signed(checkpointer: Checkpointer | None) -> Mapping[str, int]:
    """One checkpoint; `skipped` where the settings name no key or no place for it."""
    if checkpointer is None:
        return {"skipped": 1}
    made = checkpointer.run()
    if made is None:  # another process signed one at the same moment: that one stands
        return {"signed": 0}
    return {"signed": 1, "events": sum(head.seq for head in made.heads)}


def cleaned(cleanup: Cleanup, deadline: Deadline) -> Mapping[str, int]:
    """One clean-up, as far as the time and its limits go. Raises `Incomplete` when something could not be deleted."""
    counts = cleanup.job(deadline)
    if counts["failed"]:
        raise Incomplete(counts, "storage_error")
    return counts


def expired(purge: Purge, records: Callable[[Deadline], int], deadline: Deadline) -> Mapping[str, int]:
    """Rows that nobody will ask for again."""
    counts = purge.run(lambda: deadline.over)
    return {**counts, "job_runs": records(deadline)}


def checked(integrity: Integrity, deadline: Deadline) -> Mapping[str, int]:
    """A slice of the integrity check. Raises `Incomplete` when a disk did not answer; damage is its own alarm."""
    counts = integrity.job(deadline)
    if counts["away"]:
        raise Incomplete(counts, "storage_unavailable")
    return counts
