"""Applying: verified, isolated, limited, receipted, retried; and what a crash at any call leaves is ended by the next run."""

from __future__ import annotations

import base64
import json
import os
import random
from contextlib import suppress

import pytest

from chalicelib import metrics
from chalicelib.auth.policy import SERVICE
from chalicelib.config import Settings
from chalicelib.errors import DepotError, FileMissing, PlanInProgress, StorageUnavailable, UploadInProgress
from chalicelib.storage.base import Remains
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway import wiring
from nas_gateway.cleanup import plans, receipts
from nas_gateway.cleanup.backup import Backup
from nas_gateway.cleanup.holds import Scope
from nas_gateway.cleanup.items import Item, Limits, Rule
from nas_gateway.cleanup.limits import allowed
from nas_gateway.cleanup.tables import CleanupPlan, CleanupReceipt
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files import maintenance
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.jobs import Deadline
from nas_gateway.ledger import queries
from nas_gateway.ledger.signing import SigningKey
from nas_gateway.ledger.tables import OpenOperation
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.sweep import Sweep
from tests.support.cleaning import HOUR, results, rules, site
from tests.support.crash import Crash, Way, World, faults
from tests.support.gateway import ENV, outcomes, user

__all__ = ["faults", "site"]


def gauge(name):
    return next((sample.value for sample in metrics.registry.samples() if sample.metric.name == name), None)


# --- seen to be gone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [Remains(True), Remains(False, versions=1)])
def test_what_is_still_there_afterwards_is_not_deleted(site, monkeypatch, left):
    saved = site.save("scratch/a.csv")
    with monkeypatch.context() as patch:
        patch.setattr(site.gateway.transfers.disk("scratch"), "remains", lambda path: left)
        assert site.clean(0) == {saved.file_id: "storage_error"}
    row = site.row(saved.file_id)
    assert (row.state, row.cleanup_tries) == (State.DELETING, 1)
    assert outcomes(saved.file_id)[-1] == ("temporary_file_deleted", "failed")
    site.later(0.2)
    assert site.clean() == {saved.file_id: "already_gone"}


def test_parts_at_the_path_that_no_session_names_go_with_the_file(site):
    disk = site.gateway.transfers.disk("scratch")
    stray, other = disk.create_parts("scratch/a.csv"), disk.create_parts("scratch/a.csv.more")
    saved = site.save("scratch/a.csv")
    site.gateway.transfers.delete(Call(), "scratch", "scratch/a.csv")
    assert [upload.handle for upload in disk.open_uploads()] == [other]
    assert queries.query(file_id=saved.file_id).events[-1].metadata["parts"] == "1"
    assert stray != other


def test_parts_of_a_session_that_lives_stay(site):
    new = {"disk": "scratch", "path": "scratch/a.csv", "size": 3, "if_absent": False}
    site.save("scratch/a.csv")
    status = site.gateway.uploads.create(Call(), NewUpload(**new))
    site.later(0.5)  # its path is free for others again, but it lives for a day
    site.gateway.transfers.delete(Call(), "scratch", "scratch/a.csv")
    assert len(list(site.gateway.transfers.disk("scratch").open_uploads())) == 1
    assert site.gateway.uploads.status(Call(), status.upload_id).state == "OPEN"


def test_a_file_whose_deletion_failed_is_not_there_for_anybody_and_nothing_takes_its_place(site, monkeypatch):
    saved = site.save("scratch/a.csv", metadata={"cohort": "VACS"})
    disk = site.gateway.transfers.disk("scratch")

    def away(path):
        raise StorageUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(disk, "erase", away)
        with pytest.raises(StorageUnavailable):
            site.gateway.transfers.delete(Call(), "scratch", "scratch/a.csv")
    transfers = site.gateway.transfers
    for call in (Call(), user("cohort_manager", "VACS")):
        for read in (transfers.download, transfers.describe):
            with pytest.raises(FileMissing):
                read(call, "scratch", "scratch/a.csv")
        assert not transfers.exists(call, "scratch", "scratch/a.csv")
        with pytest.raises(FileMissing):
            transfers.file(call, saved.file_id)
    assert transfers.registry.listed("VACS", None, 10) == ([], None)
    for if_absent in (True, False):
        with pytest.raises(UploadInProgress):
            site.save("scratch/a.csv", if_absent=if_absent)
    transfers.delete(Call(), "scratch", "scratch/a.csv")  # trying again is allowed, and ends it
    assert site.paths() == []
    assert site.save("scratch/a.csv", if_absent=True)


