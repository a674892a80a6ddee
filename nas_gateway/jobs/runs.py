"""Rows of jobs: beginning a run, holding its lease, ending it, reading. Used inside this package only.

A run begins in one transaction, which takes the job's lease and puts the slot's row: so a slot runs once, and two runs of one
job never at the same time, however many hosts try. A lease counts as given up only when it ran out `grace` seconds ago, so
that a host whose clock is ahead takes nothing over that is alive.
"""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException, TransactWriteError, UpdateError
from pynamodb.transactions import TransactWrite

from chalicelib import dynamo
from chalicelib.errors import JobRunning, LeaseLost, LedgerUnavailable
from nas_gateway.jobs.tables import JobRun, JobState

# Records of runs are kept for so long.
RUN_SECONDS = 90 * 24 * 3600
# Digits of the epoch seconds in a run's key: they sort as numbers do.
_DIGITS = 12
_REFUSED = "ConditionalCheckFailedException"
# How often a run is begun again after a conflict of transactions, and the longest pause before, in seconds.
_CONFLICTS, _PAUSE_SECONDS = 4, 0.2
# DynamoDB takes 100 actions a transaction.
_TRANSACTION = 100


class Trigger(StrEnum):
    SCHEDULE = "schedule"
    MANUAL = "manual"


