"""`Jobs`: fires scheduled jobs, runs them by hand, and says how they went. Made by the wiring.

Called by `nas_gateway.schedules` (EventBridge, the streaming host), by `/internal/jobs` and by `depot jobs`. A job is run as
the services tier itself, whoever asked for it. What a job raises ends in its record as an error code, and in the log as a
type and a place: never as a message, which may name a file.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from chalicelib import context, metrics, observability
from chalicelib.errors import DepotError, JobRunning, LeaseLost, LedgerUnavailable, NotFound
from nas_gateway.jobs import runs
from nas_gateway.jobs.deadline import Deadline, Incomplete
from nas_gateway.jobs.runs import Lease, RunOutcome, Trigger
from nas_gateway.jobs.tables import JobRun, JobState

# A job is overdue when it did not succeed for so many of its periods (the alarm of `depot_job_last_success_seconds`).
OVERDUE_PERIODS = 3
# Between two tries to record the end of a run.
END_PAUSE_SECONDS = 1.0
# Runs of each job that a listing shows, unless told otherwise.
LISTED_RUNS = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `every` is its slot of time; `run` does a slice of the work and says what it did, as counts.

    Events for it are sent every `step` (by default every slot), the first `offset` after the slot's begin.
    """

    name: str
    every: timedelta
    about: str
    run: Callable[[Deadline], Mapping[str, int]]
    offset: timedelta = timedelta()
    step: timedelta | None = None

    @property
    def seconds(self) -> float:
        return self.every.total_seconds()

    def slot(self, at: float) -> float:
        """The start of the slot that a moment (epoch seconds) lies in."""
        return at // self.seconds * self.seconds

    def next_event(self, now: float, *, done: bool) -> float:
        """When the next event comes that finds something to do; `done`: the slot of now has its run."""
        begin = self.slot(now) + self.offset.total_seconds()
        if done:
            return begin + self.seconds
        step = (self.step or self.every).total_seconds()
        return begin + max(0, math.ceil((now - begin) / step)) * step


@dataclass(frozen=True, slots=True)
class Fired:
    """What became of an event: `ran` with the run's record, or `slot_done`, or `busy` (another run is under way)."""

    job: str
    result: str
    run: JobRun | None = None

    def to_json(self) -> dict[str, Any]:
        return {"job": self.job, "result": self.result, "run": None if self.run is None else run_json(self.run)}


@dataclass(frozen=True, slots=True)
class Listed:
    """A job and its last runs, newest first. Times are epoch seconds."""

    job: Job
    runs: Sequence[JobRun]
    next_due: float
    overdue: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.job.name,
            "every_seconds": int(self.job.seconds),
            "about": self.job.about,
            "next_due": iso(self.next_due),
            "overdue": self.overdue,
            "runs": [run_json(run) for run in self.runs],
        }


