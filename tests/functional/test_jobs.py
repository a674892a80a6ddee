"""Jobs on many hosts over one MiniStack (whose transactions are exact), and the streaming host that fires them."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from apscheduler.triggers.interval import IntervalTrigger

from chalicelib import dynamo
from chalicelib.errors import JobRunning
from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.hosting.scheduler import Scheduler
from nas_gateway import schedules
from nas_gateway.jobs import Deadline, runs
from nas_gateway.jobs.jobs import Fired, Job, Jobs
from nas_gateway.jobs.runs import Lease
from nas_gateway.jobs.standard import DAY, Plan
from nas_gateway.jobs.tables import MODELS
from tests.support.client import Client
from tests.support.gateway import AWS
from tests.support.host_server import PATIENCE, running
from tests.support.stack import wait_until

ROOT = Path(__file__).parents[2]
LEASE = Lease(60, 300)
Work = Callable[[Deadline], Mapping[str, int]]


@pytest.fixture
def prefix(ministack_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tables of this test's own."""
    for name, value in {**AWS, "AWS_ENDPOINT_URL": ministack_url}.items():
        monkeypatch.setenv(name, value)
    made = f"jobs-{uuid.uuid4().hex[:8]}"
    dynamo.bind(made, "us-east-1", *MODELS)
    dynamo.create(*MODELS)
    return made


def job(work: Work, every: timedelta = DAY) -> Job:
    return Job("tick", every, "a test", work)


def outcomes() -> list[str]:
    return [row.outcome for row in runs.last("tick", 1000)]


class Once:
    """Work that notes how often it ran, and how many at the same time."""

    def __init__(self) -> None:
        self._lock, self._now = threading.Lock(), 0
        self.count = self.most = 0

    def __call__(self, _: Deadline) -> Mapping[str, int]:
        with self._lock:
            self.count, self._now = self.count + 1, self._now + 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.02)  # long enough for another to come in between
        with self._lock:
            self._now -= 1
        return {"done": 1}


def at_once(count: int, act: Callable[[int], str]) -> Counter[str]:
    barrier = threading.Barrier(count)

    def go(number: int) -> str:
        barrier.wait(PATIENCE)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(go, range(count)))


# --- many hosts -----------------------------------------------------------------------------------------------------


def test_a_hundred_events_for_one_slot_at_once_have_one_effect(prefix: str) -> None:
    work = Once()
    hosts = [Jobs([job(work)], LEASE, host=f"host-{number}") for number in range(5)]
    now = time.time()
    results = at_once(100, lambda number: hosts[number % 5].fire("tick", now).result)
    assert results["ran"] == work.count == 1
    assert set(results) <= {"ran", "busy", "slot_done"}
    assert outcomes() == ["completed"]


def test_runs_of_one_job_never_overlap_whatever_asks_for_them(prefix: str) -> None:
    work = Once()
    hosts = [Jobs([job(work, timedelta(seconds=1))], LEASE, host=f"host-{number}") for number in range(4)]

    def act(number: int) -> str:
        host = hosts[number % 4]
        if number % 3:
            return host.fire("tick", 1000 + number % 8).result
        try:
            return host.run_now("tick").outcome
        except JobRunning:
            return "busy"

    results = at_once(40, act)
    assert work.most == 1
    assert work.count == results["ran"] + results["completed"] >= 1
    assert outcomes() == ["completed"] * work.count


