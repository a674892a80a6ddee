"""The storage report: what is counted, who sees what, and that the snapshot goes on where it stopped."""

from __future__ import annotations

import json
import random

import pytest

from chalicelib import metrics
from chalicelib.errors import Forbidden
from chalicelib.storage.manager import StorageManager
from chalicelib.storage.workspace import WorkspaceManager
from nas_gateway import wiring
from nas_gateway.files.access import Call
from nas_gateway.files.tables import CHECK_BUCKETS
from nas_gateway.jobs import Deadline
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.reports import snapshots
from nas_gateway.reports.count import Count
from nas_gateway.reports.tables import ReportRow
from tests.support.gateway import outcomes, user

HOUR = 3600


@pytest.fixture
def reports(gateway):
    return wiring.reports(gateway.settings)


@pytest.fixture
def at(gateway):
    """`at(hours)`: the clock, so many hours from the test's begin."""
    begin = gateway.transfers.clock()

    def move(hours):
        gateway.transfers.clock = lambda: begin + hours * HOUR

    move(0)
    return move


def submission(cohort, name, size, kind="patient"):
    fields = {"cohort": cohort, "protocol_year": "2024", "file_type": kind, "filename": name}
    return StorageManager.save_submission_file(fields, b"x" * size)


def stored(at):
    """Two cohorts, two types, a replaced file, a deleted one, two temporary ones, one of them only logged."""
    submission("VACS", "a.csv", 100)
    submission("VACS", "a.csv", 40)
    submission("VACS", "b.csv", 2, "lab")
    submission("JHHCC", "c.csv", 7)
    gone = submission("JHHCC", "d.csv", 1000)
    StorageManager.get_submission_storage().delete(gone)
    WorkspaceManager().create_temp_file_with_cleanup("scratch/audit_1/t", b"12345", cleanup_hours=2)
    StorageManager.get_scratch_storage().driver.save("scratch/audit_2/u", b"123456")
    logged = {"action": "work_copy_created", "cleanup_required": True, "file_path": "scratch/audit_2/u"}
    PHIFileTracking.log_operation(**logged, cohort="VACS")


def by_name(rows):
    return {row["name"]: (row["files"], row["bytes"]) for row in rows}


def test_the_report_adds_up(gateway, reports, at):
    stored(at)
    assert reports.job(Deadline())["files"] == 5
    at(1)
    report = reports.storage(Call())
    temporary = {"files": 2, "bytes": 11}
    assert report["totals"] == {"files": 5, "bytes": 60, "temporary": temporary, "corrupt": {"files": 0, "bytes": 0}}
    assert by_name(report["by_cohort"]) == {"VACS": (3, 48), "JHHCC": (1, 7), "": (1, 5)}
    assert by_name(report["by_type"]) == {"patient": (2, 47), "": (2, 11), "lab": (1, 2)}
    assert by_name(report["by_disk"]) == {"submissions": (3, 49), "scratch": (2, 11)}
    assert sum(row["added_bytes"] for row in report["growth"]) == 60
    assert [row["bytes"] for row in report["growth"] if row["bytes"] is not None] == [60]
    assert [row["files"] for row in report["temporary_ages"]] == [2, 0, 0, 0, 0, 0, 0, 0]
    assert (report["snapshot_age_hours"], report["overdue"]["files"]) == (pytest.approx(1, abs=0.1), 0)


def test_a_report_before_the_first_count_says_so(reports):
    report = reports.storage(Call())
    assert report["snapshot_at"] is report["snapshot_age_hours"] is None
    assert report["totals"]["files"] == 0


def test_hours_at_risk_are_those_past_the_deadline_and_are_asked_now(gateway, reports, at):
    stored(at)
    at(5)
    late = reports.storage(Call())["overdue"]
    # The one of 2 hours is 3 over, the logged one of 4 hours (the usual deadline) 1.
    assert (late["files"], late["bytes"]) == (2, 11)
    assert late["phi_hours"] == pytest.approx(4, abs=0.1)
    assert {row["name"]: round(row["phi_hours"]) for row in late["by_cohort"]} == {"": 3, "VACS": 1}
    assert late["complete"]