def test_a_file_deleted_behind_our_back_is_closed_with_that_fact(site):
    saved = site.save("scratch/a.csv")
    site.gateway.transfers.disk("scratch").delete("scratch/a.csv")
    assert site.clean(0) == {saved.file_id: "already_gone"}
    assert queries.query(file_id=saved.file_id).events[-1].metadata["already_gone"] == "true"
    assert site.row(saved.file_id).state == State.DELETED


# --- failures ---------------------------------------------------------------------------------------------------------


def test_one_that_cannot_be_deleted_does_not_stop_the_others(site, monkeypatch):
    saved = [site.save(f"scratch/{name}.csv") for name in "abc"]
    disk = site.gateway.transfers.disk("scratch")
    real = disk.erase

    def erase(path):
        if path == "scratch/b.csv":
            raise StorageUnavailable
        if path == "scratch/a.csv":
            raise RuntimeError("nobody expected that")
        return real(path)

    monkeypatch.setattr(disk, "erase", erase)
    answer = site.apply(site.plan(0))
    told = ["internal_error", "storage_unavailable", "deleted"]
    assert results(answer) == dict(zip([item.file_id for item in saved], told, strict=True))
    assert (answer["deleted"], answer["failed"]) == (1, 2)
    assert answer["failures"] == {"storage_unavailable": 1, "internal_error": 1}


def test_failures_are_retried_with_back_off_and_after_five_somebody_is_told(site, monkeypatch, capsys):
    saved = site.save("scratch/Jane.csv")
    disk = site.gateway.transfers.disk("scratch")
    settings = site.gateway.settings

    def away(path):
        raise StorageUnavailable

    def stuck():
        return maintenance.health(site.gateway.transfers, settings, [])["cleanup"]

    with monkeypatch.context() as patch:
        patch.setattr(disk, "erase", away)
        for tries, minutes in enumerate((5, 10, 20, 40, 80), start=1):
            assert gauge("depot_cleanup_stuck_files") in (None, 0)
            assert stuck() == {"status": "healthy", "stuck_files": 0}
            assert site.clean(0) == {saved.file_id: "storage_unavailable"}
            assert site.row(saved.file_id).cleanup_tries == tries
            site.now += minutes * 60 - 1
            plan = site.plan(0)
            assert [item["reason"] for item in plan["skipped"]] == ["backing_off"]
            assert plan["items"] == []
            site.now += 1
    assert stuck() == {"status": "degraded", "stuck_files": 1}
    assert gauge("depot_cleanup_stuck_files") == 1
    alarm = [line for line in capsys.readouterr().err.splitlines() if '"deletion_stuck"' in line]
    assert len(alarm) == 1
    assert '"ERROR"' in alarm[0]
    assert "Jane" not in alarm[0]
    assert site.clean(0) == {saved.file_id: "deleted"}
    assert gauge("depot_cleanup_stuck_files") == 0


