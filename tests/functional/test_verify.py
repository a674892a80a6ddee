"""A file that is damaged on the NAS, through both tiers: found by `depot verify`, seen, not served, restored, deleted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, code, fresh_name, internal
from tests.support.stack import RunningStack

BODY = b"id,value\n1,2\n"
DAMAGED = b"id,value\n1,3\n"


class Stored:
    """One uploaded file, and its object on the NAS (a folder here)."""

    def __init__(self, tiers: RunningStack, web: Client) -> None:
        saved = web.upload(BODY, fresh_name()).json()
        self.file_id = str(saved["file_id"])
        disks = json.loads(tiers.document["env"]["STORAGE_CONFIG"])["disks"]
        self.object = Path(disks["submissions"]["root"], saved["path"])
        assert self.object.read_bytes() == BODY


@pytest.fixture
def stored(tiers: RunningStack, web: Client) -> Iterator[Stored]:
    """A file of its own; nothing damaged is left for other tests."""
    made = Stored(tiers, web)
    yield made
    made.object.unlink(missing_ok=True)
    web.call("DELETE", f"/files/{made.file_id}")


def verify(tiers: RunningStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chalicelib.cli", "verify", *arguments],
        env={**os.environ, **tiers.document["env"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_damaged_file_is_named_seen_not_served_and_released_when_it_is_right_again(
    tiers: RunningStack, web: Client, stored: Stored, events: Any
) -> None:
    good = verify(tiers, "--file", stored.file_id)
    assert (good.returncode, good.stdout) == (0, "1 checked, 13 bytes read, 0 damaged\n"), good.stderr

    stored.object.write_bytes(DAMAGED)
    bad = verify(tiers, "--file", stored.file_id, "--json")
    assert bad.returncode == 1
    told = json.loads(bad.stdout)
    assert told["damaged"] == [{"file_id": stored.file_id, "reason": "digest"}]
    assert stored.object.name not in bad.stdout + bad.stderr

    assert web.get(f"/files/{stored.file_id}").json()["state"] == "CORRUPT"
    listed = web.get("/files", params={"cohort": "VACS", "limit": "1000"}).json()["files"]
    assert [file["state"] for file in listed if file["file_id"] == stored.file_id] == ["CORRUPT"]
    answer = web.content(stored.file_id)
    assert (answer.status_code, code(answer)) == (502, "object_corrupt")
    etag = {"If-None-Match": "*"}
    assert web.content(stored.file_id, headers=etag).status_code == 502
    assert web.call("HEAD", f"/files/{stored.file_id}/content").status_code == 502

    stored.object.write_bytes(BODY)
    again = verify(tiers, "--file", stored.file_id)
    assert again.returncode == 0
    assert "right again: 1" in again.stdout
    assert web.content(stored.file_id).content == BODY
    found = [event["action"] for event in events(file_id=stored.file_id) if event["action"].startswith("integrity_")]
    assert found == ["integrity_failed", "integrity_restored"]


def test_a_missing_file_can_still_be_deleted(tiers: RunningStack, web: Client, stored: Stored) -> None:
    stored.object.unlink()
    bad = verify(tiers, "--file", stored.file_id)
    assert bad.returncode == 1
    assert f"DAMAGED {stored.file_id} (missing)" in bad.stdout
    assert web.call("DELETE", f"/files/{stored.file_id}").status_code == 200
    assert web.get(f"/files/{stored.file_id}").status_code == 404


def test_the_command_s_mistakes(tiers: RunningStack) -> None:
    for wrong, status in (([], 2), (["--all", "--file", "x"], 2), (["--file", "x"], 1), (["--file", "0" * 32], 1)):
        assert verify(tiers, *wrong).returncode == status


def test_an_administrator_may_have_a_file_read_again_and_others_may_not(
    tiers: RunningStack, web: Client, as_user: Any, stored: Stored
) -> None:
    path, services = f"/internal/files/{stored.file_id}/verify", internal(tiers)

    def asked(by: Client | None) -> Any:
        told = {"X-Depot-Assertion": str(by.session.headers["Authorization"]).removeprefix("Bearer ")} if by else {}
        return services.post(path, headers=told)

    for allowed in (None, web, as_user("administrator")):
        answer = asked(allowed)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["state"], answer.json()["counts"]["checked"]) == ("AVAILABLE", 1)
    refused = asked(as_user("cohort_manager", "VACS"))
    assert (refused.status_code, code(refused)) == (403, "forbidden")
    hidden = asked(as_user("cohort_manager", "OTHER"))
    assert (hidden.status_code, code(hidden)) == (404, "file_not_found")
    assert web.call("POST", path).status_code == 404, "the web tier has no such call"
    stored.object.write_bytes(DAMAGED)
    found = asked(None).json()
    assert (found["state"], found["damaged"][0]["reason"]) == ("CORRUPT", "digest")
    assert asked(None).json()["damaged"] == found["damaged"]
