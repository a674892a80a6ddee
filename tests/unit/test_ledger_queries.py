"""Every question has its index, pages are exact, cursors cannot be bent, and nothing scans (moto in this process)."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chalicelib.errors import InvalidRequest, LedgerUnavailable
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import Action, Outcome
from nas_gateway.ledger.ledger import Ledger
from nas_gateway.ledger.queries import EventPage, failed, open_operations, query, to_json
from nas_gateway.ledger.tables import OpenOperation, PHIFileTracking
from tests.support.ledger_env import LedgerFactory, moto_tables, upload

START = datetime(2025, 1, 30, tzinfo=UTC)
END = START + timedelta(days=6)
EVENTS = 60


class Clock:
    """Every look is an hour later. An event takes two looks, so the 60 fall on six days."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(hours=1)
        return self.now


@pytest.fixture(scope="module")
def aws() -> Iterator[LedgerFactory]:
    """60 single events, two hours apart, over six days."""
    with moto_tables() as factory:
        clock = Clock()
        ledger: Ledger = factory(clock)
        for number in range(EVENTS):
            operation = upload(
                user=["ana", "bob", None][number % 3],
                cohort=["VACS", "HOPE"][number % 2],
                file_id=f"file-{number % 5}",
                action=[Action.FILE_UPLOADED_VIA_STREAM, Action.FILE_DOWNLOADED_VIA_STREAM][number % 4 == 0],
                metadata={"n": str(number)},
            )
            ledger.record(operation, Outcome.FAILED if number % 10 == 7 else Outcome.COMPLETED)
        yield factory


@pytest.fixture
def calls(aws: LedgerFactory) -> Iterator[Counter[str]]:
    """DynamoDB operations as botocore sends them while the test runs."""
    seen: Counter[str] = Counter()
    clients = list({model._get_connection().connection.client for model in (PHIFileTracking, OpenOperation)})
    hooks = [lambda model, **_: seen.update([model.name]) for _ in clients]
    for client, hook in zip(clients, hooks, strict=True):
        client.meta.events.register("before-call.dynamodb", hook)
    yield seen
    for client, hook in zip(clients, hooks, strict=True):
        client.meta.events.unregister("before-call.dynamodb", hook)
    assert set(seen) <= {"Query"}


def numbers(events: list[PHIFileTracking]) -> list[int]:
    return [int(event.metadata["n"]) for event in events]


def all_pages(ask: Callable[..., EventPage], **question: Any) -> tuple[list[int], int]:
    found: list[int] = []
    pages, cursor = 0, None
    while True:
        page = ask(**question, cursor=cursor)
        found += numbers(page.events)
        pages += 1
        if page.cursor is None:
            return found, pages
        cursor = page.cursor


@pytest.mark.parametrize(
    ("question", "matches"),
    [
        ({"file_id": "file-2"}, lambda n: n % 5 == 2),
        ({"cohort": "VACS"}, lambda n: n % 2 == 0),
        ({"user": "bob"}, lambda n: n % 3 == 1),
        ({"action": Action.FILE_DOWNLOADED_VIA_STREAM}, lambda n: n % 4 == 0),
        ({"since": START, "until": END}, lambda n: True),
        ({"file_id": "file-2", "cohort": "HOPE", "user": "ana"}, lambda n: n % 5 == 2 and n % 2 == 1 and n % 3 == 0),
        ({"cohort": "VACS", "action": Action.FILE_UPLOADED_VIA_STREAM}, lambda n: n % 2 == 0 and n % 4 != 0),
        ({"since": START, "until": END, "outcome": Outcome.FAILED}, lambda n: n % 10 == 7),
        ({"cohort": "HOPE", "outcome": Outcome.FAILED}, lambda n: n % 10 == 7),
        ({"user": "nobody"}, lambda n: False),
    ],
)
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_each_question_finds_exactly_its_events_in_order_of_time(
    calls: Counter[str], question: dict[str, Any], matches: Callable[[int], bool], limit: int
) -> None:
    found, _ = all_pages(query, **question, limit=limit)
    assert found == [n for n in range(EVENTS) if matches(n)]


def test_one_question_by_an_index_is_one_call(calls: Counter[str]) -> None:
    assert len(query(cohort="VACS").events) == 30
    assert calls == {"Query": 1}


def test_a_page_never_holds_more_than_asked_even_when_a_filter_reads_ahead(calls: Counter[str]) -> None:
    page = query(cohort="VACS", user="ana", limit=3)
    assert numbers(page.events) == [0, 6, 12]
    assert calls == {"Query": 1}
    assert page.cursor is not None
    assert numbers(query(cohort="VACS", user="ana", limit=3, cursor=page.cursor).events) == [18, 24, 30]


@pytest.mark.parametrize("selector", [{}, {"cohort": "VACS"}])
def test_since_is_inclusive_and_until_is_not(calls: Counter[str], selector: dict[str, str]) -> None:
    every, _ = all_pages(query, **selector, since=START, until=END, limit=1000)
    events = query(**selector, since=START, until=END, limit=1000).events
    first, last = events[3].at, events[9].at
    assert numbers(query(**selector, since=first, until=last).events) == every[3:9]
    if selector:
        assert numbers(query(**selector, until=last).events) == every[:9]


