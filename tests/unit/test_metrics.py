"""Metrics: one table of names, counted in one place, told in two ways that agree."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest
from chalice.app import Response
from prometheus_client.parser import text_string_to_metric_families

from chalicelib import metrics
from chalicelib.config import Secret
from chalicelib.errors import LedgerUnavailable, MethodNotAllowed, NotFound, NotSignedIn
from chalicelib.hosting import emf, exposition
from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.metrics import TABLE, Kind, Registry
from chalicelib.observability import RequestRecord, log_access
from infra.template import alarms, template
from tests.support.lambda_events import event

ROOT = Path(__file__).parents[2]
TOKEN = "t" * 40


@pytest.fixture
def registry():
    return Registry()


def exposed(registry):
    """What Prometheus reads: {(name, labels): value}."""
    families = text_string_to_metric_families(exposition.text(registry).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def printed(out):
    """What CloudWatch reads of it: {(name, labels): value}, and the units by name."""
    values, units = {}, {}
    for line in out.splitlines():
        blob = json.loads(line)
        (described,) = blob["_aws"]["CloudWatchMetrics"]
        assert described["Namespace"] == "Depot"
        (dimensions,) = described["Dimensions"]
        labels = tuple(sorted((name, blob[name]) for name in dimensions if name != "service"))
        for metric in described["Metrics"]:
            (values[metric["Name"], labels],) = blob[metric["Name"]]
            units[metric["Name"]] = metric["Unit"]
    return values, units


# --- the table ----------------------------------------------------------------------------------------------------


def calls():
    """(file, kind, name, labels) of every metric that the code counts or sets."""
    for source in [*ROOT.glob("chalicelib/**/*.py"), *ROOT.glob("nas_gateway/**/*.py")]:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            owner, name = node.func.value, node.args[0]
            if isinstance(owner, ast.Name) and owner.id in ("metrics", "metrics_table") and source.stem != "emf":
                assert isinstance(name, ast.Constant), f"{source}: the name of a metric is a literal"
                yield source.name, node.func.attr, name.value, {keyword.arg for keyword in node.keywords}


def test_everything_the_code_counts_is_in_the_table_with_its_labels():
    found = list(calls())
    assert len(found) > 15
    for where, kind, name, labels in found:
        assert name in TABLE, f"{where}: {name}"
        assert (kind, labels) == (
            {Kind.COUNTER: "count", Kind.GAUGE: "gauge"}[TABLE[name].kind],
            set(TABLE[name].labels),
        )


def test_everything_in_the_table_is_counted_somewhere():
    assert set(TABLE) - {name for _, _, name, _ in calls()} == set()


def test_the_registry_refuses_what_is_not_in_the_table(registry):
    for bad in (
        lambda: registry.count("depot_secret_total"),
        lambda: registry.gauge("depot_requests_total", 1, method="GET", status="200"),
        lambda: registry.count("depot_requests_total", method="GET"),
        lambda: registry.count("depot_bytes_in_total", 1, path="/a"),
    ):
        with pytest.raises(ValueError):
            bad()
    assert list(registry.samples()) == []


def test_labels_are_of_a_closed_list():
    """None of them can hold a name of a file, a person or a cohort."""
    allowed = {"method", "status", "job", "outcome", "rule", "reason", "disk"}
    assert {label for metric in TABLE.values() for label in metric.labels} <= allowed


def test_names_are_as_prometheus_wants_them():
    for name, metric in TABLE.items():
        assert name.startswith("depot_")
        assert name.endswith("_total") is (metric.kind is Kind.COUNTER)
        assert bool(metric.alarm) is bool(metric.act)
        assert metric.alarm or metric.watch is None


# --- told in two ways ---------------------------------------------------------------------------------------------


def test_both_ways_tell_the_same_names_and_values(registry, capsys):
    told = emf.install("services", registry)
    for place, metric in enumerate(TABLE.values()):
        for turn in (1, 2):
            labels = {label: f"{label}-{turn}" for label in metric.labels}
            if metric.kind is Kind.COUNTER:
                registry.count(metric.name, place + turn, **labels)
            else:
                registry.gauge(metric.name, place + turn, **labels)
    told.flush()
    values, units = printed(capsys.readouterr().out)
    assert values == exposed(registry)
    assert {name for name, _ in values} == set(TABLE)
    assert (units["depot_bytes_in_total"], units["depot_requests_total"]) == ("Bytes", "Count")
    told.flush()
    assert capsys.readouterr().out == ""


def test_an_invocation_tells_what_it_added_and_the_last_of_a_gauge(registry, capsys):
    told = emf.install("web", registry)
    for value in (3, 4):
        registry.count("depot_bytes_in_total", value)
        registry.gauge("depot_open_intents", value)
    told.flush()
    assert printed(capsys.readouterr().out)[0] == {("depot_bytes_in_total", ()): 7, ("depot_open_intents", ()): 4}
    registry.count("depot_bytes_in_total", 5)
    told.flush()
    assert printed(capsys.readouterr().out)[0] == {("depot_bytes_in_total", ()): 5}


def test_every_metric_is_described_and_plain_counters_begin_at_nought(registry):
    text = exposition.text(registry).decode()
    for name, metric in TABLE.items():
        assert f"# HELP {name} {metric.about}" in text
        assert f"# TYPE {name} {metric.kind}" in text
    assert exposed(registry)["depot_uploads_lost_total", ()] == 0
    assert ("depot_overdue_files", ()) not in exposed(registry)  # not known yet is not none


def test_odd_values_of_labels_do_not_break_the_form(registry):
    registry.gauge("depot_stored_bytes", 1, disk='a"b\\c\nd')
    assert exposed(registry)["depot_stored_bytes", (("disk", 'a"b\\c\nd'),)] == 1


# --- who may read them --------------------------------------------------------------------------------------------


def asked(registry, *headers, token=TOKEN, method="GET"):
    scope = {"method": method, "headers": [(b"authorization", value.encode()) for value in headers]}
    return exposition.answer(scope, Secret(token), "request-0001", registry)


def test_the_token_opens_it(registry):
    answer = asked(registry, f"Bearer {TOKEN}")
    assert (answer.status, answer.length) == (200, len(answer.body))
    assert dict(answer.headers)[b"content-type"].startswith(b"text/plain; version=0.0.4")
    head = asked(registry, f"bearer {TOKEN}", method="HEAD")
    assert (head.body, head.length) == (b"", answer.length)


@pytest.mark.parametrize(
    "headers",
    [(), ("",), ("Bearer",), ("Bearer ",), (f"Bearer {TOKEN[:-1]}",), (f"Bearer {TOKEN}x",), (f"Basic {TOKEN}",),
     (TOKEN,), (f"Bearer {TOKEN}", "Bearer other"), (f"Bearer {TOKEN.upper()}",), ("Bearer \xe9",)],
    ids=repr,
)  # fmt: skip
def test_nothing_else_opens_it(registry, headers):
    with pytest.raises(NotSignedIn):
        asked(registry, *headers)


def test_without_the_setting_it_is_not_there(registry):
    for headers in ((), ("Bearer ",), (f"Bearer {TOKEN}",)):
        with pytest.raises(NotFound):
            asked(registry, *headers, token="")


def test_it_is_only_read(registry):
    with pytest.raises(MethodNotAllowed):
        asked(registry, f"Bearer {TOKEN}", method="POST")


# --- what counts --------------------------------------------------------------------------------------------------


@pytest.fixture
def counted():
    """Of the process's own registry."""
    metrics.registry.clear()
    yield lambda: {(each.metric.name, each.labels): each.value for each in metrics.registry.samples()}
    metrics.registry.clear()
    metrics.registry.told = None


