"""People over both tiers as processes: administered, with tokens, and what is refused arrives as what it was."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from chalicelib.cli import main
from tests.support.client import Client, code
from tests.support.stack import RunningStack


def test_an_administrator_makes_a_user_who_makes_a_token_that_uploads(
    tiers: RunningStack, web: Client, services: Client, events: Any
) -> None:
    cohort, name = f"C-{uuid.uuid4().hex[:8]}", f"{uuid.uuid4().hex[:8]}@example.org"
    assert web.post("/cohorts", json={"name": cohort}).status_code == 201
    again = web.post("/cohorts", json={"name": cohort})
    assert (again.status_code, code(again)) == (409, "already_exists")
    assert cohort in [each["name"] for each in web.get("/cohorts").json()["cohorts"]]
    made = web.post("/users", json={"username": name, "role": "cohort_manager", "cohorts": [cohort]})
    assert made.status_code == 201
    user = made.json()
    assert web.get(f"/users/{user['user_id']}").json()["username"] == name
    assert len(web.get("/users", params={"limit": 1}).json()["users"]) == 1
    signed = Client(web.url).post("/session", json={"username": name, "password": user["password"]}).json()
    ana = Client(web.url, {"Authorization": f"Bearer {signed['token']}"})
    assert [each["current"] for each in ana.get("/sessions").json()["sessions"]] == [True]
    asked = {"name": "nightly", "permissions": ["upload"], "cohorts": [cohort]}
    token = ana.post("/tokens", json=asked).json()
    script = Client(web.url, {"Authorization": f"Bearer {token['token']}"})
    assert script.upload(b"x", cohort=cohort).status_code == 201
    refused = script.get("/files", params={"cohort": cohort})
    assert (refused.status_code, code(refused)) == (403, "forbidden")
    assert code(script.post("/tokens", json=asked)) == "sign_in_required"
    # The services tier takes the same token for the user's assertion.
    direct = services.get("/internal/files", params={"cohort": cohort}, headers={"X-Depot-Assertion": token["token"]})
    assert direct.status_code == 403
    assert ana.get("/tokens").json()["tokens"][0]["last_used"]
    assert ana.call("DELETE", f"/tokens/{token['token_id']}").status_code == 200
    assert script.upload(b"x", cohort=cohort).status_code == 401
    assert web.call("PATCH", f"/users/{user['user_id']}", json={"disabled": True}).json()["disabled"]
    assert ana.get("/session").status_code == 401
    actions = [event["action"] for event in events(user=name)]
    assert [each for each in actions if "token" in each or "sign" in each] == [
        "signed_in", "token_created", "token_revoked",
    ]  # fmt: skip


def test_a_rate_that_the_services_tier_met_says_when_to_come_back(web: Client) -> None:
    name, password = f"{uuid.uuid4().hex[:8]}@example.org", "correct horse battery"
    assert web.post("/users", json={"username": name, "role": "reader", "cohorts": [], "password": password}).ok
    token = Client(web.url).post("/session", json={"username": name, "password": password}).json()["token"]
    ana = Client(web.url, {"Authorization": f"Bearer {token}"})
    body = {"old": "not the password", "new": "another good password"}
    answers = [ana.post("/session/password", json=body) for _ in range(8)]
    locked = [answer for answer in answers if answer.status_code == 429]
    assert locked
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in locked)


def test_tokens_from_the_command_line(
    tiers: RunningStack, web: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, password = f"{uuid.uuid4().hex[:8]}@example.org", "correct horse battery"
    assert web.post("/users", json={"username": name, "role": "auditor", "cohorts": [], "password": password}).ok
    for variable, value in (("DEPOT_USERNAME", name), ("DEPOT_PASSWORD", password), ("DEPOT_URL", web.url)):
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("DEPOT_TOKEN", raising=False)

    def depot(*arguments: str, expected: int = 0) -> str:
        assert main(["token", *arguments]) == expected
        told = capsys.readouterr()
        return told.err if expected else told.out

    token = depot("create", "nightly", "--permission", "ledger", "--days", "7").strip()
    script = Client(web.url, {"Authorization": f"Bearer {token}"})
    assert script.get("/session").json()["token"] is True
    (line,) = depot("list").splitlines()
    assert "nightly  ledger  all your cohorts  until" in line
    assert "You may not do this yourself: read" in depot("create", "x", "--permission", "read", expected=1)
    assert depot("revoke", line.split()[0]) == "Revoked.\n"
    assert script.get("/session").status_code == 401
    assert "no such token" in depot("revoke", "../users", expected=1)