class Jobs:
    """Every job of this installation. `host` names this process in the records of its runs."""

    def __init__(
        self,
        jobs: Sequence[Job],
        lease: Lease,
        *,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], object] = time.sleep,
        host: str = "",
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        self._lease, self._clock, self._pause = lease, clock, pause
        self._host = host or f"{socket.gethostname()}-{os.getpid()}"

    @property
    def names(self) -> list[str]:
        return list(self._jobs)

    def fire(self, name: str, at: float, deadline: Deadline | None = None) -> Fired:
        """Run a job for the slot that the event's time (epoch seconds) lies in, unless that was done or is being done.

        Raises `NotFound`, and `LedgerUnavailable` when the run could not be recorded: then it did not begin.
        """
        job = self._job(name)
        try:
            return Fired(name, "ran", self._run(job, job.slot(at), Trigger.SCHEDULE, deadline))
        except runs.SlotTaken:
            return Fired(name, "slot_done")
        except JobRunning:
            observability.log_event("job_busy", job=name)
            return Fired(name, "busy")

    def run_now(self, name: str, deadline: Deadline | None = None) -> JobRun:
        """Run a job now, whatever ran in this slot. Raises `NotFound`, `JobRunning`, `LedgerUnavailable`."""
        return self._run(self._job(name), self._clock(), Trigger.MANUAL, deadline)

    def listing(self, limit: int = LISTED_RUNS) -> list[Listed]:
        """Every job with its last runs. A query a job. Raises `LedgerUnavailable`."""
        states, now = runs.states(self.names), self._clock()
        listed = list[Listed]()
        for job in self._jobs.values():
            found, slot = runs.last(job.name, limit), runs.slot_key(job.slot(now))
            due = job.next_event(now, done=any(run.run == slot for run in found))
            listed.append(Listed(job, found, due, self._overdue(job, states.get(job.name), now)))
        return listed

    def health(self) -> dict[str, Any]:
        """Per job the last outcome, when it ended, and whether it is overdue. One read of the table."""
        states, now = runs.states(self.names), self._clock()
        found = {name: states.get(name) for name in self._jobs}
        return {
            name: {
                "last_outcome": None if state is None else state.last_outcome,
                "last_finished": iso(state.last_finished) if state is not None and state.last_finished else None,
                "overdue": self._overdue(self._jobs[name], state, now),
            }
            for name, state in found.items()
        }

    def purge(self, deadline: Deadline) -> int:
        """Delete the records of runs that are older than `runs.RUN_SECONDS`; how many."""
        gone, before = 0, self._clock() - runs.RUN_SECONDS
        for name in self._jobs:
            while not deadline.over and (count := runs.purge(name, before)):
                gone += count
        return gone

    # --- one run ------------------------------------------------------------------------------------------------------

    def _job(self, name: str) -> Job:
        if name not in self._jobs:
            raise NotFound("There is no such job. depot jobs lists them.")
        return self._jobs[name]

    @staticmethod
    def _overdue(job: Job, state: JobState | None, now: float) -> bool:
        since = None if state is None else state.succeeded_at or state.first_at
        return since is not None and now - since > OVERDUE_PERIODS * job.seconds

    def _run(self, job: Job, at: float, trigger: Trigger, deadline: Deadline | None) -> JobRun:
        run = runs.begin(job.name, at, self._clock(), trigger, self._host, self._lease)
        started = time.monotonic()
        with _as_the_tier(run):
            try:
                outcome, counts, code = self._work(job, run, deadline or Deadline())
            except BaseException:  # Ctrl-C, or the interpreter ends
                self._end(run, RunOutcome.FAILED, {}, "interrupted")
                raise
            outcome = self._end(run, outcome, counts, code)
            level = logging.INFO if outcome is RunOutcome.COMPLETED else logging.ERROR
            about = {"job": job.name, "run_id": run.run_id, "outcome": str(outcome), "error_code": code or ""}
            took = round((time.monotonic() - started) * 1000)
            observability.log_event("job_ended", level, duration_ms=took, **about)
        return run

    def _work(self, job: Job, run: JobRun, deadline: Deadline) -> tuple[RunOutcome, dict[str, int], str | None]:
        """Do it, under the lease: how it went, what it counted, and the code of what it raised."""
        with self._kept(run, deadline):
            try:
                return RunOutcome.COMPLETED, {name: int(count) for name, count in job.run(deadline).items()}, None
            except Incomplete as error:
                return RunOutcome.FAILED, error.counts, error.code
            except DepotError as error:
                observability.log_exception("job_failed", error, job=job.name, run_id=run.run_id)
                return RunOutcome.FAILED, {}, error.code
            except Exception as error:  # noqa: BLE001 -- every run leaves a record, whatever ends it
                observability.log_exception("job_failed", error, job=job.name, run_id=run.run_id)
                return RunOutcome.FAILED, {}, DepotError.code

    def _end(self, run: JobRun, outcome: RunOutcome, counts: dict[str, int], code: str | None) -> RunOutcome:
        """Record the end; the outcome that is recorded. What cannot be recorded is marked as abandoned by the next run."""
        now = self._clock()
        for last in (False, False, True):
            try:
                runs.end(run, now, outcome, counts, code)
                break
            except LeaseLost:
                outcome = RunOutcome.ABANDONED
                run.outcome = str(outcome)
                break
            except LedgerUnavailable as error:
                if last:
                    observability.log_exception("job_not_recorded", error, job=run.job, run_id=run.run_id)
                    run.outcome, run.counts, run.error_code = str(outcome), counts, code
                else:
                    self._pause(END_PAUSE_SECONDS)
        metrics.count("depot_job_runs_total", job=run.job, outcome=str(outcome))
        if outcome is RunOutcome.COMPLETED:
            metrics.gauge("depot_job_last_success_seconds", now, job=run.job)
        return outcome

    @contextmanager
    def _kept(self, run: JobRun, deadline: Deadline) -> Iterator[None]:
        """Renew the lease on a thread of its own; a job that lost it is asked to stop."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(self._lease.seconds / 3):
                try:
                    runs.renew(run, self._clock() + self._lease.seconds)
                except LeaseLost:
                    observability.log_event("job_lease_lost", logging.ERROR, job=run.job, run_id=run.run_id)
                    deadline.stop()
                    return
                except LedgerUnavailable:
                    continue  # it may come back before the lease is given up

        thread = threading.Thread(target=keep, name=f"job-lease-{run.job}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@contextmanager
def _as_the_tier(run: JobRun) -> Iterator[None]:
    """On nobody's behalf, and with the run's id as the request id of its log lines unless a request is being answered."""
    nobody = context.assertion.set(None)
    record = observability.RequestRecord(run.run_id, route="job")
    token = None if observability.current_record() else observability.begin_request(record)
    try:
        yield
    finally:
        if token is not None:
            observability.end_request(token)
        context.assertion.reset(nobody)


def run_json(run: JobRun) -> dict[str, Any]:
    """A run as it is told: ids, times, counts and codes."""
    return {
        "run": run.run,
        "run_id": run.run_id,
        "trigger": run.trigger,
        "host": run.host,
        "started": iso(run.started),
        "finished": None if run.finished is None else iso(run.finished),
        "outcome": run.outcome,
        "counts": dict(run.counts or {}),
        "error_code": run.error_code,
    }


def iso(at: float) -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