def test_a_request_counts_with_its_bytes_and_a_made_up_method_as_other(counted):
    log_access(RequestRecord("request-0001", method="PUT", status=201, bytes_in=7, bytes_out=3))
    log_access(RequestRecord("request-0002", method="JACKDOE", status=405, bytes_in=1))
    assert counted() == {
        ("depot_requests_total", (("method", "PUT"), ("status", "201"))): 1,
        ("depot_requests_total", (("method", "other"), ("status", "405"))): 1,
        ("depot_bytes_in_total", ()): 8,
        ("depot_bytes_out_total", ()): 3,
    }


def test_an_event_that_could_not_be_recorded_counts(gateway, counted, monkeypatch):
    from nas_gateway.files.access import Call
    from nas_gateway.files.placement import place

    def refuse(*arguments):
        raise LedgerUnavailable

    monkeypatch.setattr(gateway.transfers.ledger._appender, "append", refuse)
    with pytest.raises(LedgerUnavailable):
        gateway.transfers.announce(Call(), place("scratch", "scratch/a"), "work_copy_created", if_absent=False)
    assert counted()["depot_ledger_unavailable_total", ()] == 1


# --- Lambda -------------------------------------------------------------------------------------------------------


def an_app():
    app = DepotApp(app_name="t")

    @app.route("/x")
    def _():
        return Response("ok")

    return app


