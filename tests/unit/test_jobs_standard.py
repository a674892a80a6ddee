"""Depot's own jobs over a services tier in moto: what each does, when it is fired, and how people see it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chalice.app import Cron, Rate

from chalicelib.cli import main
from chalicelib.config import Settings
from chalicelib.hosting.scheduler import trigger_of
from chalicelib.hosting.server import scheduler_of
from chalicelib.storage.uploads import NewUpload
from nas_gateway import schedules, wiring
from nas_gateway.api.guard import Gateway
from nas_gateway.files.access import Call
from nas_gateway.jobs import Deadline, Incomplete, runs
from nas_gateway.jobs.standard import DAY, FIVE_MINUTES, HOUR, PLANS, Plan, swept
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import Action
from nas_gateway.uploads.report import Report
from nas_gateway.uploads.tables import UploadSession
from tests.support.gateway import ENV
from tests.support.lambda_events import content, event

KEY = {"x-api-key": ENV["INTERNAL_API_KEY"]}
MEMORY = json.dumps({"disks": {name: {"driver": "memory"} for name in ("submissions", "workspace", "scratch")}})


def test_every_job_of_depots_runs_in_an_empty_installation(gateway: Gateway) -> None:
    for name in gateway.jobs.names:
        run = gateway.jobs.run_now(name)
        assert (name, run.outcome, run.error_code) == (name, "completed", None)


def test_without_a_key_no_checkpoint_is_signed_and_the_run_says_so(gateway: Gateway) -> None:
    assert gateway.jobs.run_now("checkpoint").counts == {"skipped": 1}


def test_a_checkpoint_is_signed_where_there_is_a_key_and_a_place(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**ENV, "LEDGER_SIGNING_KEY_FILE": str(tmp_path / "key.pem"), "LEDGER_CHECKPOINT_DIR": str(tmp_path / "kept")}
    jobs = wiring.jobs(Settings.from_env(env))
    for _ in range(2):
        run = jobs.run_now("checkpoint")
        assert (run.outcome, run.counts) == ("completed", {"signed": 1, "events": 0})


class Sweeping:
    def __init__(self, report: Report) -> None:
        self.report = report

    def run(self, *, over: Any) -> Report:
        return self.report


def test_a_sweep_that_could_not_repair_something_counts_as_failed() -> None:
    report = Report(dry_run=False)
    report.repaired["lost"] += 2
    assert swept(Sweeping(report), Deadline()) == {"repaired": 2, "failed": 0, "skipped": 0}  # type: ignore[arg-type]
    report.fail("stray_tail", "storage_full")
    with pytest.raises(Incomplete) as failed:
        swept(Sweeping(report), Deadline())  # type: ignore[arg-type]
    assert (failed.value.code, failed.value.counts["failed"]) == ("storage_full", 1)


def test_a_sweep_stops_between_two_repairs_when_its_time_is_over(gateway: Gateway) -> None:
    new = NewUpload(disk="submissions", path="submissions/VACS/2024/patient/a.csv", size=5)
    opened = gateway.uploads.create(Call(), new)
    UploadSession(opened.upload_id).update([UploadSession.expires_at.set(1)])
    stopped = Deadline()
    stopped.stop()
    assert swept(wiring.sweep(gateway.settings), stopped)["repaired"] == 0
    assert swept(wiring.sweep(gateway.settings), Deadline())["repaired"] == 1


# --- when ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_each_slot_gets_an_event_well_inside_of_it(plan: Plan) -> None:
    begin = datetime(2031, 5, 1, tzinfo=UTC)
    trigger = trigger_of(schedules.expression(plan))
    at, fires = begin, list[datetime]()
    while (at := trigger.get_next_fire_time(None, at + timedelta(seconds=1))) < begin + timedelta(days=2):
        fires.append(at)
    slots = {int(fire.timestamp() // plan.every.total_seconds()) for fire in fires}
    assert len(slots) == timedelta(days=2) / plan.every
    every = min(plan.every, HOUR)
    assert {later - earlier for earlier, later in pairwise(fires)} == {every}
    for fire in fires:
        into = timedelta(seconds=fire.timestamp() % plan.every.total_seconds())
        assert timedelta(minutes=1) <= into <= plan.every - timedelta(minutes=1)


def test_periods_are_those_of_the_documents() -> None:
    assert {plan.name: plan.every for plan in PLANS}.items() >= {
        ("sweep", FIVE_MINUTES), ("checkpoint", FIVE_MINUTES), ("expiry", DAY),
    }  # fmt: skip


def test_eventbridge_is_told_the_same_as_the_host() -> None:
    assert schedules.expression(PLANS[0]).to_string() == "cron(1/5 * * * ? *)"
    assert schedules.expression(PLANS[-1]).to_string() == "cron(53 * * * ? *)"


@pytest.mark.parametrize(
    "expression",
    [Rate(5, Rate.MINUTES), Cron(0, 0, "?", "*", 1, "*"), "rate(5 minutes)"],
    ids=lambda value: type(value).__name__,
)
def test_an_expression_that_means_something_else_elsewhere_is_refused(expression: Any) -> None:
    with pytest.raises(ValueError):
        trigger_of(expression)


# --- the app ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def services_app(monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> Iterator[ModuleType]:
    """app.py in the services role, on the gateway's tables."""
    for name, value in {**ENV, "SERVER_ROLE": "services", "STORAGE_CONFIG": MEMORY}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    yield importlib.import_module("app")
    sys.modules.pop("app", None)