def test_open_operations_are_counted_with_the_oldest(gateway, reports):
    from nas_gateway.files.placement import place

    where = place("workspace", "upload_prechecks/1/a", metadata={"cohort": "VACS"})
    gateway.transfers.announce(Call(), where, "file_uploaded_via_stream", if_absent=False)
    left = reports.storage(Call())["open_intents"]
    assert (left["count"], left["complete"]) == (1, True)
    assert left["oldest"].endswith("Z")
    assert reports.storage(user("cohort_manager", "JHHCC"))["open_intents"]["count"] == 0
    assert reports.storage(user("cohort_manager", "VACS"))["open_intents"]["count"] == 1


# --- who sees what ------------------------------------------------------------------------------------------------


def test_a_cohort_manager_sees_the_own_cohorts_numbers_only(gateway, reports, at):
    stored(at)
    reports.job(Deadline())
    at(9)
    report = reports.storage(user("cohort_manager", "VACS"))
    assert report["cohorts"] == ["VACS"]
    assert by_name(report["by_cohort"]) == {"VACS": (3, 48)}
    assert report["totals"]["bytes"] == sum(row["added_bytes"] for row in report["growth"]) == 48
    assert [row["bytes"] for row in report["growth"] if row["bytes"] is not None] == [48]
    assert [row["name"] for row in report["overdue"]["by_cohort"]] == ["VACS"]
    assert sum(row["files"] for row in report["temporary_ages"]) == 1
    assert report["jobs"] == []
    assert "JHHCC" not in json.dumps(report)


@pytest.mark.parametrize("role", ["auditor", "operator", "administrator", "superuser"])
def test_who_may_look_everywhere_sees_everything(gateway, reports, at, role):
    submission("JHHCC", "c.csv", 7)
    reports.job(Deadline())
    report = reports.storage(user(role))
    assert by_name(report["by_cohort"]) == {"JHHCC": (1, 7)}
    assert {job["name"] for job in report["jobs"]} >= {"sweep", "report"}


@pytest.mark.parametrize("role", ["uploader", "reader"])
def test_others_are_refused_and_that_is_recorded(gateway, reports, role):
    with pytest.raises(Forbidden):
        reports.storage(user(role, "VACS"))
    assert outcomes(user=f"{role}-of-VACS") == [("access_denied", "failed")]
    with pytest.raises(Forbidden):
        reports.storage(user("cohort_manager"))


# --- the snapshot -------------------------------------------------------------------------------------------------


class OverAfter:
    """A deadline that is over after so many questions."""

    def __init__(self, questions):
        self.left = questions

    @property
    def over(self):
        self.left -= 1
        return self.left < 0


def test_a_count_that_is_cut_off_goes_on_at_the_next_run(gateway, reports, at, monkeypatch):
    for number in range(12):
        submission("VACS", f"{number}.csv", 1)
    walked = []
    real = snapshots.files_in_bucket
    monkeypatch.setattr(snapshots, "files_in_bucket", lambda bucket: walked.append(bucket) or real(bucket))
    assert reports.job(OverAfter(5)) == {"left": CHECK_BUCKETS - 5}
    assert reports.storage(Call())["snapshot_at"] is None
    assert reports.job(Deadline())["files"] == 12
    assert walked == list(range(CHECK_BUCKETS))  # none twice
    assert reports.job(Deadline())["files"] == 12
    assert len(walked) == 2 * CHECK_BUCKETS  # a whole count is not taken for the next one's begin


def test_what_was_counted_too_long_ago_is_counted_again(gateway, reports, at):
    reports.job(OverAfter(CHECK_BUCKETS - 1))
    submission("VACS", "a.csv", 1)
    at(snapshots.BUCKET_SECONDS / HOUR + 1)
    assert reports.job(Deadline())["files"] == 1


def test_a_fresh_count_is_one_of_this_moment(gateway, reports, at):
    reports.job(Deadline())
    submission("VACS", "a.csv", 3)
    assert reports.storage(Call())["totals"]["files"] == 0
    reports.fresh()
    assert reports.storage(Call())["totals"] == reports.storage(Call())["totals"] | {"files": 1, "bytes": 3}


