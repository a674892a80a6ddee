"""Temporary files across the tiers, and after a process that was killed in the middle of its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from chalicelib import dynamo
from chalicelib.auth import tables as auth_tables
from chalicelib.config import Settings
from chalicelib.errors import FileMissing, Forbidden, InvalidRequest
from chalicelib.storage.manager import StorageManager
from chalicelib.storage.remote import RemoteStorageDriver, Transport
from chalicelib.storage.workspace import WorkspaceManager
from nas_gateway import wiring
from nas_gateway.files.access import Call
from tests.support.client import fresh_name
from tests.support.stack import RunningStack

# Saves one file in a workspace, one as it is on its way, says so, and waits to be killed.
WORKER = """
import sys
from chalicelib.storage.workspace import WorkspaceManager

def stream():
    yield b"half of it"
    print("in the middle", flush=True)
    sys.stdin.read()

with WorkspaceManager().workspace("scratch", "killed", cleanup_hours=2) as work:
    work.save("done.csv", b"a,b")
    work.save("half.csv", stream())
"""


def manager(tiers: RunningStack, assertion: str | None = None) -> WorkspaceManager:
    """As the web tier has it."""
    headers = {"X-Depot-Assertion": assertion} if assertion else {}
    document = tiers.document
    transport = Transport(document["services_url"], document["api_key"], headers=lambda: headers)
    return WorkspaceManager(lambda purpose: RemoteStorageDriver(purpose, transport))


def test_the_web_role_has_workspaces_through_the_services_tier(tiers, events):
    work, ident = manager(tiers), fresh_name("")
    with work.workspace("scratch", ident, cleanup_hours=3) as space:
        saved = space.save("a.csv", iter([b"a,", b"b\n"]))
        assert [info.path for info in space.files()] == [saved]
        mine = [each for each in work.get_workspace_usage()["workspaces"] if each["id"] == ident]
        assert [(each["kind"], each["files"], each["bytes"]) for each in mine] == [("scratch", 1, 4)]
        found = work.cleanup_orphaned_directories(hours=1, dry_run=True)
        assert saved.file_id not in json.dumps(found)
    assert list(space.files()) == []
    assert [event["action"] for event in events(file_id=saved.file_id)] == [
        "work_copy_created", "work_copy_created", "file_deleted_via_api", "file_deleted_via_api",
    ]  # fmt: skip


def test_a_temporary_file_is_deleted_and_marked_through_the_services_tier(tiers, events):
    work, path = manager(tiers), f"upload_prechecks/{fresh_name('')}/a.csv"
    saved = work.create_temp_file_with_cleanup(path, b"x", cleanup_hours=1)
    assert work.cleanup_temp_file(path, user="ana") == saved.tracking_id
    marked = events(file_id=saved.file_id)[-1]
    assert (marked["user"], marked["metadata"]) == ("ana", {"cleans": saved.tracking_id})
    with pytest.raises(FileMissing):
        work.cleanup_temp_file(path)
    with pytest.raises(InvalidRequest):
        work.create_temp_file_with_cleanup("submissions/VACS/2024/patient/a.csv", b"x")
    with pytest.raises(InvalidRequest):
        work.create_temp_file_with_cleanup(path, b"x", cleanup_hours=10_000)


def test_another_users_temporary_file_is_not_there(tiers, as_user):
    path = f"scratch/audit_{fresh_name('')}/a.csv"
    manager(tiers).create_temp_file_with_cleanup(path, b"x")
    token = as_user("cohort_manager", "MINE").session.headers["Authorization"].removeprefix("Bearer ")
    theirs = manager(tiers, token)
    with pytest.raises(FileMissing):
        theirs.cleanup_temp_file(path, user="admin")
    with pytest.raises(Forbidden):
        theirs.get_workspace_usage()
    with pytest.raises(Forbidden):
        theirs.create_temp_file_with_cleanup(f"{path}2", b"x")


def test_what_a_killed_process_leaves_is_gone_once_its_deadline_has_passed(ministack_url, tmp_path, monkeypatch):
    config = {"disks": {"scratch": {"driver": "local", "root": str(tmp_path)}}}
    env = {
        "SERVER_ROLE": "services",
        "INTERNAL_API_KEY": "k" * 32,
        "STORAGE_CONFIG": json.dumps(config),
        "LEDGER_TABLE_PREFIX": f"w{uuid.uuid4().hex[:10]}",
        "AWS_ENDPOINT_URL": ministack_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "DEPOT_LEASE_SECONDS": "1",
        "DEPOT_SWEEP_GRACE_SECONDS": "1",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_env(env)
    made = wiring.configure(settings)
    try:
        dynamo.create(*auth_tables.MODELS, *wiring.MODELS)
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER], env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"in the middle\n"
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
        killed_at = time.time()
        storage = StorageManager.get_scratch_storage()
        assert storage.get_file("scratch/audit_killed/done.csv") == b"a,b"

        def cleaned(hours_later: float) -> int:
            made.transfers.clock = lambda: killed_at + hours_later * 3600
            return int(made.cleanup.clean_up(Call(), hours=4, dry_run=False)["deleted"])

        assert cleaned(1.9) == 0
        assert cleaned(2.1) == 1
        assert wiring.sweep(settings).run().failed == {}
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        assert list(made.transfers.registry.temporary("scratch")) == []
    finally:
        StorageManager.clear_cache()
        wiring.gateway.cache_clear()