class RunOutcome(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ABANDONED = "abandoned"  # its holder went silent, and another run took the lease over


class _Conflict(Exception):
    """Another host does the same at this moment; neither may have come through."""


class SlotTaken(Exception):
    """The slot has its run already."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a hold lasts without being renewed, and how long after that it counts as given up. Seconds."""

    seconds: float
    grace: float


def slot_key(start: float) -> str:
    return f"{int(start):0{_DIGITS}d}"


def begin(job: str, at: float, now: float, trigger: Trigger, host: str, lease: Lease) -> JobRun:
    """Take the job's lease and put the row of its run. Raises `SlotTaken`, `JobRunning`, `LedgerUnavailable`.

    `at` is the start of the slot for a scheduled run. A run whose holder went silent is marked as abandoned with it.
    """
    run_id = uuid.uuid4().hex
    for _ in range(_CONFLICTS):
        try:
            return _begin(job, at, now, trigger, host, lease, run_id)
        except _Conflict:
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 -- jitter, no secret
    raise JobRunning


def _begin(job: str, at: float, now: float, trigger: Trigger, host: str, lease: Lease, run_id: str) -> JobRun:
    key = slot_key(at) if trigger is Trigger.SCHEDULE else f"{slot_key(at)}-{run_id[:8]}"
    # Most events find their slot done: that costs one read.
    if trigger is Trigger.SCHEDULE and _run(job, key) is not None:
        raise SlotTaken
    state = _state(job)
    if state is not None and state.lease_until and state.lease_until + lease.grace >= now:
        raise JobRunning
    silent = _run(job, state.run) if state is not None and state.lease_until and state.run else None
    epoch = int(state.epoch) + 1 if state is not None else 1
    row = JobRun(
        job,
        key,
        run_id=run_id,
        trigger=str(trigger),
        host=host,
        epoch=epoch,
        started=now,
        outcome=str(RunOutcome.RUNNING),
        expires_at=int(now + RUN_SECONDS),
    )
    actions: list[Any] = [
        JobState.epoch.set(epoch),
        JobState.lease_until.set(now + lease.seconds),
        JobState.run.set(key),
        *([] if state is not None and state.first_at else [JobState.first_at.set(now)]),
    ]
    free: Any = JobState.job.does_not_exist()
    if state is not None:  # nobody took the lease since it was read, and its holder did not wake up
        free = (JobState.epoch == state.epoch) & (JobState.lease_until == state.lease_until)
    try:
        with TransactWrite(connection=dynamo.connection(JobRun), client_request_token=run_id) as transaction:
            transaction.save(row, condition=JobRun.job.does_not_exist())
            transaction.update(JobState(job), actions, condition=free)
            if silent is not None and silent.outcome == RunOutcome.RUNNING:
                gone: list[Any] = [JobRun.outcome.set(str(RunOutcome.ABANDONED)), JobRun.finished.set(now)]
                running = JobRun.outcome == str(RunOutcome.RUNNING)
                transaction.update(JobRun(job, silent.run), gone, condition=running)
    except TransactWriteError as error:
        found = _run(job, key)
        if found is not None and found.run_id == run_id:  # botocore repeated a request whose answer did not come
            return found
        codes = {reason.code for reason in error.cancellation_reasons if reason is not None}
        if found is not None:
            raise SlotTaken from None
        if "ConditionalCheckFailed" in codes:
            raise JobRunning from None
        if "TransactionConflict" in codes:
            raise _Conflict from None
        raise LedgerUnavailable from error
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return row


def renew(run: JobRun, until: float) -> None:
    """Hold on. Raises `LeaseLost`, `LedgerUnavailable`."""
    try:
        JobState(run.job).update([JobState.lease_until.set(until)], condition=_held(run))
    except UpdateError as error:
        if dynamo.code_of(error) == _REFUSED:
            raise LeaseLost from None
        raise LedgerUnavailable from error


def end(run: JobRun, now: float, outcome: RunOutcome, counts: dict[str, int], code: str | None) -> None:
    """Write how a run ended, and let go of the lease. Raises `LeaseLost` when it was taken over, `LedgerUnavailable`."""
    values: dict[str, Any] = {"finished": now, "outcome": str(outcome)}
    values |= {"counts": counts} if counts else {}
    values |= {"error_code": code} if code else {}
    ended = [getattr(JobRun, name).set(value) for name, value in values.items()]
    state: list[Any] = [
        JobState.lease_until.set(0),
        JobState.run.remove(),
        JobState.last_run.set(run.run),
        JobState.last_outcome.set(str(outcome)),
        JobState.last_finished.set(now),
    ]
    if outcome is RunOutcome.COMPLETED:
        state.append(JobState.succeeded_at.set(now))
    try:
        with TransactWrite(connection=dynamo.connection(JobRun)) as transaction:
            transaction.update(JobRun(run.job, run.run), ended, condition=JobRun.outcome == str(RunOutcome.RUNNING))
            transaction.update(JobState(run.job), state, condition=_held(run))
    except TransactWriteError as error:
        found = _run(run.job, run.run)
        if found is None or found.outcome == RunOutcome.ABANDONED:
            raise LeaseLost from None
        if found.outcome == RunOutcome.RUNNING:
            raise LedgerUnavailable from error
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    for name, value in values.items():
        setattr(run, name, value)


def states(jobs: list[str]) -> dict[str, JobState]:
    """The rows of these jobs, by name; one that never ran has none. Raises `LedgerUnavailable`."""
    try:
        return {row.job: row for row in JobState.batch_get(jobs)}
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def last(job: str, limit: int) -> list[JobRun]:
    """The last runs of a job, newest first. Raises `LedgerUnavailable`."""
    try:
        return list(JobRun.query(job, scan_index_forward=False, limit=limit))
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def purge(job: str, before: float) -> int:
    """Delete the records of runs that began before; how many, 100 at most. Raises `LedgerUnavailable`."""
    try:
        old = list(JobRun.query(job, JobRun.run < slot_key(before), limit=_TRANSACTION))
        if old:
            with TransactWrite(connection=dynamo.connection(JobRun)) as transaction:
                for row in old:
                    transaction.delete(JobRun(job, row.run))
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return len(old)


def _held(run: JobRun) -> Any:
    return (JobState.epoch == run.epoch) & (JobState.run == run.run)


def _run(job: str, run: str) -> JobRun | None:
    try:
        return JobRun.get(job, run, consistent_read=True)
    except DoesNotExist:
        return None
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def _state(job: str) -> JobState | None:
    try:
        return JobState.get(job, consistent_read=True)
    except DoesNotExist:
        return None
    except PynamoDBException as error:
        raise LedgerUnavailable from error
