"""The storage report through both tiers and on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.client import Client, code, fresh_name, internal

DEPOT = (sys.executable, "-m", "chalicelib.cli")


@pytest.fixture
def depot(tiers):
    """`depot …` against the running stack; its output."""

    def run(*arguments):
        env = {**os.environ, **tiers.document["env"]}
        return subprocess.run([*DEPOT, *arguments], env=env, check=True, capture_output=True, text=True).stdout

    return run


def test_what_was_uploaded_is_in_the_report_in_every_format(web, depot):
    cohort = fresh_name("")
    assert web.upload(b"x" * 1000, cohort=cohort).status_code == 201
    told = json.loads(depot("report", "--fresh", "--format", "json"))
    assert {"name": cohort, "files": 1, "bytes": 1000} in told["by_cohort"]
    assert cohort in depot("report")
    answer = web.get("/reports/storage")
    assert {"name": cohort, "files": 1, "bytes": 1000} in answer.json()["by_cohort"]
    assert answer.json()["snapshot_at"] == told["snapshot_at"]
    for form, kind in (("text", "text/plain"), ("html", "text/html"), ("json", "application/json")):
        answer = web.get("/reports/storage", params={"format": form})
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert cohort in answer.text
    page = web.get("/reports/storage", headers={"Accept": "text/html,application/xhtml+xml"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert depot("report", "--format", "html").startswith("<!doctype html>")


def test_each_sees_the_own_cohorts_numbers_on_both_tiers(tiers, web, as_user, events, depot):
    mine, theirs = fresh_name(""), fresh_name("")
    for cohort in (mine, theirs):
        assert web.upload(b"x", cohort=cohort).status_code == 201
    depot("report", "--fresh")
    manager = as_user("cohort_manager", mine)
    token = manager.session.headers["Authorization"].removeprefix("Bearer ")
    direct = internal(tiers).get("/internal/reports/storage", headers={"X-Depot-Assertion": token})
    for answer in (manager.get("/reports/storage"), direct):
        assert [row["name"] for row in answer.json()["by_cohort"]] == [mine]
        assert theirs not in answer.text
    assert theirs in as_user("auditor").get("/reports/storage").text
    for role in ("uploader", "reader"):
        client = as_user(role, mine)
        refused = client.get("/reports/storage")
        assert (refused.status_code, code(refused)) == (403, "forbidden")
        (denied,) = events(user=client.get("/session").json()["username"], action="access_denied")
        assert denied["metadata"] == {"permission": "ledger", "refused_by": "web", "route": "GET /reports/storage"}
        token = client.session.headers["Authorization"].removeprefix("Bearer ")
        headers = {"X-Depot-Assertion": token}
        assert internal(tiers).get("/internal/reports/storage", headers=headers).status_code == 403


def test_bad_questions_and_no_sign_in(tiers, web):
    assert web.get("/reports/storage", params={"format": "csv"}).status_code == 400
    assert Client(web.url).get("/reports/storage").status_code == 401
    assert Client(tiers.document["services_url"]).get("/internal/reports/storage").status_code == 401