def scheduled(time: str) -> dict[str, Any]:
    """An event as EventBridge sends it (AWS, "Tutorial: schedule a Lambda function")."""
    return {
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": time,
        "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:123456789012:rule/depot-services-sweep-event"],
        "detail": {},
    }


def test_lambda_finds_a_handler_of_each_job_in_app_py(services_app: ModuleType) -> None:
    names = {source.name: source for source in services_app.app.event_sources}
    assert set(names) == {plan.name for plan in PLANS}
    for name, source in names.items():
        assert source.handler_string == f"app.job_{name}"
        answer = getattr(services_app, f"job_{name}")(scheduled("2031-05-01T12:03:00Z"), None)
        assert (answer["result"], answer["run"]["outcome"]) == ("ran", "completed")
        again = getattr(services_app, f"job_{name}")(scheduled("2031-05-01T12:04:00Z"), None)
        assert again == {"job": name, "result": "slot_done", "run": None}
    with pytest.raises(AttributeError):
        _ = services_app.job_nothing


def test_only_the_services_tier_fires_anything(services_app: ModuleType) -> None:
    env = {**ENV, "SERVER_ROLE": "services", "STORAGE_CONFIG": MEMORY}
    assert scheduler_of(services_app.app, Settings.from_env({**env, "DEPOT_SCHEDULES": "on"})) is not None
    assert scheduler_of(services_app.app, Settings.from_env({**env, "DEPOT_SCHEDULES": "off"})) is None
    web = {**ENV, "SERVER_ROLE": "web", "SERVICES_URL": "http://127.0.0.1:1", "DEPOT_SCHEDULES": "on"}
    assert scheduler_of(services_app.app, Settings.from_env(web)) is None


# --- over HTTP, and on the command line ------------------------------------------------------------------------------


def call(app: ModuleType, method: str, resource: str, headers: dict[str, str], **path: str) -> tuple[int, Any]:
    answer = app.app(event(method, resource, headers=headers, path=path), None)
    return answer["statusCode"], json.loads(content(answer))


