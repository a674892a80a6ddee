"""The ledger as it is read over /internal/tracking: who did what to which file, when, how it ended."""

from datetime import UTC, datetime, timedelta

import pytest

from chalicelib.limits import MIB
from nas_gateway.ledger.chain import verify_chain
from tests.support.client import code, fresh_name


def test_a_files_life(web, events):
    told = web.upload(b"a,b\n" * 1000, headers={"X-Request-ID": "upload-request-1"}).json()
    web.content(told["file_id"])
    web.content(told["file_id"], headers={"Range": "bytes=0-9"})
    web.call("DELETE", f"/files/{told['file_id']}")
    history = events(file_id=told["file_id"])
    assert [(event["action"], event["outcome"], event["bytes_transferred"]) for event in history] == [
        ("file_uploaded_via_stream", "intent", 0),
        ("file_uploaded_via_stream", "completed", 4000),
        ("file_downloaded_via_stream", "intent", 0),
        ("file_downloaded_via_stream", "completed", 4000),
        ("file_downloaded_via_stream", "intent", 0),
        ("file_downloaded_via_stream", "completed", 10),
        ("file_deleted_via_api", "intent", 0),
        ("file_deleted_via_api", "completed", 0),
    ]
    done = history[1]
    assert done["tracking_id"] == told["tracking_id"]
    assert (done["file_hash"], done["file_size"], done["file_path"]) == (told["sha256"], 4000, told["path"])
    assert (done["cohort"], done["file_type"], done["user"]) == ("VACS", "patient", "admin")
    assert (done["server_role"], done["request_id"]) == ("services", "upload-request-1")
    assert done["stream_start"] <= done["stream_complete"]


def test_a_failed_upload_says_how_many_bytes_moved_and_why(web, events):
    cohort = fresh_name("")
    web.upload(b"x" * MIB, cohort=cohort, headers={"X-Content-SHA256": "0" * 64})
    intent, failed = events(cohort=cohort)
    assert (intent["outcome"], failed["outcome"]) == ("intent", "failed")
    assert (failed["bytes_transferred"], failed["error_code"]) == (MIB, "digest_mismatch")
    assert failed["error_message"]
    assert failed["tracking_id"] == intent["tracking_id"]


def test_temporary_copies_carry_their_deadline(web, events):
    told = web.upload(b"x", purpose="scratch").json()
    event = events(file_id=told["file_id"])[0]
    assert event["cleanup_required"] is True
    due = datetime.fromisoformat(event["expected_cleanup_by"])
    assert timedelta(hours=3) < due - datetime.now(UTC) <= timedelta(hours=4)
    assert event["cleanup_scheduled_for"] == event["expected_cleanup_by"]


def test_questions_by_cohort_user_action_and_time(web, as_user, events):
    cohort = fresh_name("")
    begun = datetime.now(UTC).isoformat()
    manager = as_user("cohort_manager", cohort)
    name = manager.get("/session").json()["username"]
    first = manager.upload(b"1", cohort=cohort).json()
    second = manager.upload(b"2", cohort=cohort).json()
    both = {first["file_id"], second["file_id"]}
    for question in (
        {"cohort": cohort},
        {"user": name},
        {"user": name, "action": "file_uploaded_via_stream"},
        {"action": "file_uploaded_via_stream", "since": begun, "cohort": cohort},
        {"since": begun, "user": name},
    ):
        found = {event.get("file_id") for event in events(**question)} - {None}  # signing in is an event, too
        assert found == both, question
    assert events(cohort=cohort, since=(datetime.now(UTC) + timedelta(hours=1)).isoformat()) == []


def test_paging_gives_every_event_once(web, services):
    cohort = fresh_name("")
    for _ in range(4):
        web.upload(b"x", cohort=cohort)
    seen, cursor = [], None
    while True:
        params = {"cohort": cohort, "limit": "3", **({"cursor": cursor} if cursor else {})}
        page = services.get("/internal/tracking", params=params).json()
        assert len(page["events"]) <= 3
        seen += [event["event_id"] for event in page["events"]]
        if (cursor := page["cursor"]) is None:
            break
    assert len(seen) == len(set(seen)) == 8


@pytest.mark.parametrize("params", [{}, {"since": "yesterday"}, {"cohort": "VACS", "cursor": "garbage"}])
def test_bad_questions_are_a_clear_400(services, params):
    answer = services.get("/internal/tracking", params=params)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


def test_a_denial_is_an_event(services, as_user, events):
    token = as_user("uploader", "MINE").session.headers["Authorization"].removeprefix("Bearer ")
    path = f"submissions/THEIRS/2024/patient/{fresh_name()}"
    services.post(
        "/internal/storage/upload",
        params={"disk": "submissions", "path": path},
        data=b"x",
        headers={"X-Depot-Assertion": token},
    )
    denied = [event for event in events(action="access_denied") if event.get("file_path") == path]
    assert [(event["outcome"], event["cohort"]) for event in denied] == [("failed", "THEIRS")]


def test_the_chains_of_all_that_happened_verify(web, events):
    """Whatever the other tests did: contiguous, and each event holds the hash of the one before it."""
    web.upload(b"x")
    told = events(since=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
    assert len(told) > 2
    ordered = sorted(told, key=lambda event: (event["shard"], event["seq"]))
    report = verify_chain(ordered)
    assert report.fault is None
    assert report.events == len(told)