def test_a_submission_whose_deletion_failed_is_ended_by_the_clean_up(site, monkeypatch):
    path = "submissions/VACS/2024/patient/p.csv"
    saved = site.save(path, disk="submissions")
    with monkeypatch.context() as patch:
        patch.setattr(site.gateway.transfers.disk("submissions"), "erase", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            site.gateway.transfers.delete(Call(), "submissions", path)
    site.later(0.2)
    plan = site.plan()
    assert rules(plan) == {saved.file_id: "deletion_unfinished"}
    site.apply(plan)
    assert site.paths("submissions") == []


def test_the_sweep_ends_a_deletion_that_failed_too(site, monkeypatch):
    saved = site.save("scratch/a.csv")
    with monkeypatch.context() as patch:
        patch.setattr(site.gateway.transfers.disk("scratch"), "erase", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            site.gateway.transfers.delete(Call(), "scratch", "scratch/a.csv")
    sweeper = site.gateway.cleanup._sweep
    assert sweeper().run().repaired == {}
    site.later(1)
    assert sweeper().run().repaired == {"deleted_again": 1}
    assert (site.paths(), site.row(saved.file_id).state) == ([], State.DELETED)


def test_an_object_that_was_erased_and_not_looked_for_is_looked_for_once_more_and_else_by_the_sweep(site, monkeypatch):
    disk = site.gateway.transfers.disk("scratch")
    real, asked = disk.remains, []

    def away(path):
        asked.append(path)
        if len(asked) % 2 == 0 and len(asked) <= times:
            raise StorageUnavailable
        return real(path)

    monkeypatch.setattr(disk, "remains", away)
    for times, told in ((2, "already_gone"), (4, "storage_unavailable")):  # noqa: B007 -- `away` reads it
        disk.save("scratch/lost.csv", b"nobody's")
        asked.clear()
        assert list(site.clean(0).values()) == [told]
        assert not disk.exists("scratch/lost.csv")
    assert outcomes(action="orphan_object_deleted")[-1][1] == "intent"
    site.later(1)
    assert site.gateway.cleanup._sweep().run().repaired == {"deleted_again": 1}
    assert outcomes(action="orphan_object_deleted")[-1][1] == "completed"


# --- limits -----------------------------------------------------------------------------------------------------------


def many(site, count, disk="scratch", due=True):
    """Rows as uploads leave them, without the bytes."""
    with TrackedFile.batch_write() as batch:
        for number in range(count):
            batch.save(
                TrackedFile(
                    f"{number:05d}{disk}{due}", disk=disk, path=f"scratch/{number}-{due}", filename="x",
                    state=State.AVAILABLE, purpose="scratch", owner="o", tracking_id="t", created_at=site.now,
                    updated_at=site.now, cleanup_disk=disk, cleanup_due=site.now + (-HOUR if due else HOUR), size=1,
                )
            )  # fmt: skip


def test_a_plan_stops_at_the_number_of_files(site):
    saved = [site.save(f"scratch/{name}.csv") for name in "abc"]
    metrics.registry.clear()
    plan = site.plan(0)
    answer = site.apply(plan, limits={"max_files": 2})
    assert (answer["outcome"], answer["deleted"], answer["not_done"]) == ("limited", 2, 1)
    assert len(site.paths()) == 1
    assert gauge("depot_cleanup_limited_total") == 1
    assert site.apply(plan, limits={"max_files": 9}) == answer, "a plan is applied once"
    assert len(set(results(answer)) & {item.file_id for item in saved}) == 2


@pytest.mark.parametrize(("due", "others", "percent", "room"), [
    (100, 0, 20, 100),  # up to a hundred, no share counts
    (101, 0, 20, 100),
    (101, 404, 20, 101),  # a fifth of 505
    (101, 403, 20, 100),
    (300, 300, 50, 300),
    (300, 299, 50, 299),
    (150, 0, 100, 150),
])  # fmt: skip
def test_a_plan_stops_at_a_share_of_the_disk(site, due, others, percent, room):
    many(site, due)
    many(site, others, due=False)
    many(site, 50, disk="workspace", due=False)
    items = [Item(str(number), Rule.OVERDUE, "scratch") for number in range(due)]
    left, done = allowed(items, Limits(10_000, percent), site.gateway.transfers.registry), 0
    for item in items:
        if left.room(item):
            left.use(item, "deleted")
            done += 1
    assert done == room


def test_what_is_skipped_takes_nothing_from_the_limit(site):
    kept = site.save("scratch/a.csv")
    site.later(0.01)  # the order of a plan is that of the deadlines
    gone = site.save("scratch/b.csv")
    plan = site.plan(0)
    TrackedFile(kept.file_id).update([TrackedFile.purpose.set("submission")])
    answer = site.apply(plan, limits={"max_files": 1})
    assert results(answer) == {kept.file_id: "submission", gone.file_id: "deleted"}
    assert answer["outcome"] == "done"


# --- receipts ---------------------------------------------------------------------------------------------------------


def test_each_deletion_has_a_receipt_that_can_be_checked(site, tmp_path):
    key = SigningKey.generate()
    site.gateway.cleanup._applier._key = lambda: key
    saved = site.save("scratch/a.csv", b"abc")
    site.gateway.transfers.disk("scratch").save("scratch/lost.csv", b"lost")
    plan = site.gateway.cleanup.plan(user("operator"), 0)
    site.gateway.cleanup.apply(user("operator"), plan["plan_id"], plan["hash"])
    rows = site.gateway.cleanup.receipts(user("operator"), plan["plan_id"])["receipts"]
    told = [json.loads(row["receipt"]) for row in rows]
    event = queries.query(file_id=saved.file_id).events[-1]
    assert told[0] == {
        "v": 1, "plan_id": plan["plan_id"], "file_id": saved.file_id, "disk": "scratch", "size": 3,
        "sha256": saved.sha256, "rule": "temporary_age", "who": "operator-of-none", "at": told[0]["at"],
        "ledger": event.position, "event": event.hash, "tracking_id": event.tracking_id, "already_gone": False,
        "verified": {"object": True, "versions": True, "parts": True, "versions_removed": 0, "parts_removed": 0},
    }  # fmt: skip
    assert told[1]["rule"] == "orphan_object"
    lines = [json.dumps(row) for row in rows]
    public = base64.b64decode(key.public)
    assert receipts.check_all(lines, public) == (2, [])
    changed = json.dumps({**rows[0], "receipt": rows[0]["receipt"].replace('"size":3', '"size":4')})
    unsigned = json.dumps({**rows[0], "signature": None})
    bad = [(1, "the signature is wrong"), (2, "not signed"), (3, "not JSON")]
    assert receipts.check_all([changed, unsigned, "x"], public) == (0, bad)
    other = base64.b64decode(SigningKey.generate().public)
    assert receipts.check_all(lines, other) == (0, [(1, "the signature is wrong"), (2, "the signature is wrong")])


def test_a_signature_over_the_same_bytes_without_the_context_is_none(site):
    key = SigningKey.generate()
    line = {"receipt": "{}", "signature": key.sign(b"{}")}
    assert receipts.check(line, base64.b64decode(key.public)) == "the signature is wrong"


def test_without_a_key_receipts_are_unsigned_and_say_so(site):
    site.save("scratch/a.csv")
    plan = site.plan(0)
    site.apply(plan)
    (row,) = site.gateway.cleanup.receipts(Call(), plan["plan_id"])["receipts"]
    assert (row["signature"], row["public_key"]) == (None, None)
    assert json.loads(row["receipt"])["who"] == SERVICE.username


def test_the_event_names_the_rule_the_plan_and_what_made_the_copy(site):
    saved = site.save("scratch/a.csv")
    plan = site.plan(0)
    site.apply(plan)
    event = queries.query(file_id=saved.file_id).events[-1]
    assert dict(event.metadata) == {"rule": "temporary_age", "plan_id": plan["plan_id"], "cleans": saved.tracking_id}


# --- backup -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def backed_up(site):
    backup = Backup(site.gateway.transfers, "workspace", 48)
    site.gateway.cleanup._applier._backup = backup
    return site


def test_a_copy_is_made_and_compared_before_the_deletion_and_has_a_deadline_of_its_own(backed_up):
    saved = backed_up.save("scratch/audit_1/a.csv", b"abc", metadata={"cohort": "VACS"})
    assert backed_up.clean(0) == {saved.file_id: "deleted"}
    (path,) = backed_up.paths("workspace")
    assert backed_up.gateway.transfers.disk("workspace").get_file(path) == b"abc"
    (copy,) = [row for row in TrackedFile.scan() if row.state == State.AVAILABLE]
    assert (copy.cohort, copy.cleanup_due) == ("VACS", pytest.approx(backed_up.now + 48 * HOUR))
    assert outcomes(copy.file_id) == [("backup_created", "intent"), ("backup_created", "completed")]
    # and it is neither copied again nor deleted before its time, whatever is asked
    backed_up.later(47)
    assert backed_up.clean(0) == {}
    backed_up.later(1.2)
    assert backed_up.clean() == {copy.file_id: "deleted"}
    assert (backed_up.paths("workspace"), backed_up.paths()) == ([], [])


def test_nothing_is_deleted_when_the_copy_is_not_what_it_was_made_from(backed_up, monkeypatch):
    saved = backed_up.save("scratch/a.csv", b"abc")
    disk = backed_up.gateway.transfers.disk("workspace")
    real = disk.open

    def flipped(path, range=None):
        download = real(path, range)
        download._reader = BytesReader(b"abd")
        return download

    monkeypatch.setattr(disk, "open", flipped)
    assert backed_up.clean(0) == {saved.file_id: "object_corrupt"}
    assert backed_up.row(saved.file_id).state == State.AVAILABLE
    assert backed_up.gateway.transfers.disk("scratch").get_file("scratch/a.csv") == b"abc"


def test_a_file_that_is_not_what_was_stored_is_kept(backed_up):
    saved = backed_up.save("scratch/a.csv", b"abc")
    backed_up.gateway.transfers.disk("scratch").save("scratch/a.csv", b"abd")
    assert backed_up.clean(0) == {saved.file_id: "object_corrupt"}
    assert backed_up.paths() == ["scratch/a.csv"]


def test_of_what_is_on_hold_no_copy_is_made(backed_up):
    saved = backed_up.save("scratch/a.csv", b"abc")
    plan = backed_up.plan(0)
    backed_up.gateway.holds.set(Call(), Scope(file_id=saved.file_id), "a letter")
    assert results(backed_up.apply(plan)) == {saved.file_id: "on_hold"}
    assert backed_up.paths("workspace") == []


# --- the job, and crashes ---------------------------------------------------------------------------------------------


class Ends:
    """A deadline that ends after so many questions."""

    def __init__(self, asked):
        self.asked = asked

    def left(self):
        self.asked -= 1
        return max(0, self.asked)


def test_a_job_that_runs_out_of_time_goes_on_with_its_plan(site):
    for number in range(5):
        site.save(f"scratch/{number}.csv")
    site.later(5)
    first = site.gateway.cleanup.job(Ends(4))
    assert (first["deleted"], first["not_done"]) == (2, 3)
    assert len(plans.unfinished()) == 1
    assert site.gateway.cleanup.job(Deadline())["deleted"] == 5  # what was done before is counted with its plan
    assert (site.paths(), plans.unfinished()) == ([], [])
    assert len({row.item_id for row in CleanupReceipt.scan()}) == CleanupReceipt.count() == 5


def test_the_job_leaves_a_plan_that_somebody_is_applying_to_them(site, monkeypatch):
    site.save("scratch/a.csv")
    stored = site.gateway.cleanup._made(0)
    plans.Lease.take(stored, site.now)
    assert site.gateway.cleanup.job(Deadline())["deleted"] == 0
    with pytest.raises(PlanInProgress):
        site.apply({"plan_id": stored.plan.plan_id, "hash": stored.hash})
    site.later(1)
    assert site.gateway.cleanup.job(Deadline())["deleted"] == 1
    assert CleanupPlan.count(plans.APPLYING) == 0


PATHS = ["scratch/audit_1/a.csv", "scratch/lost.csv"]


def crashing(faults, stores, at, way):
    """One run that dies at its call number `at` (0: at none), and those after it until nothing is left to do."""
    world = World(stores, faults)
    world.now += 60  # behind the stores' clock, which goes on
    first = world.process()
    saved = first.transfers.upload(Call(), place("scratch", PATHS[0]), BytesReader(b"abc"))
    stores["scratch"].save(PATHS[1], b"nobody's")
    world.later(5 * HOUR)

    def cleaner(uploads):
        settings = Settings.from_env(ENV)
        return wiring._cleanup(settings, uploads.transfers, uploads, Concatenation(uploads))

    faults.arm(at, way)
    # A crash; or an error that a run reports and the next one makes good.
    with suppress(Crash, DepotError):
        cleaner(first).job(Deadline())
    hit, seen = faults.hit, faults.seen[:]
    faults.revive()
    for _ in range(2):
        world.later(HOUR)
        cleaner(world.process()).job(Deadline())
    assert list(stores["scratch"].list_files()) == [], (at, way, hit)
    row = TrackedFile.get(str(saved.file_id))
    assert (row.state, row.deleting, row.cleanup_due) == (State.DELETED, None, None)
    world.later(25 * HOUR)
    uploads = world.process()
    cleaner(uploads)  # the wiring: what the sweep ends late has its receipt, too
    assert not Sweep(uploads, Concatenation(uploads), list(stores)).run().failed
    assert list(OpenOperation.scan()) == []
    for about in ({"file_id": saved.file_id}, {"action": "orphan_object_deleted"}):
        events = queries.query(**about, limit=1000).events
        for tracking_id in {event.tracking_id for event in events}:
            told = [event.outcome for event in events if event.tracking_id == tracking_id]
            assert len(told) == 2, (at, way, hit, told)
        assert [event.outcome for event in events if "delet" in event.action].count("completed") == 1, (at, way, hit)
    assert plans.unfinished() == []
    with_receipt = {row.item_id for row in CleanupReceipt.scan() if row.receipt}
    assert len(with_receipt) == 2, (at, way, hit, "a receipt is missing")
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("way", [Way.BEFORE, Way.AFTER, Way.LOST])
def test_a_crash_at_any_call_is_made_good_by_the_next_run(faults, way):
    """One call in CRASH_STRIDE, beginning anywhere: CRASH_STRIDE=1 has them all."""
    stride = int(os.environ.get("CRASH_STRIDE", "6"))
    first = random.SystemRandom().randrange(stride)
    print(f"CRASH_STRIDE={stride}, from {first}")

    def stores():
        return {name: MemoryStorage(name) for name in ("submissions", "workspace", "scratch")}

    seen = crashing(faults, stores(), 0, way)
    print(f"{len(seen)} calls")
    for at in range(1 + first, len(seen) + 1, stride):
        crashing(faults, stores(), at, way)


def test_a_crash_between_two_steps_of_a_deletion(faults):
    """The same for the calls that matter most; `slow` has them all."""

    def stores():
        return {name: MemoryStorage(name) for name in ("submissions", "workspace", "scratch")}

    seen = crashing(faults, stores(), 0, Way.AFTER)
    erased = seen.index("store erase") + 1
    for at in (erased - 1, erased, erased + 2, erased + 4):
        crashing(faults, stores(), at, Way.AFTER)
