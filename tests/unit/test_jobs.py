"""Jobs: one run a slot, never two at once, a record of each. In moto's DynamoDB, with clocks that are passed in."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from moto import mock_aws

from chalicelib import context, dynamo, metrics, observability
from chalicelib.errors import JobRunning, LeaseLost, LedgerUnavailable, NotFound, StorageFull
from chalicelib.hosting.events import HostContext
from nas_gateway.jobs import Deadline, Incomplete, runs
from nas_gateway.jobs.jobs import Fired, Job, Jobs
from nas_gateway.jobs.runs import Lease, RunOutcome, Trigger
from nas_gateway.jobs.tables import MODELS, JobRun, JobState
from tests.support.gateway import AWS
from tests.support.stack import wait_until

NOW = datetime(2031, 5, 1, 12, 1, tzinfo=UTC).timestamp()
SLOT = NOW - 60
LEASE = Lease(60, 300)
MINUTES = timedelta(minutes=5)
CANARY = "patient-0815.csv"


@pytest.fixture(scope="module")
def tables() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"):
            patch.delenv(name, raising=False)
        for name, value in AWS.items():
            patch.setenv(name, value)
        dynamo.bind("jobs", "us-east-1", *MODELS)
        dynamo.create(*MODELS)
        yield


@pytest.fixture(autouse=True)
def nothing_ran(tables: None) -> Iterator[None]:
    yield
    JobState("tick").delete()
    for row in JobRun.query("tick"):
        row.delete()
    context.assertion.set(None)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def done(_: Deadline) -> Mapping[str, int]:
    return {"deleted": 3}


def raising(error: BaseException) -> Callable[[Deadline], Mapping[str, int]]:
    def run(_: Deadline) -> Mapping[str, int]:
        raise error

    return run


def jobs_of(
    clock: Callable[[], float], work: Callable[[Deadline], Mapping[str, int]] = done, host: str = "a", **more: Any
) -> Jobs:
    return Jobs(
        [Job("tick", MINUTES, "a test", work)], more.get("lease", LEASE), clock=clock, pause=lambda _: None, host=host
    )


def recorded() -> list[tuple[str, str]]:
    """(run, outcome), newest first."""
    return [(row.run, row.outcome) for row in runs.last("tick", 100)]


def dead(clock: Clock, at: float = SLOT) -> JobRun:
    """A run whose process was killed: it began, and nothing more came."""
    return runs.begin("tick", at, clock(), Trigger.SCHEDULE, "dead", LEASE)


# --- one run a slot -------------------------------------------------------------------------------------------------


def test_an_event_runs_the_job_for_its_slot_once(clock: Clock) -> None:
    jobs = jobs_of(clock)
    assert jobs.fire("tick", SLOT + 61).result == "ran"
    assert [jobs.fire("tick", SLOT + late).result for late in (0, 61, 299)] == ["slot_done"] * 3
    assert jobs.fire("tick", SLOT + 300).result == "ran"
    assert recorded() == [(runs.slot_key(SLOT + 300), "completed"), (runs.slot_key(SLOT), "completed")]


def test_another_host_finds_the_slot_done(clock: Clock) -> None:
    assert jobs_of(clock).fire("tick", NOW).result == "ran"
    assert jobs_of(clock, host="b").fire("tick", NOW) == Fired("tick", "slot_done")


def test_an_event_that_comes_late_is_for_its_own_slot(clock: Clock) -> None:
    jobs = jobs_of(clock)
    assert jobs.fire("tick", NOW).result == "ran"
    assert jobs.fire("tick", NOW - 600).result == "ran"
    assert len(recorded()) == 2


def test_the_record_says_all_that_there_is_to_say(clock: Clock) -> None:
    fired = jobs_of(clock).fire("tick", NOW)
    (row,) = runs.last("tick", 10)
    assert fired.run is not None
    assert fired.run.attribute_values == row.attribute_values
    assert (row.trigger, row.host, row.outcome, row.counts) == ("schedule", "a", "completed", {"deleted": 3})
    assert (row.started, row.finished, row.error_code) == (NOW, NOW, None)
    assert row.expires_at == NOW + 90 * 86400
    assert fired.to_json()["run"]["started"] == "2031-05-01T12:01:00Z"
    json.dumps(fired.to_json())


def test_there_is_no_other_job(clock: Clock) -> None:
    with pytest.raises(NotFound):
        jobs_of(clock).fire("tock", NOW)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "counts"),
    [
        (StorageFull(CANARY), "storage_full", {}),
        (FileNotFoundError(2, "No such file", CANARY), "internal_error", {}),
        (Incomplete({"deleted": 1, "failed": 2}, "storage_full"), "storage_full", {"deleted": 1, "failed": 2}),
    ],
    ids=["ours", "any", "incomplete"],
)
def test_a_run_that_fails_leaves_its_code_and_never_a_message(
    error: BaseException, code: str, counts: dict[str, int], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    fired = jobs_of(clock, raising(error)).fire("tick", NOW)
    (row,) = runs.last("tick", 10)
    assert (row.outcome, row.error_code, row.counts or {}) == ("failed", code, counts)
    assert fired.run is not None
    assert fired.run.outcome == "failed"
    assert CANARY not in json.dumps(row.to_simple_dict()) + capsys.readouterr().err
    assert jobs_of(clock).fire("tick", NOW + 300).result == "ran"  # the lease is free


def test_ctrl_c_is_recorded_and_goes_on(clock: Clock) -> None:
    with pytest.raises(KeyboardInterrupt):
        jobs_of(clock, raising(KeyboardInterrupt())).run_now("tick")
    (row,) = runs.last("tick", 10)
    assert (row.outcome, row.error_code) == ("failed", "interrupted")
    assert jobs_of(clock).run_now("tick").outcome == "completed"


def unreachable(*_: Any) -> Any:
    raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")


def test_what_cannot_be_recorded_does_not_begin(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    jobs = jobs_of(clock, lambda _: {"n": ran.append(1) or 1})  # type: ignore[func-returns-value]
    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", unreachable)
        with pytest.raises(LedgerUnavailable):
            jobs.fire("tick", NOW)
    assert not ran
    assert jobs.fire("tick", NOW).result == "ran"  # the same event, sent again


def test_an_end_that_cannot_be_recorded_is_found_by_the_next_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_: Deadline) -> Mapping[str, int]:
        monkeypatch.setattr(BaseClient, "_make_api_call", unreachable)
        return {}

    real = BaseClient._make_api_call
    assert jobs_of(clock, work).run_now("tick").outcome == "completed"
    monkeypatch.setattr(BaseClient, "_make_api_call", real)
    assert [outcome for _, outcome in recorded()] == ["running"]
    clock.now += 361
    assert jobs_of(clock).fire("tick", clock()).result == "ran"
    assert [outcome for _, outcome in recorded()] == ["completed", "abandoned"]


@pytest.mark.parametrize("when", ["before", "after"], ids=["lost on the way there", "lost on the way back"])
@pytest.mark.parametrize("step", [0, 1], ids=["beginning", "ending"])
def test_a_commit_whose_answer_does_not_come_is_made_once(
    step: int, when: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen, ran = BaseClient._make_api_call, iter(range(100)), list[int]()

    def faulty(client: Any, operation: str, values: dict[str, Any]) -> Any:
        if operation != "TransactWriteItems" or next(seen) != step:
            return real(client, operation, values)
        if when == "after":
            real(client, operation, values)
        raise ReadTimeoutError(endpoint_url="dynamodb")

    def work(_: Deadline) -> Mapping[str, int]:
        ran.append(1)
        return {"done": 1}

    monkeypatch.setattr(BaseClient, "_make_api_call", faulty)
    jobs = jobs_of(clock, work)
    if (step, when) == (0, "before"):
        with pytest.raises(LedgerUnavailable):
            jobs.fire("tick", NOW)
        assert not ran
    results = {jobs.fire("tick", NOW).result, jobs.fire("tick", NOW).result}
    assert results <= {"ran", "slot_done"}
    assert ran == [1]
    (row,) = runs.last("tick", 10)
    assert (row.outcome, row.counts) == ("completed", {"done": 1})


def test_a_conflict_of_transactions_is_not_taken_for_a_run_under_way(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, conflicts = BaseClient._make_api_call, iter([True, True])

    def conflicting(client: Any, operation: str, values: dict[str, Any]) -> Any:
        if operation == "TransactWriteItems" and next(conflicts, False):
            reasons = [{"Code": "None"}, {"Code": "TransactionConflict", "Message": "ongoing"}]
            error = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
            raise ClientError(error, operation)  # type: ignore[arg-type]
        return real(client, operation, values)

    monkeypatch.setattr(BaseClient, "_make_api_call", conflicting)
    assert jobs_of(clock).fire("tick", NOW).result == "ran"


# --- never two at once ----------------------------------------------------------------------------------------------


def test_no_run_begins_while_another_is_under_way(clock: Clock) -> None:
    results: list[str] = []
    other = jobs_of(clock, host="b")

    def work(_: Deadline) -> Mapping[str, int]:
        results.append(other.fire("tick", NOW + 300).result)
        with pytest.raises(JobRunning):
            other.run_now("tick")
        return {}

    assert jobs_of(clock, work).fire("tick", NOW).result == "ran"
    assert results == ["busy"]
    assert len(recorded()) == 1
    assert other.fire("tick", NOW + 300).result == "ran", "a slot that found it busy is not used up"


def test_a_lease_is_taken_over_only_once_it_ran_out_and_its_run_is_abandoned(clock: Clock) -> None:
    gone = dead(clock)
    clock.now = NOW + LEASE.seconds + LEASE.grace  # five minutes for clocks that differ
    assert jobs_of(clock).fire("tick", SLOT + 300).result == "busy"
    clock.now += 1
    assert jobs_of(clock).fire("tick", SLOT + 300).result == "ran"
    assert recorded() == [(runs.slot_key(SLOT + 300), "completed"), (gone.run, "abandoned")]
    assert runs.last("tick", 10)[1].finished == clock.now


def test_who_slept_past_its_lease_changes_nothing_any_more(clock: Clock) -> None:
    sleeper = dead(clock)
    clock.now += 361
    jobs_of(clock).fire("tick", SLOT + 300)
    before = recorded()
    with pytest.raises(LeaseLost):
        runs.end(sleeper, clock(), RunOutcome.COMPLETED, {}, None)
    with pytest.raises(LeaseLost):
        runs.renew(sleeper, clock() + 60)
    assert recorded() == before


def test_a_holder_that_wakes_up_just_then_keeps_its_lease(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = dead(clock)
    clock.now += 361
    real = runs._state

    def read_then_renewed(job: str) -> JobState | None:
        state = real(job)
        runs.renew(sleeper, clock() + 60)
        return state

    monkeypatch.setattr(runs, "_state", read_then_renewed)
    assert jobs_of(clock).fire("tick", SLOT + 300).result == "busy"
    assert recorded() == [(sleeper.run, "running")]


def test_a_slot_that_another_host_runs_and_ends_just_then_is_not_run_again(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = runs._state

    def raced(job: str) -> JobState | None:
        monkeypatch.setattr(runs, "_state", real)
        assert jobs_of(clock, host="b").fire("tick", NOW).result == "ran"
        return real(job)

    monkeypatch.setattr(runs, "_state", raced)
    assert jobs_of(clock).fire("tick", NOW).result == "slot_done"
    assert len(recorded()) == 1


def test_two_that_find_the_lease_free_at_once_do_not_both_take_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_of(clock).fire("tick", NOW - 300)
    real = runs._state

    def read_then_taken(job: str) -> JobState | None:
        state = real(job)
        monkeypatch.setattr(runs, "_state", real)
        dead(clock)
        return state

    monkeypatch.setattr(runs, "_state", read_then_taken)
    assert jobs_of(clock).fire("tick", NOW + 300).result == "busy"


def test_a_run_that_lost_its_lease_is_asked_to_stop_and_says_so(clock: Clock) -> None:
    def work(deadline: Deadline) -> Mapping[str, int]:
        assert not deadline.over
        clock.now += 361
        assert other.fire("tick", SLOT + 300).result == "ran"
        wait_until(lambda: deadline.over, 20, "the lease's loss to be noticed")
        return {}

    other = jobs_of(clock, host="b")
    fired = jobs_of(clock, work, lease=Lease(0.1, 300)).fire("tick", NOW)
    assert fired.run is not None
    assert fired.run.outcome == "abandoned"
    assert [outcome for _, outcome in recorded()] == ["completed", "abandoned"]


def test_the_lease_is_renewed_while_the_job_runs() -> None:
    renewed = threading.Event()

    def clock() -> float:
        if threading.current_thread() is not threading.main_thread():
            renewed.set()
            return NOW + 1000
        return NOW

    def work(_: Deadline) -> Mapping[str, int]:
        assert renewed.wait(20)
        wait_until(lambda: JobState.get("tick").lease_until > NOW + 900, 20, "the renewed lease")
        return {}

    fired = jobs_of(clock, work, lease=Lease(0.1, 0)).fire("tick", NOW)
    assert fired.run is not None
    assert (fired.run.outcome, fired.run.error_code) == ("completed", None)
    assert JobState.get("tick").lease_until == 0


# --- by hand, and what is told ---------------------------------------------------------------------------------------


def test_a_run_by_hand_uses_no_slot_up(clock: Clock) -> None:
    jobs = jobs_of(clock)
    assert jobs.run_now("tick").trigger == "manual"
    assert jobs.run_now("tick").outcome == "completed"
    assert jobs.fire("tick", NOW).result == "ran"
    assert len(recorded()) == 3


def test_the_listing_tells_the_last_runs_and_when_the_next_is_due(clock: Clock) -> None:
    jobs = jobs_of(clock)
    (never,) = jobs.listing()
    assert (never.to_json()["runs"], never.overdue, never.next_due) == ([], False, SLOT + 300)
    for _ in range(4):
        jobs.fire("tick", clock())
        clock.now += 300
    (listed,) = jobs.listing(limit=3)
    assert [run.started for run in listed.runs] == [NOW + 900, NOW + 600, NOW + 300]
    assert listed.next_due == SLOT + 1500, "of this slot nothing ran yet, but its event was due a minute ago"
    assert listed.to_json()["every_seconds"] == 300


def test_what_is_due_next_is_the_next_event_that_finds_its_slot_undone() -> None:
    daily = Job("day", timedelta(days=1), "", done, timedelta(minutes=53), timedelta(hours=1))
    noon = datetime(2031, 5, 1, 12, tzinfo=UTC).timestamp()
    midnight = noon - 12 * 3600
    assert daily.next_event(noon, done=False) == noon + 53 * 60
    assert daily.next_event(noon + 54 * 60, done=False) == noon + 3600 + 53 * 60
    assert daily.next_event(midnight, done=False) == midnight + 53 * 60
    assert daily.next_event(noon, done=True) == midnight + 24 * 3600 + 53 * 60


def test_a_job_is_overdue_once_it_did_not_succeed_for_three_periods(clock: Clock) -> None:
    good, bad = jobs_of(clock), jobs_of(clock, raising(StorageFull()))
    assert good.health() == {"tick": {"last_outcome": None, "last_finished": None, "overdue": False}}
    good.fire("tick", clock())
    clock.now += 900
    bad.fire("tick", clock())
    assert not good.health()["tick"]["overdue"]
    clock.now += 1
    assert good.health()["tick"]["overdue"]
    assert good.health()["tick"]["last_outcome"] == "failed"
    assert good.listing()[0].overdue
    clock.now += 300
    good.fire("tick", clock())
    assert not good.health()["tick"]["overdue"]


def test_a_job_that_never_succeeded_is_overdue_too(clock: Clock) -> None:
    bad = jobs_of(clock, raising(StorageFull()))
    for _ in range(3):
        assert not bad.health()["tick"]["overdue"]
        bad.fire("tick", clock())
        clock.now += 300.1
    assert bad.health()["tick"]["overdue"]


def test_runs_are_counted(clock: Clock) -> None:
    metrics.registry.clear()
    jobs_of(clock).fire("tick", NOW)
    jobs_of(clock, raising(StorageFull())).fire("tick", NOW + 300)
    found = {(sample.metric.name, *dict(sample.labels).values()): sample.value for sample in metrics.registry.samples()}
    assert found == {
        ("depot_job_runs_total", "tick", "completed"): 1,
        ("depot_job_runs_total", "tick", "failed"): 1,
        ("depot_job_last_success_seconds", "tick"): NOW,
    }


def test_a_job_runs_on_nobodys_behalf_whoever_asked_for_it(clock: Clock) -> None:
    seen: list[str | None] = []

    def work(_: Deadline) -> Mapping[str, int]:
        seen.extend((context.assertion.get(), observability.current_request_id()))
        return {}

    context.assertion.set("somebody's token")
    run = jobs_of(clock, work).run_now("tick")
    assert seen == [None, run.run_id]
    assert context.assertion.get() == "somebody's token"
    assert observability.current_request_id() == "-"


def test_old_records_go(clock: Clock) -> None:
    jobs = jobs_of(clock)
    for _ in range(3):
        jobs.fire("tick", clock())
        clock.now += 300
    clock.now = NOW + 90 * 86400 + 300
    assert jobs.purge(Deadline()) == 2
    assert [run for run, _ in recorded()] == [runs.slot_key(SLOT + 600)]
    stopped = Deadline()
    stopped.stop()
    clock.now += 86400
    assert jobs.purge(stopped) == 0


def test_a_lease_whose_runs_record_is_gone_is_taken_over(clock: Clock) -> None:
    dead(clock).delete()
    clock.now += 361
    assert jobs_of(clock).fire("tick", clock()).result == "ran"


# --- deadlines ------------------------------------------------------------------------------------------------------


class Context:
    def __init__(self, left: int) -> None:
        self.left = left

    def get_remaining_time_in_millis(self) -> int:
        return self.left


@pytest.mark.parametrize(("whole", "usable"), [(900_000, 870), (29_000, 29 * 2 / 3)], ids=["schedule", "api"])
def test_under_lambda_a_job_is_over_before_the_invocation_is(whole: int, usable: float) -> None:
    invocation = Context(whole)
    deadline = Deadline.of(invocation, lambda: 0.0)
    assert deadline.left() == pytest.approx(usable)
    assert not deadline.over
    invocation.left -= int(usable * 1000) + 1
    assert deadline.over
    assert deadline.left() == 0


def test_a_context_that_always_answers_the_same_has_an_end_nevertheless() -> None:
    now = [0.0]
    deadline = Deadline.of(HostContext("request"), lambda: now[0])
    now[0] = 869.0
    assert deadline.left() == pytest.approx(1)
    now[0] = 871.0
    assert deadline.over


def test_a_deadline_without_end_ends_when_it_is_told_to() -> None:
    deadline = Deadline.of(None)
    assert deadline.left() == float("inf")
    deadline.stop()
    assert deadline.over
    now = [0.0]
    after = Deadline.after(10, lambda: now[0])
    now[0] = 9
    assert after.left() == 1
    now[0] = 11
    assert after.over
