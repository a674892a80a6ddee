"""`depot upload` and `download` against both tiers as they run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chalicelib.limits import MIB, PART_BYTES
from tests.support.cli import TARGET, Depot
from tests.support.client import Client, fresh_name
from tests.support.stack import RunningStack, wait_until


def token_of(client: Client) -> str:
    return str(client.session.headers["Authorization"]).removeprefix("Bearer ")


@pytest.fixture(scope="module")
def manager(as_user: Callable[..., Client]) -> str:
    """The token of somebody who may upload to VACS, and nowhere else."""
    return token_of(as_user("cohort_manager", "VACS"))


@pytest.fixture
def depot(
    tiers: RunningStack,
    manager: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Depot:
    env = {"DEPOT_URL": tiers.document["web_url"], "DEPOT_TOKEN": manager}
    return Depot(tmp_path, env, capsys, monkeypatch)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1])
def test_what_is_uploaded_comes_back_the_same(size: int, depot: Depot) -> None:
    content, name = os.urandom(size), fresh_name()
    depot.file(name, content)
    done = depot.upload(name, "--json")
    assert done.code == 0, done.err
    receipt = json.loads(done.out)
    assert receipt["size"] == size
    assert receipt["sha256"] == hashlib.sha256(content).hexdigest()
    assert receipt["sha256_compared"] is True
    (depot.folder / "back").mkdir()
    back = depot("download", receipt["file_id"], "-o", "back")
    assert back.code == 0, back.err
    assert (depot.folder / "back" / name).read_bytes() == content


def test_a_receipt_says_where_the_ledger_has_it(depot: Depot, events: Callable[..., list[dict[str, Any]]]) -> None:
    name = fresh_name()
    depot.file(name, b"1")
    receipt = json.loads(depot.upload(name, "--json").out)
    (completed,) = [event for event in events(file_id=receipt["file_id"]) if event["outcome"] == "completed"]
    assert receipt["tracking_id"] == completed["tracking_id"]
    assert receipt["ledger"] == f"{completed['shard']}/{completed['seq']}"


def test_one_file_in_pieces(depot: Depot) -> None:
    content, name = os.urandom(3 * PART_BYTES + 17), fresh_name()
    depot.file(name, content)
    done = depot.upload(name, "--json", "--parallel", "3", "--verify")
    assert done.code == 0, done.err
    receipt = json.loads(done.out)
    assert receipt["sha256"] == hashlib.sha256(content).hexdigest()
    assert receipt["sha256_compared"] is True
    assert depot("download", receipt["file_id"], "-o", "back.bin").code == 0
    assert (depot.folder / "back.bin").read_bytes() == content


def test_a_killed_upload_goes_on(depot: Depot, tiers: RunningStack) -> None:
    content, name = os.urandom(24 * MIB), fresh_name()
    depot.file(name, content)
    process = depot.start("upload", name, *TARGET, "--chunk-bytes", str(MIB // 4))
    server = Client(depot.env["DEPOT_URL"])
    server.session.headers.update({"Authorization": f"Bearer {depot.env['DEPOT_TOKEN']}", "Tus-Resumable": "1.0.0"})

    def offset() -> int:
        # The state appears once the upload has an id.
        try:
            entries = json.loads((depot.state / "uploads.json").read_text())["entries"]
        except FileNotFoundError:
            return 0
        upload_id = next(iter(entries.values()))["pieces"][0][0]
        return int(server.call("HEAD", f"/uploads/{upload_id}").headers["Upload-Offset"])

    wait_until(lambda: offset() >= MIB, 60, "the first bytes")
    process.kill()
    process.communicate()
    acknowledged = offset()
    assert MIB <= acknowledged < 24 * MIB
    done = depot.upload(name, "--json")
    assert done.code == 0, done.err
    assert f"{name}: going on at" in done.err
    assert json.loads(done.out)["sha256"] in (None, hashlib.sha256(content).hexdigest())
    assert depot("download", json.loads(done.out)["file_id"], "-o", "back.bin").code == 0
    assert (depot.folder / "back.bin").read_bytes() == content


def test_a_repeated_command_finds_the_finished_upload(depot: Depot) -> None:
    names = [fresh_name() for _ in range(3)]
    for name in names:
        depot.file(name, os.urandom(1000))
    first, again = (depot.upload(*names, "--json", "--parallel", "2") for _ in range(2))
    ids = [[json.loads(line)["file_id"] for line in done.lines] for done in (first, again)]
    assert ids[0] == ids[1]
    assert all(json.loads(line)["already"] for line in again.lines)


@pytest.mark.parametrize("purpose", ["precheck", "scratch"])
def test_temporary_files_need_no_year_and_no_type(purpose: str, depot: Depot) -> None:
    depot.file("a.csv", b"1")
    for _ in range(2):
        done = depot("upload", "a.csv", "--cohort", "VACS", "--purpose", purpose)
        assert done.code == 0, done.err


def test_another_file_of_that_name_is_refused(depot: Depot) -> None:
    name = fresh_name()
    path = depot.file(name, b"first")
    assert depot.upload(name).code == 0
    path.write_bytes(b"second, longer")
    done = depot.upload(name)
    assert done.code == 1
    assert "already there" in done.err


def test_who_may_not_is_told_with_3(depot: Depot, as_user: Callable[..., Client], tiers: RunningStack) -> None:
    depot.file("a.csv", b"1")
    assert depot("upload", "a.csv", "--cohort", "OTHER", "--purpose", "scratch").code == 3
    depot.env["DEPOT_TOKEN"] = token_of(as_user("reader", "VACS"))
    assert depot.upload("a.csv").code == 3
    depot.env["DEPOT_TOKEN"] = "x" * 40
    assert depot.upload("a.csv").code == 3


def test_user_name_and_password_and_the_running_stack_are_enough(depot: Depot, tiers: RunningStack) -> None:
    del depot.env["DEPOT_URL"], depot.env["DEPOT_TOKEN"]
    depot.env |= {"DEPOT_USERNAME": tiers.document["username"], "DEPOT_PASSWORD": tiers.document["password"]}
    name = fresh_name()
    depot.file(name, b"1")
    done = depot.upload(name, "--state-dir", tiers.state_dir)
    assert done.code == 0, done.err