def test_an_invocation_prints_its_metrics_at_its_end(counted, capsys):
    app = an_app()
    app.emf = emf.install("web")
    app(event("GET", "/x"), None)
    values, _ = printed(capsys.readouterr().out)
    assert values["depot_requests_total", (("method", "GET"), ("status", "200"))] == 1
    assert values == counted()


def test_a_host_prints_nothing(counted, capsys):
    an_app()(event("GET", "/x"), None)
    assert capsys.readouterr().out == ""


def test_a_scheduled_handler_prints_its_metrics_also_when_it_fails(counted, capsys):
    def handler(event, context):
        metrics.count("depot_uploads_lost_total")
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError):
        emf.flushing(emf.install("services"), handler)({}, None)
    assert printed(capsys.readouterr().out)[0] == {("depot_uploads_lost_total", ()): 1}
    assert emf.flushing(None, handler) is handler


@pytest.mark.parametrize("role", ["web", "services"])
@pytest.mark.parametrize("under_lambda", [True, False])
def test_app_py_installs_it_in_lambdas_runtime_alone(counted, monkeypatch, role, under_lambda):
    monkeypatch.setenv("SERVER_ROLE", role)
    monkeypatch.delenv("AWS_LAMBDA_RUNTIME_API", raising=False)
    if under_lambda:
        monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    monkeypatch.delitem(sys.modules, "app", raising=False)
    module = importlib.import_module("app")
    sys.modules.pop("app")
    assert (module.app.emf is not None) is under_lambda
    assert (metrics.registry.told is not None) is under_lambda
    if role == "services":
        handler = module.app.handler_map["sweep"]
        assert (module.job_sweep is handler) is not under_lambda


# --- alarms -------------------------------------------------------------------------------------------------------


def test_each_metric_that_can_be_watched_has_an_alarm_in_the_services_stack():
    made = {name: value for name, value in alarms().items() if value["Type"] == "AWS::CloudWatch::Alarm"}
    assert len(made) == sum(metric.watch is not None for metric in TABLE.values()) > 8
    for alarm in made.values():
        about = alarm["Properties"]
        (measured,) = about["Metrics"]
        seconds = measured.get("Period") or measured["MetricStat"]["Period"]
        assert seconds % 60 == 0
        assert seconds * about["EvaluationPeriods"] <= 86400  # CloudWatch's limit
        assert about["AlarmActions"] == [{"Ref": "AlarmTopic"}]
    (failed,) = made["DepotJobRunsTotalAlarm"]["Properties"]["Metrics"]
    assert failed["Expression"] == (
        "SELECT SUM(\"depot_job_runs_total\") FROM \"Depot\" WHERE service = 'depot-services' AND outcome = 'failed'"
    )
    assert set(made) <= set(template("services", "depot", [], bucket=False)["Resources"])
    assert not set(made) & set(template("web", "depot", [], bucket=False)["Resources"])
