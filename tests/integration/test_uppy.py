"""Uppy 6 with `@uppy/aws-s3`, as it comes from npm, against `/s3/*` through both tiers. `tests/clients/uppy.mjs` drives it.

The store is the embedded one, or that of S3_ENDPOINT where it is set. What Uppy takes from a browser is in
`tests/clients/uppy_browser.mjs`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chalicelib.limits import MIB
from tests.support import node
from tests.support.client import fresh_name
from tests.support.residue import files_on
from tests.support.stack import running_stack
from tests.support.tus_trial import Trial

pytestmark = pytest.mark.clients

SIZE = 12 * MIB + 17  # three parts as Uppy cuts by itself


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Both tiers as processes, and a store that this machine's clients can reach."""
    env = {"NAS_PUBLIC_ENDPOINT": os.environ.get("S3_ENDPOINT", "")}
    with running_stack(tmp_path_factory.mktemp("uppy"), nas="s3", env=env) as stack:
        yield Trial.of(stack, env)


@pytest.fixture
def uppy(trial: Trial, js_clients: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], bytes]]:
    """`uppy(size, **plan)`: what Uppy reported, and the bytes it was given."""

    def run(size: int = SIZE, **plan: Any) -> tuple[dict[str, Any], bytes]:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        body = random.Random(seed).randbytes(size)
        (tmp_path / "source").write_bytes(body)
        cookie = f"depot_session={trial.web.session.headers['Authorization'].split()[1]}"
        page = {"url": trial.web.url, "cookie": cookie, "path": str(tmp_path / "source"), "name": fresh_name()}
        meta = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient"}
        usual = {"multipart": True, "sayLength": True, "meta": meta}
        status, reports, complaint = node.run(js_clients, "uppy.mjs", {**page, **usual, **plan})
        print(complaint)
        assert status == 0
        return reports[-1], body

    return run


def content(trial: Trial, report: dict[str, Any]) -> bytes:
    """The bytes at the `location` that Uppy tells its page."""
    assert report["result"] == "complete", report
    location = report["body"]["location"]
    assert location.startswith(f"{trial.web.url}/files/")
    return bytes(trial.web.get(location.removeprefix(trial.web.url) + "/content").content)


def calls(report: dict[str, Any], trial: Trial) -> list[str]:
    """Methods and kinds of addresses, in order: `own` is the web tier, `store` the storage."""
    return [
        f"{item['method']} {'own' if item['url'].startswith(trial.web.url) else 'store'}" for item in report["seen"]
    ]


def test_a_file_goes_to_the_store_in_parts(trial, uppy):
    report, body = uppy()
    assert content(trial, report) == body
    assert len(report["parts"]) == 3
    assert calls(report, trial) == ["POST own", *["GET own", "PUT store"] * 3, "POST own"]


def test_the_page_may_choose_the_part_size(trial, uppy):
    report, body = uppy(partBytes=7 * MIB)
    assert content(trial, report) == body
    assert len(report["parts"]) == 2


def test_a_small_file_may_be_one_part(trial, uppy):
    report, body = uppy(size=1)
    assert content(trial, report) == body
    assert len(report["parts"]) == 1


def test_a_pause_costs_no_part_that_is_there(trial, uppy):
    report, body = uppy(pauseAfter=1)
    assert content(trial, report) == body
    assert [part["PartNumber"] for part in report["parts"]] == [1, 2, 3]
    assert calls(report, trial).count("PUT store") <= 4  # the one under way may have been cut off


def test_a_file_that_is_taken_out_leaves_nothing(trial, uppy):
    before = files_on(trial.stack)
    report, _ = uppy(cancelAfter=2)
    assert report["result"] == "cancelled"
    assert report["seen"][-1] == {**report["seen"][-1], "method": "DELETE", "status": 200}
    assert files_on(trial.stack) == before


def test_a_page_that_does_not_say_the_size_is_refused_before_a_byte_moves(trial, uppy):
    report, _ = uppy(sayLength=False)
    assert (report["result"], calls(report, trial)) == ("failed", ["POST own"])
    assert report["seen"][0]["status"] == 400


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
def test_without_parts_a_file_goes_through_both_tiers_and_is_tracked(trial, uppy, size):
    report, body = uppy(size=size, multipart=False)
    assert report["result"] == "complete"
    assert calls(report, trial) == ["GET own", "POST own"]
    files = trial.web.get("/files", params={"cohort": "VACS", "limit": "1000"}).json()["files"]
    name = report["name"]
    (found,) = [item for item in files if item["filename"] == name]
    assert trial.web.content(found["file_id"]).content == body