def test_the_services_tier_lists_its_jobs_and_runs_one(services_app: ModuleType) -> None:
    status, told = call(services_app, "GET", "/internal/jobs", KEY)
    assert status == 200
    assert [job["name"] for job in told["jobs"]] == [plan.name for plan in PLANS]
    status, run = call(services_app, "POST", "/internal/jobs/{name}/run", KEY, name="sweep")
    assert (status, run["outcome"], run["trigger"]) == (200, "completed", "manual")
    _, told = call(services_app, "GET", "/internal/jobs", KEY)
    assert told["jobs"][0]["runs"] == [run]
    assert call(services_app, "POST", "/internal/jobs/{name}/run", KEY, name="none")[0] == 404
    assert call(services_app, "GET", "/internal/jobs", {})[0] == 401


def test_a_running_job_is_not_run_by_hand(services_app: ModuleType, gateway: Gateway) -> None:
    now = datetime.now(UTC).timestamp()
    runs.begin("sweep", now, now, runs.Trigger.SCHEDULE, "other", runs.Lease(60, 300))
    status, told = call(services_app, "POST", "/internal/jobs/{name}/run", KEY, name="sweep")
    assert (status, told["error"]["code"]) == (409, "job_running")


def test_health_tells_of_jobs_only_where_they_are_fired(
    services_app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "jobs" not in call(services_app, "GET", "/internal/storage/health", KEY)[1]
    monkeypatch.setenv("DEPOT_SCHEDULES", "on")
    services_app.settings.cache_clear()
    services_app.gateway.cache_clear()
    status, told = call(services_app, "GET", "/internal/storage/health", KEY)
    assert (status, told["status"]) == (200, "healthy"), "a job that never ran is no fault"
    assert told["jobs"]["sweep"] == {"last_outcome": None, "last_finished": None, "overdue": False}


@pytest.mark.parametrize(("role", "may"), [("operator", True), ("cohort_manager", False), ("auditor", False)])
def test_only_who_may_clean_up_sees_and_runs_jobs_and_refusals_are_recorded(
    role: str, may: bool, services_app: ModuleType, gateway: Gateway
) -> None:
    from chalicelib.auth import users

    cohorts = () if role in ("operator", "auditor") else ("VACS",)
    users.create_user(f"{role}-1", role, cohorts)
    person = users.find(f"{role}-1")
    assert person is not None
    token, _ = gateway.sessions.open(person)
    headers = {**KEY, "x-depot-assertion": token}
    listed = call(services_app, "GET", "/internal/jobs", headers)[0]
    ran = call(services_app, "POST", "/internal/jobs/{name}/run", headers, name="sweep")[0]
    assert (listed, ran) == ((200, 200) if may else (403, 403))
    refused = queries.query(user=person.username, action=Action.ACCESS_DENIED).events
    assert len(refused) == (0 if may else 2)


@pytest.fixture
def shell(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ENV, "STORAGE_CONFIG": MEMORY}.items():
        monkeypatch.setenv(name, value)


def test_depot_jobs_prints_a_table_and_json(shell: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "run", "sweep"]) == 0
    assert capsys.readouterr().out == "sweep: completed repaired=0 failed=0 skipped=0\n"
    assert main(["jobs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["JOB", "EVERY", "LAST", "RUN", "OUTCOME", "COUNTS", "NEXT", "DUE"]
    assert lines[1].startswith("sweep       5 min  20")
    assert "completed  repaired=0 failed=0 skipped=0" in lines[1]
    assert "never" in lines[2]
    assert main(["jobs", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["jobs"]
    assert told[0]["runs"][0]["outcome"] == "completed"


def test_depot_jobs_run_says_with_its_exit_code_that_a_job_failed(
    shell: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEDGER_CHECKPOINT_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("LEDGER_SIGNING_KEY", "no key at all")
    assert main(["jobs", "run", "checkpoint", "--json"]) == 1
    run = json.loads(capsys.readouterr().out)
    assert (run["outcome"], run["error_code"]) == ("failed", "bad_settings")
    assert main(["jobs", "run", "nothing"]) == 1
    assert "no such job" in capsys.readouterr().err