def test_a_tracking_id_finds_intent_and_outcome(aws: LedgerFactory, calls: Counter[str]) -> None:
    ledger = aws(lambda: datetime(2024, 1, 1, tzinfo=UTC))  # apart from the others; the clock stands still
    intent = ledger.begin(upload(file_id="apart", user="eve", cohort=None, action=Action.UPLOAD_ABORTED))
    ledger.finish(intent, Outcome.COMPLETED)
    found = query(tracking_id=intent.tracking_id).events
    assert [event.outcome for event in found] == ["intent", "completed"]


def test_failed_events_have_an_index_of_their_own(calls: Counter[str]) -> None:
    found, _ = all_pages(failed, since=START, until=END, limit=2)
    assert found == [7, 17, 27, 37, 47, 57]


def test_a_walk_over_empty_days_stops_and_goes_on(calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MAX_QUERIES", 5)
    early = START - timedelta(days=12)
    page = query(since=early, until=END)
    assert page.events == []
    assert page.cursor is not None
    assert calls == {"Query": 5}
    found, pages = all_pages(query, since=early, until=END, limit=1000)
    assert found == list(range(EVENTS))
    assert pages == 4


@pytest.mark.parametrize("outcome", [None, Outcome.FAILED])
def test_a_walk_from_long_ago_begins_where_the_ledger_does(calls: Counter[str], outcome: Outcome | None) -> None:
    page = query(since=START - timedelta(days=4000), until=END, outcome=outcome, limit=1000)
    assert len(page.events) == (EVENTS if outcome is None else 6)
    assert page.cursor is None
    assert calls == {"Query": 16 + 8}  # a shard each, the day before, six days, the one it ends on
    assert query(since=START - timedelta(days=4000), until=START - timedelta(days=3900)).events == []


def test_cursors_hold_no_names_and_fit_their_question_only() -> None:
    cursor = query(cohort="VACS", limit=2).cursor
    assert cursor is not None
    assert b"VACS" not in base64.urlsafe_b64decode(cursor + "==")
    for other in (
        {"cohort": "HOPE"},
        {"user": "ana"},
        {"cohort": "VACS", "user": "ana"},
        {"cohort": "VACS", "since": START},
    ):
        with pytest.raises(InvalidRequest):
            query(**other, cursor=cursor)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", ["x", "!!!!", "äöü", "AAAA", base64.b64encode(b"\xff" * 40).decode(), "e30", "A" * 5000]
)
def test_a_bad_cursor_is_refused(bad: str) -> None:
    for ask in (lambda: query(cohort="VACS", cursor=bad), lambda: query(since=START, cursor=bad)):
        with pytest.raises(InvalidRequest):
            ask()


def test_a_cursor_that_was_bent_is_refused() -> None:
    good = base64.urlsafe_b64decode((query(since=START, limit=2).cursor or "") + "==").decode()
    for place in ("2025-02-31", "2025-99-99T00:00:00.000000Z#01-000000000000001", "2025-01-30T", "9" * 40):
        bent = base64.urlsafe_b64encode((good[:16] + place).encode()).decode().rstrip("=")
        with pytest.raises(InvalidRequest):
            query(since=START, cursor=bent)


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"until": START},
        {"outcome": Outcome.FAILED},
        {"cohort": ""},
        {"cohort": "x" * 257},
        {"cohort": "VACS", "limit": 0},
        {"cohort": "VACS", "limit": 1001},
        {"cohort": "VACS", "limit": True},
        {"cohort": "VACS", "since": datetime(2025, 1, 1)},
        {"since": START, "until": START},
        {"since": START, "until": START - timedelta(days=3)},
    ],
)
def test_a_bad_question_is_refused(calls: Counter[str], question: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        query(**question)
    assert not calls


def test_open_operations_are_listed_by_age(aws: LedgerFactory, calls: Counter[str]) -> None:
    clock = Clock()
    clock.now = datetime(2026, 1, 1, tzinfo=UTC)
    ledger = aws(clock)
    intents = [ledger.begin(upload(cohort="OPEN", action=Action.UPLOAD_ABORTED)) for _ in range(5)]
    ledger.finish(intents[2], Outcome.COMPLETED)
    calls.clear()
    assert list(open_operations()) == [intents[0], intents[1], intents[3], intents[4]]
    assert calls == {"Query": 16}
    assert list(open_operations(older_than=intents[3].stream_start)) == intents[:2]


def test_an_event_as_json_is_what_is_hashed() -> None:
    event = query(cohort="VACS", limit=1).events[0]
    assert to_json(event) == event.to_dict()
    assert to_json(event)["at"] == "2025-01-30T02:00:00.000000Z"
    assert not {"at_key", "day", "failed_day"} & set(to_json(event))


def test_an_unreadable_ledger_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = PHIFileTracking._get_connection()
    monkeypatch.setattr(connection, "table_name", "gone")
    connection.connection._tables["gone"] = connection.connection._tables[PHIFileTracking.Meta.table_name]  # type: ignore[attr-defined]
    monkeypatch.setattr(PHIFileTracking.Meta, "table_name", "gone")
    with pytest.raises(LedgerUnavailable):
        query(cohort="VACS")