def test_growth_tells_each_days_total(gateway, reports, at):
    submission("VACS", "a.csv", 3)
    reports.job(Deadline())
    at(24)
    submission("VACS", "b.csv", 4)
    reports.job(Deadline())
    growth = reports.storage(Call())["growth"]
    assert [row["bytes"] for row in growth[-2:]] == [3, 7]


def test_old_snapshots_go_and_their_totals_stay(gateway, reports, at):
    for day in range(5):
        at(day * 24)
        reports.job(Deadline())
    assert len(snapshots.history(0)) == 5
    kept = [head for head in snapshots.history(0) if list(ReportRow.query(f"snapshot:{head.at:.3f}"))]
    assert len(kept) == snapshots.KEPT
    assert list(ReportRow.query("buckets")) == []


def test_a_snapshot_whose_pieces_are_not_all_there_is_passed_over(gateway, reports, at):
    submission("VACS", "a.csv", 3)
    reports.job(Deadline())
    at(24)
    submission("VACS", "b.csv", 4)
    reports.job(Deadline())
    newest = snapshots.history(0)[-1]
    for row in ReportRow.query(f"snapshot:{newest.at:.3f}"):
        row.delete()
    assert reports.storage(Call())["totals"]["bytes"] == 3


def test_a_large_count_comes_back_whole_from_its_pieces(gateway):
    seed = random.randrange(2**32)
    print("seed", seed)
    chance, count = random.Random(seed), Count()
    for number in range(4000):
        cohort, kind = f"cohort-{number % 300}" + "é" * chance.randrange(60), "t" * chance.randrange(1, 90)
        count.stored("disk", cohort, kind, "submission", "AVAILABLE", chance.randrange(2**40), 1e9 - number, 1e9)
        count.temporary(cohort, 1, 1e9 - number * 60, 1e9)
    snapshots.write(count, 1e9)
    rows = list(ReportRow.query("snapshot:1000000000.000"))
    assert len(rows) > 2
    assert max(len(row.body) for row in rows) <= snapshots.PIECE_BYTES + 2
    found = snapshots.last()
    assert found is not None
    assert list(found[1].lines()) == list(count.lines())
    assert sum(value[0] for value in found[0].cohorts.values()) == 4000


def test_too_many_types_are_counted_together_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr("nas_gateway.reports.count.MAX_GROUPS", 5)
    parts = [Count(), Count()]
    for number in range(20):
        about = ("disk", "VACS", f"type-{number}", "submission", "AVAILABLE")
        parts[number % 2].stored(*about, 10, 0, 1e9)
    whole = Count()
    for part in parts:
        whole.add_lines(part.lines())
    assert len(whole.groups) <= 6
    assert whole.by(1) == {"VACS": [20, 200]}


def test_the_job_sets_the_gauges(gateway, reports, at):
    metrics.registry.clear()
    stored(at)
    at(5)
    reports.job(Deadline())
    values = {(sample.metric.name, sample.labels): sample.value for sample in metrics.registry.samples()}
    assert values[("depot_stored_bytes", (("disk", "submissions"),))] == 49
    assert values[("depot_stored_files", (("disk", "workspace"),))] == 0
    assert values[("depot_overdue_files", ())] == 2
    assert values[("depot_overdue_phi_hours", ())] == pytest.approx(4, abs=0.1)
    assert values[("depot_open_intents", ())] == 0


# --- as jobs ------------------------------------------------------------------------------------------------------


def test_the_scheduled_job_counts_and_is_in_the_report(gateway, reports):
    submission("VACS", "a.csv", 3)
    run = gateway.jobs.run_now("report")
    assert (run.outcome, run.counts["files"]) == ("completed", 1)
    report = reports.storage(Call())
    assert report["totals"]["bytes"] == 3
    (listed,) = (job for job in report["jobs"] if job["name"] == "report")
    assert [each["outcome"] for each in listed["runs"]] == ["completed"]


def test_the_hourly_clean_up_tells_what_is_still_overdue(gateway):
    metrics.registry.clear()
    gateway.jobs.run_now("cleanup")
    told = {sample.metric.name: sample.value for sample in metrics.registry.samples()}
    assert told["depot_overdue_files"] == told["depot_open_intents"] == 0
