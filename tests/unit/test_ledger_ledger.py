"""Intents, outcomes and single events, with the caller's changes in the same transaction (moto in this process)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pynamodb.transactions import TransactWrite

from chalicelib.errors import InvalidRequest, LedgerUnavailable, OperationEnded, StorageFull
from nas_gateway.ledger.chain import verify_chain
from nas_gateway.ledger.events import Action, Outcome
from nas_gateway.ledger.ledger import ChangeRefused, Ledger
from nas_gateway.ledger.tables import OpenOperation, PHIFileTracking, set_default
from nas_gateway.ledger.transaction import MAX_CHANGES
from tests.support.ledger_cost import event_units, row_units
from tests.support.ledger_env import LedgerFactory, Row, all_events, moto_tables, upload

START = datetime(2025, 1, 1, tzinfo=UTC)


class Clock:
    """Moves on by a second at every look."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture(scope="module")
def aws() -> Iterator[LedgerFactory]:
    with moto_tables() as factory:
        yield factory


@pytest.fixture(autouse=True)
def make(aws: LedgerFactory) -> Iterator[LedgerFactory]:
    aws.empty()
    yield aws
    set_default(None)


@pytest.fixture
def ledger(make: LedgerFactory) -> Ledger:
    return make(Clock())


def events() -> list[dict[str, Any]]:
    found = list(all_events())
    assert verify_chain(found).ok
    return found


def test_an_operation_leaves_an_intent_and_an_outcome_in_one_chain(ledger: Ledger) -> None:
    operation = upload()
    intent = ledger.begin(operation)
    done = ledger.finish(intent, Outcome.COMPLETED, bytes_transferred=123_456_789, file_hash="ab")
    first, second = events()
    assert (first["outcome"], second["outcome"]) == ("intent", "completed")
    assert first["tracking_id"] == second["tracking_id"] == intent.tracking_id == done.tracking_id
    assert first["event_id"] != second["event_id"]
    assert first["stream_start"] == second["stream_start"] == "2025-01-01T00:00:01.000000Z"
    assert "stream_complete" not in first
    assert second["stream_complete"] > second["stream_start"]
    assert (second["bytes_transferred"], second["file_hash"]) == (123_456_789, "ab")
    assert second["server_role"] == "services"
    for name in ("user", "cohort", "file_id", "upload_id", "disk", "file_path", "file_type", "file_size", "request_id"):
        assert first[name] == second[name] == getattr(operation, name)
    assert done.to_dict() == second


def test_there_is_never_a_second_outcome(ledger: Ledger, make: LedgerFactory) -> None:
    intent = ledger.begin(upload())
    ledger.finish(intent, Outcome.FAILED)
    for other in (ledger, make()):
        with pytest.raises(OperationEnded):
            other.finish(intent, Outcome.COMPLETED)
    assert [event["outcome"] for event in events()] == ["intent", "failed"]


def test_an_outcome_can_change_size_action_and_metadata(ledger: Ledger) -> None:
    intent = ledger.begin(upload(file_size=None, metadata={"a": "1", "b": "1"}))
    ledger.finish(
        intent, Outcome.COMPLETED, file_size=0, action=Action.FILE_UPLOADED_CHUNKED, metadata={"b": "2", "c": "3"}
    )
    first, second = events()
    assert "file_size" not in first
    assert (second["file_size"], second["action"]) == (0, "file_uploaded_chunked")
    assert second["metadata"] == {"a": "1", "b": "2", "c": "3"}


def test_a_failure_is_told_by_code_and_without_foreign_text(ledger: Ledger) -> None:
    ledger.finish(ledger.begin(upload()), Outcome.FAILED, error=StorageFull(), bytes_transferred=17)
    ledger.finish(ledger.begin(upload()), Outcome.UNKNOWN, error=OSError("/nas/VACS/secret.csv"))
    told = {
        (e.get("error_code"), e.get("error_message"), e["bytes_transferred"])
        for e in events()
        if e["outcome"] != "intent"
    }
    assert told == {("storage_full", StorageFull.default, 17), ("internal_error", "OSError", 0)}


def test_an_open_intent_can_be_taken_up_by_another_process(ledger: Ledger, make: LedgerFactory) -> None:
    operation = upload(metadata={"a": "b"}, cleanup_required=True, expected_cleanup_by=START + timedelta(hours=4))
    intent = ledger.begin(operation)
    other = make()
    found = other.open_intent(intent.tracking_id)
    assert found == intent
    other.finish(found, Outcome.UNKNOWN)
    assert ledger.open_intent(intent.tracking_id) is None
    assert ledger.open_intent("never heard of") is None
    assert ledger.open_intent("") is None


def test_an_intent_is_neither_finished_nor_recorded_as_an_outcome(ledger: Ledger) -> None:
    intent = ledger.begin(upload())
    with pytest.raises(ValueError):
        ledger.finish(intent, Outcome.INTENT)
    with pytest.raises(ValueError):
        ledger.record(upload(), Outcome.INTENT)


def test_a_single_event_opens_nothing(ledger: Ledger) -> None:
    ledger.record(upload(action=Action.ACCESS_DENIED, user=None, cohort=None, upload_id=None), Outcome.FAILED)
    (event,) = events()
    assert event["outcome"] == "failed"
    assert "user" not in event
    assert "cohort" not in event
    assert ledger.open_intent(event["tracking_id"]) is None


