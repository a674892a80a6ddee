"""What a plan takes and what it leaves, rule by rule and reason by reason."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from chalicelib.errors import (
    FileExists,
    Forbidden,
    PlanChanged,
    PlanExpired,
    PlanInProgress,
    PlanMissing,
    StorageUnavailable,
)
from chalicelib.storage.uploads import NewUpload
from nas_gateway.cleanup import guards, plans
from nas_gateway.cleanup.holds import Scope
from nas_gateway.cleanup.items import SKEW_SECONDS
from nas_gateway.cleanup.tables import CleanupPlan
from nas_gateway.files.access import Call
from nas_gateway.files.registry import claim_key
from nas_gateway.files.tables import PathClaim, State, TrackedFile
from tests.support.cleaning import HOUR, reasons, results, rules, site, with_settings
from tests.support.gateway import outcomes, user

__all__ = ["site"]

SUBMISSION = "submissions/VACS/2024/patient/p.csv"


def new(disk, path, **more):
    return NewUpload(disk=disk, path=path, **more)


def orphan_id(path):
    return claim_key("", path)[1:33]


# --- tracked files ----------------------------------------------------------------------------------------------------


def test_a_temporary_file_goes_once_it_is_past_its_deadline(site):
    saved = site.save("scratch/audit_1/a.csv")
    site.later(3.9)
    assert rules(site.plan()) == {}
    site.later(0.3)
    assert rules(site.plan()) == {saved.file_id: "temporary_overdue"}
    assert site.clean() == {saved.file_id: "deleted"}
    assert site.paths() == []
    assert site.row(saved.file_id).state == State.DELETED
    assert outcomes(saved.file_id)[2:] == [
        ("temporary_file_deleted", "intent"),
        ("temporary_file_deleted", "completed"),
    ]


def test_hours_means_older_than_and_zero_means_now(site):
    old = site.save("scratch/audit_1/old.csv")
    site.later(2)
    new = site.save("scratch/audit_1/new.csv")
    assert rules(site.plan(1)) == {old.file_id: "temporary_age"}
    assert set(rules(site.plan(0))) == {old.file_id, new.file_id}


@pytest.mark.parametrize("hours", [None, 4])
def test_nothing_goes_early_whatever_clock_is_five_minutes_off(site, hours):
    saved = site.save("scratch/audit_1/a.csv")
    site.now = site.row(saved.file_id).cleanup_due + SKEW_SECONDS - 1
    plan = site.plan(hours)
    assert (rules(plan), reasons(plan)) == ({}, {saved.file_id: "too_young"})
    site.now += 1
    assert rules(site.plan(hours)) == {saved.file_id: "temporary_overdue"}


def test_a_file_past_its_own_deadline_goes_though_it_is_younger_than_the_hours_asked_for(site):
    saved = site.save("scratch/audit_1/a.csv", cleanup_hours=1)
    site.later(1.2)
    assert rules(site.plan(4)) == {saved.file_id: "temporary_overdue"}


def test_a_file_that_an_upload_is_about_to_replace_stays(site):
    saved = site.save("scratch/audit_1/a.csv")
    site.gateway.uploads.create(Call(), new("scratch", "scratch/audit_1/a.csv", size=3, if_absent=False))
    plan = site.plan(0)
    assert reasons(plan)[saved.file_id] == "live_lease"
    assert rules(plan) == {}


def test_an_upload_on_its_way_is_no_candidate(site):
    status = site.gateway.uploads.create(Call(), new("scratch", "scratch/audit_1/a.csv", size=3))
    assert reasons(site.plan(0)) == {status.upload_id: "live_lease"}


def test_a_piece_of_a_concatenation_has_its_deadline_alone(site):
    status = site.gateway.uploads.create(Call(), new("scratch", "", size=0, partial=True))
    plan = site.plan(0)
    assert (rules(plan), reasons(plan)) == ({}, {status.upload_id: "too_young"})
    site.later(4.2)
    assert rules(site.plan(0)) == {status.upload_id: "temporary_overdue"}


def test_a_file_that_is_being_read_stays_for_an_hour(site):
    saved = site.save("scratch/audit_1/a.csv")
    download = site.gateway.transfers.download(Call(), "scratch", "scratch/audit_1/a.csv")
    assert reasons(site.plan(0)) == {saved.file_id: "being_read"}
    site.later(1.1)
    assert set(rules(site.plan(0))) == {saved.file_id}
    site.later(-1.1)
    download.close()
    site.later(0.01)
    assert set(rules(site.plan(0))) == {saved.file_id}


@pytest.mark.parametrize("scope", ["file", "cohort"])
def test_what_is_on_hold_stays(site, scope):
    saved = site.save("scratch/audit_1/a.csv", metadata={"cohort": "VACS"})
    site.gateway.holds.set(
        Call(), Scope(**{"file": {"file_id": saved.file_id}, "cohort": {"cohort": "VACS"}}[scope]), "a letter"
    )
    plan = site.plan(0)
    assert (rules(plan), reasons(plan)) == ({}, {saved.file_id: "on_hold"})


def test_a_hold_that_is_set_after_the_plan_counts(site):
    saved = site.save("scratch/audit_1/a.csv")
    plan = site.plan(0)
    site.gateway.holds.set(Call(), Scope(file_id=saved.file_id), "a letter")
    assert results(site.apply(plan)) == {saved.file_id: "on_hold"}
    assert site.paths() == ["scratch/audit_1/a.csv"]


# --- submissions: two guards, each enough by itself ---------------------------------------------------------------------


def due_now(site, file_id, **changed):
    """Make a row look like one that is due."""
    row = site.row(file_id)
    row.cleanup_disk, row.cleanup_due = row.disk, site.now - 10 * HOUR
    for name, value in changed.items():
        setattr(row, name, value)
    row.save()


def test_a_submission_stays_by_what_its_row_says_it_is_for(site):
    saved = site.save("scratch/odd.csv", metadata={"purpose": "scratch"})
    due_now(site, saved.file_id, purpose="submission")
    assert reasons(site.plan(0)) == {saved.file_id: "submission"}


@pytest.mark.parametrize("disk", ["submissions", "scratch"])
def test_a_submission_stays_by_where_it_lies(site, disk):
    saved = site.save(SUBMISSION, disk=disk)
    due_now(site, saved.file_id, purpose="scratch")
    assert reasons(site.plan(0)) == {saved.file_id: "submission"}


def test_what_lies_on_the_submission_disk_stays_but_for_the_folders_of_temporary_files(site):
    other = site.save("elsewhere/a.csv", disk="submissions")
    copy = site.save("upload_prechecks/1/a.csv", disk="submissions")
    plan = site.plan(0)
    assert (set(rules(plan)), reasons(plan)) == ({copy.file_id}, {other.file_id: "submission"})


def test_a_row_that_became_a_submission_after_the_plan_stays(site):
    saved = site.save("scratch/a.csv")
    plan = site.plan(0)
    due_now(site, saved.file_id, purpose="submission")
    assert results(site.apply(plan)) == {saved.file_id: "submission"}
    assert site.paths() == ["scratch/a.csv"]


# --- objects that no row knows ----------------------------------------------------------------------------------------


def planted(site, path, disk="scratch"):
    site.gateway.transfers.disk(disk).save(path, b"nobody's")
    return orphan_id(path)


@pytest.mark.parametrize("disk", ["scratch", "workspace"])
def test_an_object_that_no_row_knows_goes_when_it_is_old(site, disk):
    ident = planted(site, "anywhere/lost.csv", disk)
    assert rules(site.plan()) == {}
    site.later(4 + (SKEW_SECONDS - 60) / HOUR)
    assert reasons(site.plan()) == {ident: "too_young"}
    site.later(0.1)
    assert rules(site.plan()) == {ident: "orphan_object"}
    assert site.clean() == {ident: "deleted"}
    assert site.paths(disk) == []
    assert outcomes(action="orphan_object_deleted")[-1] == ("orphan_object_deleted", "completed")
    assert PathClaim.count() == 0


def test_with_zero_hours_it_goes_at_once_unless_an_upload_may_be_writing_it(site):
    free, taken = planted(site, "scratch/free.csv"), planted(site, "scratch/taken.csv")
    claim = PathClaim(claim_key("scratch", "scratch/taken.csv"), pending="f" * 32, pending_until=site.now - 1)
    claim.save()
    plan = site.plan(0)
    assert (rules(plan), reasons(plan)) == ({free: "orphan_object"}, {taken: "live_lease"})
    site.later(0.5)
    assert set(rules(site.plan(0))) == {free, taken}


def test_an_object_whose_path_is_taken_after_the_plan_stays(site):
    ident = planted(site, "scratch/a.csv")
    plan = site.plan(0)
    site.gateway.uploads.create(Call(), new("scratch", "scratch/a.csv", size=3))
    assert results(site.apply(plan)) == {ident: "live_lease"}
    assert site.paths() == ["scratch/a.csv"]


def test_an_object_that_a_row_knows_by_the_time_of_its_deletion_stays(site):
    ident = planted(site, "scratch/a.csv")
    plan = site.plan(0)
    site.save("scratch/a.csv", b"somebody's")
    assert results(site.apply(plan)) == {ident: "live_lease"}
    assert site.gateway.transfers.disk("scratch").get_file("scratch/a.csv") == b"somebody's"


def test_objects_of_submissions_are_never_looked_for(site):
    planted(site, SUBMISSION, "submissions")
    ident = planted(site, SUBMISSION)
    site.later(100)
    plan = site.plan()
    assert (rules(plan), reasons(plan)) == ({}, {ident: "submission"})


def test_on_a_disk_that_also_takes_submissions_only_our_folders_are_ours(site):
    shared = guards.places_of(with_settings(site.gateway, submission_disk="scratch"))
    site.gateway.cleanup._objects._places = site.gateway.cleanup._tracked._places = shared
    ours, theirs = planted(site, "scratch/lost.csv"), planted(site, "tenant/a.csv")
    site.later(100)
    plan = site.plan()
    assert (rules(plan), reasons(plan)) == ({ours: "orphan_object"}, {theirs: "foreign_tenant"})


def test_what_is_tracked_under_another_name_of_the_same_place_is_known(site):
    site.save("scratch/a.csv", disk="workspace")
    places = guards.places_of(site.gateway.settings)
    same = {**places.same, "scratch": ("scratch", "workspace")}
    site.gateway.cleanup._objects._places = guards.Places(
        places.disks, places.submission_disk, {"scratch": ("",)}, same
    )
    site.gateway.transfers.disk("scratch").save("scratch/a.csv", b"x")
    assert orphan_id("scratch/a.csv") not in rules(site.plan(0))


def test_two_names_of_one_place_are_found_in_the_settings(site):
    disks = site.gateway.settings.disks
    local = {name: dataclasses.replace(disks[name], driver="local", root="/nas/x") for name in ("workspace", "scratch")}
    settings = with_settings(site.gateway, disks={**disks, **local})
    places = guards.places_of(settings)
    assert set(places.same["scratch"]) == {"workspace", "scratch"}
    assert list(places.swept) == ["workspace"]


def test_a_walk_goes_on_where_the_last_plan_stopped(site, monkeypatch):
    monkeypatch.setattr("nas_gateway.cleanup.objects.SLICE_PAGES", 1)
    monkeypatch.setattr("nas_gateway.cleanup.objects.PAGE", 2)
    idents = {planted(site, f"scratch/{name}") for name in "abcde"}
    first = site.plan(0)
    assert len(rules(first)) == 2
    assert first["totals"]["walk_unfinished"] == ["scratch"]
    assert {*rules(first), *rules(site.plan(0)), *rules(site.plan(0))} == idents


def test_a_disk_that_does_not_answer_does_not_stop_the_plan(site, monkeypatch):
    saved = site.save("scratch/a.csv")

    def away(*_):
        raise StorageUnavailable

    monkeypatch.setattr(site.gateway.transfers.disk("workspace"), "list_with_prefix", away)
    plan = site.plan(0)
    assert set(rules(plan)) == {saved.file_id}
    assert plan["totals"]["disks_away"] == {"workspace": "storage_unavailable"}


# --- what the sweep finds ---------------------------------------------------------------------------------------------


def test_abandoned_uploads_and_expired_sessions_are_in_the_plan_and_go(site):
    handle = site.gateway.transfers.disk("scratch").create_parts("scratch/lost.csv")
    status = site.gateway.uploads.create(Call(), new("workspace", "upload_prechecks/1/a.csv", size=3))
    site.later(24 * 30)
    plan = site.plan()
    assert rules(plan) == {handle: "orphan_upload", status.upload_id: "expired_session"}
    assert set(results(site.apply(plan)).values()) == {"deleted"}
    assert list(site.gateway.transfers.disk("scratch").open_uploads()) == []
    assert list(site.gateway.transfers.disk("workspace").open_uploads()) == []


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_deletes_nothing_and_names_no_path(site):
    site.save("scratch/Jane_Doe.csv")
    planted(site, "scratch/John_Doe.csv")
    plan = site.plan(0)
    assert len(site.paths()) == 2
    assert "Doe" not in str(plan)
    assert plan["totals"]["items"] == 2


def test_a_plan_of_more_than_one_row_is_read_as_it_was_written(site, monkeypatch):
    monkeypatch.setattr(plans, "CHUNK_BYTES", 500)
    idents = {site.save(f"scratch/{number}.csv").file_id for number in range(12)}
    plan = site.plan(0)
    assert CleanupPlan.count(plan["plan_id"]) > 3
    again = site.gateway.cleanup.show(Call(), plan["plan_id"])
    assert (set(rules(again)), again["hash"]) == (idents, plan["hash"])
    assert len(site.gateway.cleanup.show(Call(), plan["plan_id"], 5, 10)["items"]) == 2


def test_a_plan_is_applied_by_its_own_hash_only_and_for_an_hour(site):
    saved = site.save("scratch/a.csv")
    plan = site.plan(0)
    with pytest.raises(PlanChanged):
        site.apply({**plan, "hash": "0" * 64})
    for missing in ("0" * 32, plans.APPLYING, plans.WALK):
        with pytest.raises(PlanMissing):
            site.apply({**plan, "plan_id": missing})
    site.later(1.01)
    with pytest.raises(PlanExpired):
        site.apply(plan)
    assert site.row(saved.file_id).state == State.AVAILABLE


def test_a_plan_that_was_tampered_with_is_not_applied(site):
    site.save("scratch/a.csv")
    plan = site.plan(0)
    row = next(row for row in CleanupPlan.query(plan["plan_id"]) if row.kind == "items")
    row.update([CleanupPlan.body.set(row.body.replace("scratch/a.csv", "scratch/b.csv"))])
    with pytest.raises(PlanChanged):
        site.apply(plan)


def test_a_second_apply_answers_what_the_first_did(site):
    site.save("scratch/a.csv")
    plan = site.plan(0)
    first = site.apply(plan)
    events = len(outcomes(action="temporary_file_deleted"))
    site.later(5)
    assert site.apply(plan) == first
    assert len(outcomes(action="temporary_file_deleted")) == events


def test_of_two_who_apply_at_once_one_does_it(site, monkeypatch):
    site.save("scratch/a.csv")
    plan = site.plan(0)
    disk, real = site.gateway.transfers.disk("scratch"), site.gateway.transfers.disk("scratch").erase

    def erase(path):
        with pytest.raises(PlanInProgress):
            site.apply(plan)
        return real(path)

    monkeypatch.setattr(disk, "erase", erase)
    assert site.apply(plan)["deleted"] == 1


def test_who_may_not_clean_up_is_refused_and_that_is_recorded(site):
    for act in (
        lambda call: site.gateway.cleanup.plan(call, 0),
        lambda call: site.gateway.cleanup.show(call, "0" * 32),
        lambda call: site.gateway.cleanup.apply(call, "0" * 32, "0"),
        lambda call: site.gateway.cleanup.receipts(call, "0" * 32),
        lambda call: site.gateway.cleanup.clean_up(call, hours=0, dry_run=True),
    ):
        with pytest.raises(Forbidden):
            act(user("cohort_manager", "VACS"))
    assert len(outcomes(action="access_denied")) == 5
    site.gateway.cleanup.plan(user("operator"), 0)


def test_uploading_again_to_a_path_that_is_there_still_says_so(site):
    site.save("scratch/a.csv")
    with pytest.raises(FileExists):
        site.save("scratch/a.csv", if_absent=True)


def test_what_was_planned_and_got_a_later_deadline_stays(site):
    saved = site.save("scratch/a.csv")
    site.later(5)
    plan = site.plan()
    due = datetime.fromtimestamp(site.now, UTC) + timedelta(hours=2)
    TrackedFile(saved.file_id).update([TrackedFile.cleanup_due.set(due.timestamp())])
    assert results(site.apply(plan)) == {saved.file_id: "too_young"}
