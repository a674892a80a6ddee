"""Workspaces and temporary files: deadlines, deletion that is seen and marked, usage; over a folder and over S3."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from chalicelib.config import Settings
from chalicelib.errors import FileMissing, Forbidden, InvalidPath, InvalidRequest, StorageError, StorageUnavailable
from chalicelib.storage.manager import StorageManager
from chalicelib.storage.remote import RemoteStorageDriver
from chalicelib.storage.workspace import WorkspaceManager, folder, workspace_of
from nas_gateway import wiring
from nas_gateway.files.access import Call
from nas_gateway.ledger import queries
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.workspace import Workspaces
from tests.support.gateway import AWS, ENV, made_gateway, outcomes, user
from tests.unit.test_driver_s3 import a_client

PATH = "scratch/audit_42/converted.duckdb"


@pytest.fixture
def manager(gateway):
    return WorkspaceManager()


def row(gateway, path=PATH, disk="scratch"):
    return gateway.transfers.registry.at(disk, path)


def hours_left(gateway, file):
    return (file.cleanup_due - file.created_at) / 3600


# --- one file -----------------------------------------------------------------------------------------------------


def test_a_temporary_file_has_the_deadline_it_was_given_in_the_row_and_in_the_ledger(gateway, manager):
    saved = manager.create_temp_file_with_cleanup(PATH, b"abc", cleanup_hours=7)
    file = row(gateway)
    assert hours_left(gateway, file) == pytest.approx(7)
    assert outcomes(saved.file_id) == [("work_copy_created", "intent"), ("work_copy_created", "completed")]
    for event in queries.query(file_id=saved.file_id).events:
        assert event.cleanup_required
        assert event.expected_cleanup_by.timestamp() == pytest.approx(file.cleanup_due)


def test_cleaning_up_deletes_and_marks_the_creating_operation(gateway, manager):
    saved = manager.create_temp_file_with_cleanup(PATH, b"abc")
    assert manager.cleanup_temp_file(PATH, "ana") == saved.tracking_id
    assert not gateway.transfers.disk("scratch").exists(PATH)
    *_, deleted, marked = queries.query(file_id=saved.file_id).events
    assert (deleted.action, deleted.outcome) == ("file_deleted_via_api", "completed")
    assert (marked.action, marked.user, marked.metadata) == ("work_copy_deleted", "ana", {"cleans": saved.tracking_id})
    with pytest.raises(FileMissing):
        manager.cleanup_temp_file(PATH, "ana")


def test_a_deletion_is_looked_at_and_a_file_that_stays_keeps_its_deadline(gateway, manager, monkeypatch):
    saved = manager.create_temp_file_with_cleanup(PATH, b"abc")
    disk = gateway.transfers.disk("scratch")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "exists", lambda path: True)  # a store that only says that it deleted
        with pytest.raises(StorageError):
            manager.cleanup_temp_file(PATH, "ana")
    assert "work_copy_deleted" not in dict(outcomes(saved.file_id))


@pytest.mark.parametrize("hours", [0, -1, 721, float("nan")])
def test_a_deadline_that_is_none_is_refused_before_the_first_byte(gateway, manager, hours):
    with pytest.raises(InvalidRequest):
        manager.create_temp_file_with_cleanup(PATH, b"abc", cleanup_hours=hours)
    assert row(gateway) is None


def test_submissions_are_neither_saved_nor_deleted_as_temporary_files(gateway, manager):
    path = "submissions/VACS/2024/patient/a.csv"
    with pytest.raises(InvalidRequest):
        manager.create_temp_file_with_cleanup(path, b"abc")
    workspace = StorageManager.get_workspace_storage()
    workspace.save(path, b"abc")
    with pytest.raises(InvalidRequest):
        manager.cleanup_temp_file(path, "ana")
    assert workspace.exists(path)


def test_a_submission_elsewhere_is_not_deleted_as_a_temporary_file(gateway, manager):
    """Its path does not say what it is: its row does."""
    storage = StorageManager.get_workspace_storage()
    storage.save("incoming/a.csv", b"abc", metadata={"purpose": "submission", "cohort": "VACS"})
    with pytest.raises(InvalidRequest):
        manager.cleanup_temp_file("incoming/a.csv", "ana")


# --- blocks -------------------------------------------------------------------------------------------------------


def test_a_workspace_is_empty_after_the_block(gateway, manager):
    with manager.workspace("scratch", "42") as work:
        work.save("a.csv", b"a")
        work.save("deep/b.csv", b"bb")
        assert [info.path for info in work.files()] == ["scratch/audit_42/a.csv", "scratch/audit_42/deep/b.csv"]
        with work.open("a.csv") as download:
            assert b"".join(download) == b"a"
    assert list(work.files()) == []
    assert list(gateway.transfers.registry.temporary("scratch")) == []


def test_a_workspace_is_empty_after_an_error_which_is_raised(gateway, manager):
    with pytest.raises(RuntimeError, match="mine"):
        with manager.workspace("upload_prechecks") as work:
            work.save("a.csv", b"a")
            raise RuntimeError("mine")
    assert list(work.files()) == []


def test_a_workspace_that_cannot_be_emptied_says_so_and_is_cleaned_up_later(gateway, manager, monkeypatch):
    disk = gateway.transfers.disk("scratch")

    def refuse(path):
        raise StorageUnavailable

    with monkeypatch.context() as patch:
        with pytest.raises(StorageError):
            with manager.workspace("scratch", "42", cleanup_hours=2) as work:
                work.save("a.csv", b"a")
                patch.setattr(disk, "erase", refuse)
    later = Workspaces(gateway.transfers, ["scratch"])
    assert later.usage(Call())["files"] == 1
    moved = gateway.transfers.clock() + 5 * 3600
    gateway.transfers.clock = lambda: moved
    assert gateway.cleanup.clean_up(Call(), hours=4, dry_run=False)["deleted"] == 1
    assert list(work.files()) == []


def test_a_temporary_file_is_gone_after_the_block(gateway, manager):
    storage = StorageManager.get_scratch_storage()
    with manager.temp_file("a.csv", b"a,b\n") as path:
        assert storage.get_file(path) == b"a,b\n"
    assert not storage.exists(path)
    with manager.temp_file() as path:
        pass  # nothing was saved
    with pytest.raises(ZeroDivisionError):
        with manager.temp_file("b.csv", b"x") as path:
            1 / 0  # noqa: B018
    assert not storage.exists(path)


def test_folders_and_their_reverse():
    assert folder("scratch", "42") == "scratch/audit_42/"
    assert folder("upload_prechecks", "42") == "upload_prechecks/42/"
    assert workspace_of("scratch/audit_42/a/b.csv") == ("scratch", "42")
    assert workspace_of("upload_prechecks/42/a.csv") == ("upload_prechecks", "42")
    assert workspace_of("submissions/42/a.csv") is workspace_of("scratch/a.csv") is None
    with pytest.raises(InvalidRequest):
        folder("submissions", "42")
    for bad in ("", "a/b", ".."):
        with pytest.raises(InvalidPath):
            folder("upload_prechecks", bad)


# --- usage and clean-up -------------------------------------------------------------------------------------------


def disks(kind, tmp_path):
    if kind == "folder":
        config = {"driver": "local", "root": str(tmp_path)}
    else:
        config = {"driver": "s3", "bucket": "nas", "access_key": "testing", "secret_key": "testing"}
    return ENV | {"STORAGE_CONFIG": json.dumps({"disks": {"workspace": config}})}


@pytest.fixture(params=["folder", "s3"])
def stored(request, tmp_path, monkeypatch):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with made_gateway(disks(request.param, tmp_path)) as gateway:
        if request.param == "s3":
            client = a_client()
            client.create_bucket(Bucket="nas")
            gateway.transfers.disk("workspace")._client = client  # moto takes bodies as bytes only
        yield gateway


def test_usage_counts_what_lies_there_by_kind_and_workspace(stored):
    manager, now = WorkspaceManager(), stored.transfers.clock()
    for path, size in (("scratch/audit_1/a", 3), ("scratch/audit_1/b", 4), ("upload_prechecks/9/c", 5), ("mine/d", 6)):
        manager.create_temp_file_with_cleanup(path, b"x" * size)
    stored.transfers.disk("workspace").save("scratch/audit_2/stray", b"12345678")
    stored.transfers.clock = lambda: now + 3 * 3600
    usage = manager.get_workspace_usage()
    assert (usage["files"], usage["bytes"], usage["untracked"], usage["overdue"]) == (5, 26, 1, 4)
    counts = {kind: (part["files"], part["bytes"], part["workspaces"]) for kind, part in usage["kinds"].items()}
    assert counts == {"scratch": (3, 15, 2), "upload_prechecks": (1, 5, 1), "other": (1, 6, 0)}
    spaces = sorted((space["kind"], space["id"], space["files"]) for space in usage["workspaces"])
    assert spaces == [("scratch", "1", 2), ("scratch", "2", 1), ("upload_prechecks", "9", 1)]
    assert abs(datetime.fromisoformat(usage["oldest"]).timestamp() - now) < 60


def test_a_dry_run_deletes_nothing(stored):
    manager = WorkspaceManager()
    manager.create_temp_file_with_cleanup(PATH, b"abc")
    assert manager.cleanup_orphaned_directories(hours=0, dry_run=True)["found"] == 1
    assert manager.get_workspace_usage()["files"] == 1
    assert manager.cleanup_orphaned_directories(hours=4, dry_run=True)["found"] == 0
    manager.cleanup_orphaned_directories(hours=0, dry_run=False)
    assert manager.get_workspace_usage()["files"] == 0


def test_only_who_may_clean_up_sees_the_usage(gateway):
    spaces = Workspaces(gateway.transfers, ["scratch"])
    assert spaces.usage(user("operator"))["files"] == 0
    with pytest.raises(Forbidden):
        spaces.usage(user("cohort_manager", "VACS"))
    assert outcomes(user="cohort_manager-of-VACS") == [("access_denied", "failed")]


# --- what is only logged ------------------------------------------------------------------------------------------


def logged(path=PATH, **more):
    return PHIFileTracking.log_operation(
        action="work_copy_created", file_path=path, user="ana", cleanup_required=True, **more
    )


def test_a_file_that_is_only_logged_is_tracked_from_then_on(gateway):
    gateway.transfers.disk("scratch").save(PATH, b"abc")
    due = datetime.now(UTC) + timedelta(hours=2)
    event = logged(expected_cleanup_by=due, cohort="VACS")
    file = row(gateway)
    assert (file.file_id, file.tracking_id, file.size) == (event.file_id, event.tracking_id, 3)
    assert (file.cohort, file.cleanup_due) == ("VACS", pytest.approx(due.timestamp()))
    gateway.transfers.clock = lambda: due.timestamp() + 3 * 3600
    assert gateway.cleanup.clean_up(Call(), hours=4, dry_run=False)["deleted"] == 1
    assert not gateway.transfers.disk("scratch").exists(PATH)


def test_a_file_that_is_logged_and_not_there_is_closed_by_the_clean_up(gateway):
    event = logged()
    assert gateway.cleanup.clean_up(Call(), hours=0, dry_run=False)["deleted"] == 1
    assert queries.query(file_id=event.file_id).events[-1].metadata["already_gone"] == "true"


def test_logging_a_tracked_file_moves_its_deadline(gateway, manager):
    saved = manager.create_temp_file_with_cleanup(PATH, b"abc", cleanup_hours=2)
    due = datetime.now(UTC) + timedelta(hours=9)
    assert logged(expected_cleanup_by=due).file_id == saved.file_id
    assert row(gateway).cleanup_due == pytest.approx(due.timestamp())


@pytest.mark.parametrize(
    "path", ["submissions/VACS/2024/patient/a.csv", "/tmp/work.csv", "a/../b", "submissions/short.csv"]
)
def test_what_is_no_temporary_file_of_ours_is_only_an_event(gateway, path):
    event = logged(path)
    assert event.file_path == path
    assert [*gateway.transfers.registry.temporary("scratch"), *gateway.transfers.registry.temporary("workspace")] == []


def test_a_submission_that_is_logged_for_clean_up_stays(gateway):
    path = "incoming/a.csv"
    storage = StorageManager.get_workspace_storage()
    storage.save(path, b"abc", metadata={"purpose": "submission", "cohort": "VACS"})
    assert logged(path).file_id is None
    assert row(gateway, path, "workspace").cleanup_due is None


def test_a_path_that_an_upload_is_on_its_way_to_is_left_to_it(gateway):
    from nas_gateway.files.placement import place

    gateway.transfers.announce(Call(), place("scratch", PATH), "file_uploaded_via_stream", if_absent=False)
    assert logged().file_id is None
    assert row(gateway) is None


def test_the_storage_of_the_services_tier_is_the_one_with_deadlines(gateway):
    assert wiring.storage_factory(gateway.settings, "scratch").__class__.__name__ == "WorkspaceStorage"


def test_in_the_web_role_the_same_manager_asks_the_services_tier():
    env = {"SERVER_ROLE": "web", "INTERNAL_API_KEY": "k" * 32, "SERVICES_URL": "http://127.0.0.1:1"}
    StorageManager.configure(Settings.from_env(env))
    try:
        disks = [WorkspaceManager().find(kind, "1").storage for kind in ("scratch", "upload_prechecks")]
        assert [(type(disk), disk.disk) for disk in disks] == [
            (RemoteStorageDriver, "scratch"),
            (RemoteStorageDriver, "workspace"),
        ]
    finally:
        StorageManager.clear_cache()
