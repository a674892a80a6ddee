"""The audit trail through both tiers: who sees what, in pages and as a file, and that every refusal is in it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from nas_gateway.ledger.chain import verify_chain
from tests.support.client import Client, code, fresh_name, internal, make_user
from tests.support.stack import RunningStack
from tests.support.tus_client import Tus, about

Events = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def cohort() -> str:
    """A cohort of the test's own."""
    return fresh_name("")


def name_of(client: Client) -> str:
    return str(client.get("/session").json()["username"])


def pages(client: Client, **asked: str) -> list[dict[str, Any]]:
    found, cursor = [], None
    while True:
        answer = client.get("/audit", params={**asked, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        found += answer.json()["events"]
        if (cursor := answer.json()["cursor"]) is None:
            return found


# --- reading ----------------------------------------------------------------------------------------------------------


def test_who_sees_what(web, as_user, cohort):
    theirs = fresh_name("")
    for where in (cohort, theirs):
        assert web.upload(b"x", cohort=where).status_code == 201
    manager, auditor = as_user("cohort_manager", cohort), as_user("auditor")
    for own in ({}, {"cohort": cohort}):
        assert {event["cohort"] for event in pages(manager, **own)} == {cohort}
    for client in (auditor, web):
        assert len(pages(client, cohort=theirs)) == 2
    refused = manager.get("/audit", params={"cohort": theirs})
    assert (refused.status_code, code(refused)) == (403, "forbidden")
    assert [event["cohort"] for event in pages(manager, action="access_denied")] == []  # theirs to see, not ours
    two = as_user("cohort_manager", cohort, theirs)
    assert (two.get("/audit").status_code, len(pages(two, cohort=theirs))) == (400, 3)
    for role in ("uploader", "reader", "operator"):
        client = as_user(role, cohort)
        for path in ("/audit", "/audit/export"):
            assert client.get(path, params={"cohort": cohort}).status_code == 403
    for path in ("/audit", "/audit/export"):
        assert Client(web.url).get(path, params={"cohort": cohort}).status_code == 401


def test_an_auditor_sees_every_event_and_no_byte(web, as_user, cohort):
    told = web.upload(b"a,b\n", cohort=cohort).json()
    auditor = as_user("auditor")
    assert [event["file_path"] for event in pages(auditor, file_id=told["file_id"])] == [told["path"]] * 2
    assert auditor.content(told["file_id"]).status_code == 403


def test_the_services_tier_refuses_too(tiers, as_user, cohort):
    """A web tier that forgot to ask is no way in."""
    token = as_user("cohort_manager", "MINE").session.headers["Authorization"].removeprefix("Bearer ")
    services, user = internal(tiers), {"X-Depot-Assertion": token}
    for asked in ({"cohort": cohort}, {"action": "access_denied"}, {"since": "2020-01-01"}):
        assert services.get("/internal/tracking", params=asked, headers=user).status_code == 403
        told = {"question": asked, "format": "csv", "resumed": False}
        assert services.post("/internal/audit/exports", json=told, headers=user).status_code == 403
    assert services.get("/internal/tracking", params={"cohort": "MINE"}, headers=user).status_code == 200


def test_filters_and_pages(web, as_user, cohort):
    manager = as_user("cohort_manager", cohort)
    told = [manager.upload(b"x", cohort=cohort).json() for _ in range(3)]
    manager.call("DELETE", f"/files/{told[0]['file_id']}")
    everything = pages(manager, limit="2")
    assert len(everything) == len({event["event_id"] for event in everything}) == 8
    assert everything == pages(manager)
    assert len(pages(manager, outcome="intent")) == 4
    assert len(pages(manager, action="file_deleted_via_api")) == 2
    assert len(pages(manager, file_id=told[1]["file_id"])) == 2
    assert len(pages(web, user=name_of(manager), cohort=cohort)) == 8
    middle = everything[3]["at"]
    assert [len(pages(manager, since=middle)), len(pages(manager, until=middle))] == [5, 3]


@pytest.mark.parametrize(
    "asked",
    [{}, {"outcome": "failed"}, {"usr": "ana", "cohort": "VACS"}, {"since": "yesterday"}, {"cohort": "VACS", "limit": "0"},
     {"cohort": "VACS", "cursor": "garbage"}, {"cohort": "VACS", "outcome": "good"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("path", ["/audit", "/audit/export"])
def test_bad_questions_are_a_clear_400(web, path, asked):
    answer = web.get(path, params=asked)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


# --- as a file --------------------------------------------------------------------------------------------------------


def test_an_export_is_the_whole_trail_and_itself_an_event(web, as_user, events, cohort):
    manager = as_user("cohort_manager", cohort)
    evil = f"=cmd|' {fresh_name('')}"
    assert manager.upload(b"x", evil, cohort=cohort).status_code == 201
    for _ in range(3):
        manager.upload(b"x", cohort=cohort)
    before = events(cohort=cohort)
    lines = manager.get("/audit/export", params={"format": "jsonl"})
    assert lines.headers["Content-Type"].startswith("application/x-ndjson")
    assert lines.headers["Content-Disposition"].startswith('attachment; filename="audit-')
    assert [json.loads(line) for line in lines.text.splitlines()] == before
    after = events(cohort=cohort)
    assert [(event["action"], event["user"], event["metadata"]) for event in after[len(before) :]] == [
        ("audit_exported", name_of(manager), {"asked_cohort": cohort, "format": "jsonl", "resumed": "false"})
    ]
    table = manager.get("/audit/export", params={"outcome": "completed"})
    rows = list(csv.DictReader(io.StringIO(table.content.decode(), newline=""), strict=True))
    assert [row["event_id"] for row in rows] == [
        event["event_id"] for event in after if event["outcome"] == "completed"
    ]
    assert rows[0]["file_path"].endswith(f"/{evil}")


def test_an_exported_trail_verifies(web):
    text = web.get("/audit/export", params={"since": "2020-01-01T00:00:00Z", "format": "jsonl"}).text
    ordered = sorted(map(json.loads, text.splitlines()), key=lambda event: (event["shard"], event["seq"]))
    assert verify_chain(ordered).fault is None
    assert len(ordered) > 2


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_the_web_tier_refuses_is_in_the_trail_once(web, as_user, events, cohort):
    file_id = web.upload(b"x", cohort=cohort).json()["file_id"]
    uploader, reader = as_user("uploader", cohort), as_user("reader", cohort)
    asked = [
        (uploader, "GET", f"/files/{file_id}/content", "read", "GET /files/{file_id}/content", file_id),
        (uploader, "DELETE", f"/files/{file_id}", "delete", "DELETE /files/{file_id}", file_id),
        (uploader, "GET", f"/audit?cohort={cohort}", "ledger", "GET /audit", None),
    ]
    for client, method, path, *_ in asked:
        assert client.call(method, path, headers={"X-Request-ID": "refused-request"}).status_code == 403
    assert reader.upload(b"x", cohort=cohort).status_code == 403
    assert Tus(reader).create(1, upload_metadata=about(cohort=cohort)).status_code == 403
    denied = events(cohort=cohort, action="access_denied")
    told = [(event["user"], event["metadata"], event.get("file_id")) for event in denied]
    expected = [
        (name_of(client), {"permission": permission, "refused_by": "web", "route": route}, of)
        for client, _, _, permission, route, of in asked
    ]
    for route in ("PUT /files", "POST /uploads"):
        expected.append((name_of(reader), {"permission": "upload", "refused_by": "web", "route": route}, None))
    assert told == expected
    assert {event["outcome"] for event in denied} == {"failed"}
    assert [event["request_id"] for event in denied[:3]] == ["refused-request"] * 3
    assert all("file_path" not in event for event in denied)


def test_a_piece_that_nobody_may_upload_is_a_refusal_too(as_user, events):
    reader = as_user("reader", "VACS")
    refused = Tus(reader).create(1, upload_concat="partial", upload_metadata=None)
    assert refused.status_code == 403
    (event,) = events(user=name_of(reader), action="access_denied")
    assert event["metadata"] == {"permission": "upload", "refused_by": "web", "route": "POST /uploads"}


def test_another_cohorts_file_is_not_there_and_the_attempt_is_recorded_once(web, as_user, events, cohort):
    told = web.upload(b"x", cohort=cohort).json()
    stranger = as_user("cohort_manager", "MINE")
    for method, path in [("GET", ""), ("GET", "/content"), ("DELETE", "")]:
        assert stranger.call(method, f"/files/{told['file_id']}{path}").status_code == 404
    assert stranger.get("/files", params={"cohort": cohort}).status_code == 403
    assert stranger.get(f"/files/{'0' * 32}").status_code == 404  # nobody's: no refusal
    denied = events(cohort=cohort, action="access_denied")
    assert {event["user"] for event in denied} == {name_of(stranger)}
    assert [event.get("file_id") for event in denied] == [told["file_id"]] * 3 + [None]


def test_denials_are_no_way_to_write_events(tiers, services, as_user, events):
    manager = as_user("cohort_manager", "MINE")
    token = manager.session.headers["Authorization"].removeprefix("Bearer ")
    told = {"permission": "read", "cohort": "THEIRS", "method": "GET", "route": "/files"}
    tries = [
        (told, {}, 400),  # nobody's refusal
        (told, {"X-Depot-Assertion": "made-up"}, 401),
        ({**told, "permission": "anything"}, {"X-Depot-Assertion": token}, 400),
        ({**told, "cohort": 5}, {"X-Depot-Assertion": token}, 400),
        ({**told, "cohort": "MINE"}, {"X-Depot-Assertion": token}, 201),  # allowed: so it was no refusal
    ]
    for body, headers, status in tries:
        assert services.post("/internal/audit/denials", json=body, headers=headers).status_code == status
    user = {"X-Depot-Assertion": token}
    named = {**told, "user": "root", "outcome": "completed", "action": "file_uploaded_via_stream", "route": "/canary"}
    assert services.post("/internal/audit/denials", json=named, headers=user).json() == {"recorded": True}
    assert Client(tiers.document["services_url"]).post("/internal/audit/denials", json=told).status_code == 401
    (event,) = events(user=name_of(manager), outcome="failed")
    assert (event["action"], event["outcome"], event["metadata"]["route"]) == ("access_denied", "failed", "other")


def test_wrong_passwords_are_in_the_trail_for_users_who_exist(web, as_user, events):
    name, nobody = name_of(as_user("reader", "VACS")), fresh_name("")
    for username in (name, nobody):
        refused = Client(web.url).post("/session", json={"username": username, "password": "wrong password here"})
        assert (refused.status_code, code(refused)) == (401, "bad_credentials")
    assert [event["metadata"] for event in events(user=name, action="sign_in_failed")] == [{"in_a_row": "1"}]
    assert events(user=nobody) == []


def test_requests_without_a_sign_in_are_not_events(tiers: RunningStack, web, events):
    client, before = Client(web.url), len(events(action="access_denied"))
    for path in ("/files", "/audit?since=2020-01-01", f"/files/{'0' * 32}"):
        assert client.get(path).status_code == 401
    make_user(tiers, "reader", "VACS")
    assert len(events(action="access_denied")) == before
