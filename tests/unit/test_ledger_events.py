"""The format of an event: what can be recorded, and the bytes that are hashed."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from chalicelib.errors import DigestMismatch, InvalidRequest
from nas_gateway.ledger import events
from nas_gateway.ledger.events import Action, Operation, Outcome, canonical, describe, event_hash, iso, shard_of

DOC = Path(__file__).parents[2] / "docs" / "ledger-format.md"
WHEN = datetime(2025, 3, 4, 5, 6, 7, 89, tzinfo=UTC)


def operation(**values: object) -> Operation:
    return Operation(**{"action": Action.FILE_UPLOADED_VIA_STREAM, "user": "ana", **values})  # type: ignore[arg-type]


def test_canonical_bytes_are_sorted_utf8_without_spaces_and_without_the_hash() -> None:
    event = {
        "user": "Åsa\u2028\U0001f600",
        "seq": 7,
        "cleanup_required": False,
        "hash": "x",
        "metadata": {"b": '"', "a": "\n"},
    }
    expected = '{"cleanup_required":false,"metadata":{"a":"\\n","b":"\\""},"seq":7,"user":"Åsa\u2028\U0001f600"}'
    assert canonical(event) == expected.encode()


@pytest.mark.parametrize("value", [1.0, None, b"x", ["x"], 2**53, {"a": 1}, {1: "a"}, float("nan")])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical({"field": value})


def test_a_lone_surrogate_has_no_canonical_form() -> None:
    with pytest.raises(ValueError):
        canonical({"field": "\ud800"})


def test_the_hash_covers_the_hash_before_it() -> None:
    event = {"seq": 2, "user": "ana"}
    independent = hashlib.sha256(b'{"prev_hash":"' + b"1" * 64 + b'","seq":2,"user":"ana"}').hexdigest()
    assert event_hash("1" * 64, event) == independent
    assert event_hash("2" * 64, event) != independent


def test_the_documented_example_has_the_documented_hash() -> None:
    lines = re.search(r"```json\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert lines
    for line in lines.group(1).splitlines():
        event = json.loads(line)
        assert event_hash(event["prev_hash"], event) == event["hash"]


def test_every_action_of_the_seeds_is_known() -> None:
    seeds = """file_uploaded_via_stream file_uploaded_chunked file_downloaded_via_stream file_deleted_via_api
        prefix_deleted_via_api workspace_cleanup nas_raw_created nas_raw_creation_failed work_copy_created
        work_copy_deleted conversion_started conversion_completed"""
    assert set(seeds.split()) | {"conversion_failed", "upload_aborted", "access_denied"} <= Action.KNOWN


@pytest.mark.parametrize(
    "values",
    [
        {"action": "file_teleported"},
        {"action": ""},
        {"user": "x" * 257},
        {"user": 7},
        {"cohort": "\ud800"},
        {"file_path": "p" * 1025},
        {"file_size": -1},
        {"file_size": 1.5},
        {"file_size": True},
        {"file_size": 2**53},
        {"metadata": {"a": 1}},
        {"metadata": {"a": "x" * 8192}},
        {"expected_cleanup_by": datetime(2025, 1, 1)},
    ],
)
def test_what_cannot_be_recorded_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        operation(**values)


def test_empty_text_counts_as_absent() -> None:
    assert operation(user="", cohort="", file_path="").to_json() == {
        "action": "file_uploaded_via_stream",
        "cleanup_required": False,
    }


def test_an_operation_survives_json() -> None:
    full = operation(
        cohort="VACS", file_id="f", upload_id="u", disk="d", file_path="p/ä", file_type="t", file_size=0, file_hash="h",
        content_object="Precheck:3", metadata={"a": "b"}, cleanup_required=True, expected_cleanup_by=WHEN,
        cleanup_scheduled_for=WHEN + timedelta(hours=1), request_id="r",
    )  # fmt: skip
    assert Operation.from_json(json.loads(json.dumps(full.to_json()))) == full
    assert Operation.from_json(operation(user=None).to_json()) == operation(user=None)


def test_times_are_utc_with_microseconds_whatever_they_came_in() -> None:
    berlin = timezone(timedelta(hours=2))
    assert iso(WHEN) == "2025-03-04T05:06:07.000089Z"
    assert iso(datetime(2025, 3, 4, 7, 6, 7, tzinfo=berlin)) == "2025-03-04T05:06:07.000000Z"
    assert operation(expected_cleanup_by=datetime(2025, 3, 4, 7, tzinfo=berlin)).to_json()["expected_cleanup_by"] == (
        "2025-03-04T05:00:00.000000Z"
    )


def test_an_uploads_events_share_a_shard_and_shards_are_used_evenly() -> None:
    assert shard_of(operation(upload_id="u1", file_id="a"), "t1") == shard_of(
        operation(upload_id="u1", file_id="b"), "t2"
    )
    assert shard_of(operation(file_id="a"), "t1") == shard_of(operation(file_id="a"), "t2")
    assert {shard_of(operation(), f"t{n}") for n in range(400)} == set(range(events.SHARDS))
    # As docs/ledger-format.md says: CRC-32 modulo 16.
    assert shard_of(operation(upload_id="upload-1"), "") == 4


def test_foreign_messages_are_not_kept() -> None:
    assert describe(OSError("/nas/VACS/secret.csv: no space")) == ("internal_error", "OSError")
    assert describe(DigestMismatch()) == ("digest_mismatch", DigestMismatch.default)
    assert describe("x" * 5000) == ("reported", "x" * events.MAX_MESSAGE_CHARS)


def test_outcomes_are_the_four_of_the_design() -> None:
    assert [str(item) for item in Outcome] == ["intent", "completed", "failed", "unknown"]