@pytest.mark.parametrize("count", [-1, 1.5, True, 2**53])
def test_bytes_are_counted_in_whole_numbers(ledger: Ledger, count: Any) -> None:
    with pytest.raises(InvalidRequest):
        ledger.finish(ledger.begin(upload()), Outcome.COMPLETED, bytes_transferred=count)


def test_the_callers_changes_are_written_with_the_event(ledger: Ledger) -> None:
    def changes(transaction: TransactWrite) -> None:
        transaction.save(Row("a", n=1), condition=Row.id.does_not_exist())
        transaction.update(Row("b"), actions=[Row.n.set(2)])

    ledger.finish(ledger.begin(upload(), changes=changes), Outcome.COMPLETED, changes=lambda t: t.delete(Row("a")))
    assert Row.get("b").n == 2
    with pytest.raises(Row.DoesNotExist):
        Row.get("a")


@pytest.mark.parametrize("bad", range(5))
@pytest.mark.parametrize("call", ["begin", "finish", "record"])
def test_a_refused_change_is_named_by_the_order_it_was_added_and_nothing_is_written(
    ledger: Ledger, call: str, bad: int
) -> None:
    # Added in an order that differs from the one PynamoDB sends: checks, deletes, puts, updates.
    absent, present = Row.id.does_not_exist(), Row.id.exists()
    condition = [present if number == bad else absent for number in range(5)]

    def changes(transaction: TransactWrite) -> None:
        transaction.update(Row("0"), actions=[Row.n.set(1)], condition=condition[0])
        transaction.save(Row("1"), condition=condition[1])
        transaction.delete(Row("2"), condition=condition[2])
        transaction.condition_check(Row, "3", condition=condition[3])
        transaction.save(Row("4"), condition=condition[4])

    intent = ledger.begin(upload())
    before = events()
    calls = {
        "begin": lambda: ledger.begin(upload(), changes=changes),
        "finish": lambda: ledger.finish(intent, Outcome.COMPLETED, changes=changes),
        "record": lambda: ledger.record(upload(), changes=changes),
    }
    with pytest.raises(ChangeRefused) as refused:
        calls[call]()
    assert refused.value.index == bad
    assert events() == before
    assert Row.count() == 0
    assert OpenOperation.count() == 1
    ledger.finish(intent, Outcome.COMPLETED)  # the refusal left nothing behind that stands in the way
    assert len(events()) == 2


def test_more_changes_than_a_transaction_holds_are_refused_at_once(ledger: Ledger) -> None:
    def changes(transaction: TransactWrite) -> None:
        for number in range(MAX_CHANGES + 1):
            transaction.save(Row(str(number)))

    with pytest.raises(ValueError, match="98"):
        ledger.begin(upload(), changes=changes)
    assert events() == []


def test_without_tables_nothing_moves(ledger: Ledger) -> None:
    PHIFileTracking.delete_table()
    with pytest.raises(LedgerUnavailable):
        ledger.begin(upload())


def test_a_typical_upload_costs_what_the_document_says(ledger: Ledger) -> None:
    intent = ledger.begin(upload())
    row = OpenOperation.get(intent.tracking_id)
    done = ledger.finish(intent, Outcome.COMPLETED, bytes_transferred=123_456_789, file_hash="0" * 64)
    assert event_units(done) + row_units(row) == 11  # an event beyond 1 KiB would cost twice as much
    assert event_units(PHIFileTracking.get(done.shard, done.seq - 1)) + row_units(row) == 11


# --- the seeds' calls -------------------------------------------------------------------------------------------


class Precheck:
    id = 12


def test_log_operation_takes_what_the_seeds_pass(ledger: Ledger) -> None:
    set_default(ledger)
    event = PHIFileTracking.log_operation(
        cohort="VACS", user="ana", action="nas_raw_created", file_path="submissions/x.csv", file_type="patient",
        file_size=3, file_hash="ab", content_object=Precheck(), metadata={"rows": 7, "note": "n"},
    )  # fmt: skip
    (stored,) = events()
    assert event.to_dict() == stored
    assert stored["outcome"] == "completed"
    assert stored["content_object"] == "Precheck:12"
    assert stored["metadata"] == {"rows": "7", "note": "n"}


def test_log_operation_of_a_failure(ledger: Ledger) -> None:
    set_default(ledger)
    PHIFileTracking.log_operation(action="nas_raw_creation_failed", user="ana", error_message="disk gone")
    PHIFileTracking.log_operation(action="nas_raw_created", user="ana", error_message=OSError("/nas/secret"))
    assert {(e["outcome"], e["error_message"]) for e in events()} == {("failed", "disk gone"), ("failed", "OSError")}


def test_marking_as_cleaned_up_appends_and_rewrites_nothing(ledger: Ledger) -> None:
    set_default(ledger)
    made = PHIFileTracking.log_operation(
        action="work_copy_created", user="ana", cohort="VACS", file_path="scratch/x", cleanup_required=True,
        expected_cleanup_by=START, file_size=5,
    )  # fmt: skip
    before = made.to_dict()
    gone = made.mark_cleaned_up(user="bob")
    assert (gone.action, gone.user, gone.cohort, gone.file_path) == ("work_copy_deleted", "bob", "VACS", "scratch/x")
    assert gone.metadata == {"cleans": made.tracking_id}
    assert PHIFileTracking.get(made.shard, made.seq).to_dict() == before
    assert len(events()) == 2


def test_log_operation_without_a_ledger_says_so() -> None:
    with pytest.raises(LedgerUnavailable):
        PHIFileTracking.log_operation(action="nas_raw_created", user="ana")