def test_a_killed_runners_job_is_taken_over_when_its_lease_ran_out(prefix: str) -> None:
    lease = Lease(0.6, 0.2)
    command = [sys.executable, "-m", "tests.support.job_holder", prefix, str(lease.seconds), str(lease.grace)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"running\n"
        work = Once()
        mine = Jobs([job(work)], lease, host="next")
        held = runs.states(["tick"])["tick"].lease_until
        wait_until(lambda: runs.states(["tick"])["tick"].lease_until > held + lease.seconds, PATIENCE, "renewals")
        assert mine.fire("tick", time.time()).result == "busy", "its holder is alive, and has renewed it"
        killed.kill()
    wait_until(lambda: mine.fire("tick", time.time()).result == "ran", PATIENCE, "the take-over")
    assert work.count == 1
    assert [(row.host, row.outcome) for row in runs.last("tick", 10)] == [
        ("next", "completed"),
        ("killed", "abandoned"),
    ]


# --- the host -------------------------------------------------------------------------------------------------------


class Noting(Jobs):
    """Jobs that tell what became of each event."""

    def __init__(self, work: Work) -> None:
        super().__init__([job(work)], LEASE)
        self.results: queue.Queue[str] = queue.Queue()

    def fire(self, name: str, at: float, deadline: Deadline | None = None) -> Fired:
        fired = super().fire(name, at, deadline)
        self.results.put(fired.result)
        return fired


def scheduled(jobs: Jobs) -> tuple[DepotApp, Scheduler]:
    """An app whose one handler is fired twenty times a second."""
    app = DepotApp("host-test")

    @app.route("/hello")
    def hello() -> dict[str, bool]:
        return {"hello": True}

    app.register_blueprint(schedules.blueprint(lambda: jobs, (Plan("tick", DAY, 1, "test"),)))
    return app, Scheduler(app, trigger=lambda _: IntervalTrigger(seconds=0.05))


@pytest.fixture
def stopping() -> Iterator[threading.Event]:
    """Set at the end, for whatever still waits."""
    event = threading.Event()
    yield event
    event.set()


def test_the_host_fires_a_handler_again_and_again_and_its_slot_runs_once(prefix: str) -> None:
    jobs = Noting(Once())
    app, scheduler = scheduled(jobs)
    with running(app, scheduler=scheduler):
        assert [jobs.results.get(timeout=PATIENCE) for _ in range(4)] == ["ran", *["slot_done"] * 3]
    assert outcomes() == ["completed"]
    while not jobs.results.empty():
        jobs.results.get()
    assert scheduler.running == 0


def test_requests_are_answered_while_a_job_runs(prefix: str, stopping: threading.Event) -> None:
    begun = threading.Event()

    def work(_: Deadline) -> Mapping[str, int]:
        begun.set()
        return {"waited": stopping.wait(PATIENCE)}

    app, scheduler = scheduled(Noting(work))
    with running(app, scheduler=scheduler) as host:
        assert begun.wait(PATIENCE)
        assert Client(f"http://127.0.0.1:{host.port}").get("/hello").json() == {"hello": True}
        stopping.set()


def test_a_job_is_asked_to_stop_with_its_host_and_is_waited_for(prefix: str) -> None:
    begun = threading.Event()

    def work(deadline: Deadline) -> Mapping[str, int]:
        begun.set()
        wait_until(lambda: deadline.over, PATIENCE, "the host's stop")
        return {"stopped": 1}

    app, scheduler = scheduled(Noting(work))
    with running(app, scheduler=scheduler, DEPOT_DRAIN_SECONDS="20") as host:
        assert begun.wait(PATIENCE)
        host.stop()
        assert host.ended()
    (row,) = runs.last("tick", 10)
    assert (row.outcome, row.counts) == ("completed", {"stopped": 1})


def test_a_job_that_does_not_stop_keeps_no_host_from_ending(prefix: str, stopping: threading.Event) -> None:
    begun = threading.Event()

    def work(_: Deadline) -> Mapping[str, int]:
        begun.set()
        stopping.wait()
        return {}

    app, scheduler = scheduled(Noting(work))
    with running(app, scheduler=scheduler, DEPOT_DRAIN_SECONDS="0.1") as host:
        assert begun.wait(PATIENCE)
        host.stop()
        assert host.ended()
        assert outcomes() == ["running"]
    stopping.set()
    wait_until(lambda: outcomes() == ["completed"], PATIENCE, "the thread to end")


def test_a_handler_that_raises_is_fired_again(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: queue.Queue[int] = queue.Queue()

    class Raising(Noting):
        def fire(self, *_: Any) -> Fired:
            seen.put(1)
            raise RuntimeError("/nas/secret-canary.csv")

    app, scheduler = scheduled(Raising(Once()))
    with running(app, scheduler=scheduler):
        for _ in range(3):
            seen.get(timeout=PATIENCE)
