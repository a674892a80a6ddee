"""What DynamoDB and the network do to an append, and what the caller is told (real MiniStack behind a failing proxy)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from pynamodb.transactions import TransactWrite

from chalicelib.errors import LedgerUnavailable, OperationEnded
from nas_gateway.ledger import append, queries
from nas_gateway.ledger.append import CHASES, STREAK, TRANSPORT_ATTEMPTS, YIELDS, ChangeRefused
from nas_gateway.ledger.chain import verify_chain
from nas_gateway.ledger.events import Operation, Outcome, utcnow
from nas_gateway.ledger.ledger import Ledger
from tests.support.ledger_env import LedgerFactory, Row, all_events, real_tables, upload
from tests.support.ledger_proxy import Call, DynamoProxy, Fault, cancel, deny, drop_reply, drop_request, throttle
from tests.support.ministack import free_port

WRITE = "TransactWriteItems"
HOT = "one-upload"


@pytest.fixture(scope="module")
def stack(ministack_url: str) -> Iterator[tuple[DynamoProxy, LedgerFactory]]:
    with DynamoProxy(ministack_url) as proxy, real_tables(proxy.url) as factory:
        yield proxy, factory


@pytest.fixture
def proxy(stack: tuple[DynamoProxy, LedgerFactory]) -> DynamoProxy:
    """In front of empty tables, without faults."""
    proxy, factory = stack
    proxy.reset()
    factory.empty()
    proxy.forget()
    return proxy


@pytest.fixture
def make(stack: tuple[DynamoProxy, LedgerFactory], proxy: DynamoProxy) -> LedgerFactory:
    """Each ledger it makes stands for a process of its own: it knows no heads."""
    return stack[1]


@pytest.fixture
def ledger(make: LedgerFactory, proxy: DynamoProxy) -> Ledger:
    """Knows the head of the shard that the tests write to: its next append is one call."""
    ledger = make()
    ledger.record(operation())
    proxy.forget()
    return ledger


def operation() -> Operation:
    return upload(upload_id=HOT)


def outcomes() -> list[str]:
    """The outcomes after the first event, whose chain is checked on the way."""
    found = list(all_events())
    assert verify_chain(found).ok
    return [event["outcome"] for event in found][1:]


def once(transaction: TransactWrite) -> None:
    transaction.update(Row("n"), actions=[Row.n.add(1)])


# --- what it costs when nothing goes wrong ----------------------------------------------------------------------


def test_an_upload_costs_one_call_before_and_one_after(ledger: Ledger, proxy: DynamoProxy) -> None:
    intent = ledger.begin(operation(), changes=once)
    assert proxy.count() == {WRITE: 1}
    ledger.finish(intent, Outcome.COMPLETED, changes=once)
    assert proxy.count() == {WRITE: 2}


def test_a_process_that_just_started_reads_the_head_first(
    ledger: Ledger, proxy: DynamoProxy, make: LedgerFactory
) -> None:
    make().begin(operation())
    assert proxy.count() == {"Query": 1, WRITE: 1}


def test_nothing_ever_scans(ledger: Ledger, proxy: DynamoProxy) -> None:
    hour = timedelta(hours=1)
    intent = ledger.begin(operation())
    assert ledger.open_intent(intent.tracking_id) == intent
    ledger.finish(intent, Outcome.FAILED)
    asked: list[dict[str, Any]] = [
        {"file_id": "f"}, {"cohort": "VACS"}, {"user": "ana"}, {"action": "upload_aborted"}, {"since": utcnow() - hour},
        {"tracking_id": intent.tracking_id}, {"cohort": "VACS", "user": "ana", "outcome": Outcome.FAILED},
    ]  # fmt: skip
    for question in asked:
        queries.query(**question)
    assert len(queries.failed(since=utcnow() - hour).events) == 1
    assert list(queries.open_operations(older_than=utcnow())) == []
    assert set(proxy.count()) == {WRITE, "GetItem", "Query"}
    read = {call.body["TableName"] for call in proxy.calls if call.target == "GetItem"}
    assert all(name.endswith("open-operations") for name in read)  # events are put and queried, nothing else


# --- failures before and after the commit -----------------------------------------------------------------------


@pytest.mark.parametrize("forget_tokens", [False, True], ids=["token kept", "token ignored"])
@pytest.mark.parametrize("call", ["begin", "finish"])
def test_a_lost_answer_neither_loses_nor_doubles(
    ledger: Ledger, proxy: DynamoProxy, call: str, forget_tokens: bool
) -> None:
    proxy.forget_tokens = forget_tokens
    intent = ledger.begin(operation()) if call == "finish" else None
    proxy.faults.append(drop_reply(WRITE, 2))
    if intent is None:
        ledger.begin(operation(), changes=once)
    else:
        ledger.finish(intent, Outcome.COMPLETED, changes=once)
    # A store that keeps tokens answers as if nothing had happened; otherwise its refusal shows that it is our own that stands.
    assert proxy.count()["Query"] == 0
    proxy.faults.clear()
    assert outcomes() == (["intent"] if intent is None else ["intent", "completed"])
    assert Row.get("n").n == 1
    ledger.record(operation())  # and the head it remembers is right
    assert outcomes()[-1] == "completed"


@pytest.mark.parametrize(
    "fault",
    [
        drop_request(WRITE, 2),
        throttle(WRITE, 4),
        cancel("TransactionConflict", times=4),
        cancel("ThrottlingError", times=4),
        cancel("ProvisionedThroughputExceeded", times=4),
    ],
    ids=["connection lost", "throttled", "conflict", "throttled inside", "capacity"],
)
def test_what_passes_is_waited_for(ledger: Ledger, proxy: DynamoProxy, fault: Fault) -> None:
    times = fault.times
    proxy.faults.append(fault)
    try:
        ledger.begin(operation(), changes=once)
        assert proxy.count() == {WRITE: times + 1}
    finally:
        fault.times = times
        proxy.faults.clear()
    assert outcomes() == ["intent"]
    assert Row.get("n").n == 1


def test_another_may_write_between_our_commit_and_our_retry(
    ledger: Ledger, proxy: DynamoProxy, make: LedgerFactory
) -> None:
    other, tries = make(), Counter[str]()
    proxy.forget_tokens = True

    def interfere(call: Call) -> None:
        if call.target == WRITE and "mine" in str(call.body):
            tries["mine"] += 1
            if tries["mine"] == 2:  # the retry: our first has been committed
                other.record(operation())

    proxy.before = interfere
    proxy.faults.append(drop_reply(WRITE))
    event = ledger.record(upload(upload_id=HOT, user="mine"))
    assert tries["mine"] == 2
    stored = [found for found in all_events() if found.get("user") == "mine"]
    assert [found["seq"] for found in stored] == [event.seq] == [2]
    ledger.record(operation())
    assert len(outcomes()) == 3


def test_a_lost_race_is_run_again_at_the_next_place(ledger: Ledger, proxy: DynamoProxy, make: LedgerFactory) -> None:
    other = make()
    other.record(operation())  # our ledger does not know of it
    proxy.forget()
    event = ledger.record(operation(), changes=once)
    assert event.seq == 3
    assert Row.get("n").n == 1
    assert proxy.count() == {WRITE: 2, "GetItem": 1, "Query": 1}  # GetItem is the row's, just above
    (read,) = [call.body for call in proxy.calls if call.target == "Query"]
    assert read["ConsistentRead"]
    proxy.forget()
    ledger.record(operation())  # another writes here: look first
    ledger.record(operation())  # nobody did: believe the memory again
    assert proxy.count() == {WRITE: 2, "Query": 1}
    assert len(outcomes()) == 4


def interfering(proxy: DynamoProxy, other: Ledger, times: int) -> None:
    """Before each of the next `times` writes of the user "mine", another process is faster."""
    left = [times]

    def interfere(call: Call) -> None:
        if call.target == WRITE and "mine" in str(call.body) and left[0]:
            left[0] -= 1
            other.record(operation())

    proxy.before = interfere


@pytest.mark.parametrize(("faster", "looks"), [(1, 1), (CHASES, 1), (CHASES + 1, 2)])
def test_who_just_looked_and_lost_goes_on_from_what_the_refusal_shows(
    ledger: Ledger, proxy: DynamoProxy, make: LedgerFactory, faster: int, looks: int
) -> None:
    interfering(proxy, ledger, faster)
    late = make()
    proxy.forget()
    event = late.record(upload(upload_id=HOT, user="mine"), changes=once)
    calls = [call for call in proxy.calls if call.target == "Query" or "mine" in str(call.body)]
    assert Counter(call.target for call in calls)[WRITE] == faster + 1
    # The winner, who does not know of it, never reads.
    assert proxy.count()["Query"] == looks
    assert event.seq == 2 + faster
    assert Row.get("n").n == 1
    assert len(outcomes()) == faster + 1


def test_a_store_that_shows_nothing_with_a_refusal_is_asked(
    ledger: Ledger, proxy: DynamoProxy, make: LedgerFactory
) -> None:
    proxy.hide_items = True
    interfering(proxy, ledger, 1)
    late = make()
    proxy.forget()
    assert late.record(upload(upload_id=HOT, user="mine"), changes=once).seq == 3
    assert proxy.count()["Query"] == 2
    proxy.faults.append(drop_reply(WRITE))
    proxy.forget_tokens = True
    assert late.record(upload(upload_id=HOT, user="mine")).seq == 4
    assert len(outcomes()) == 3


def test_who_keeps_winning_looks_up_now_and_then(ledger: Ledger, proxy: DynamoProxy) -> None:
    for _ in range(STREAK):
        ledger.record(operation())
    assert proxy.count() == {WRITE: STREAK}
    ledger.record(operation())
    assert proxy.count() == {WRITE: STREAK + 1, "Query": 1}
    proxy.forget()
    ledger.record(operation())
    assert proxy.count() == {WRITE: 1}


def test_only_who_lost_seldom_waits_before_the_next_place(
    proxy: DynamoProxy, make: LedgerFactory, ledger: Ledger
) -> None:
    pauses: list[float] = []
    late = Ledger(server_role="services", appender=append.Appender(table=make.table, pause=pauses.append))
    interfering(proxy, ledger, YIELDS + 2)
    late.record(upload(upload_id=HOT, user="mine"))
    assert len(pauses) == YIELDS + 2
    assert all(pause > 0 for pause in pauses[: YIELDS - 1])
    assert pauses[YIELDS - 1 :] == [0, 0, 0]


def test_a_refusal_in_a_lost_race_is_still_told(ledger: Ledger, proxy: DynamoProxy, make: LedgerFactory) -> None:
    make().record(operation())
    with pytest.raises(ChangeRefused) as refused:
        ledger.begin(operation(), changes=lambda t: t.save(Row("x"), condition=Row.id.exists()))
    assert refused.value.index == 0
    assert len(outcomes()) == 1


# --- a ledger that cannot be written ----------------------------------------------------------------------------


def test_a_dead_endpoint_is_told_after_a_few_tries(proxy: DynamoProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{free_port()}")
    pauses: list[float] = []
    ledger = Ledger(server_role="services", appender=append.Appender(table=append.connect(), pause=pauses.append))
    with pytest.raises(LedgerUnavailable):
        ledger.begin(operation())
    assert len(pauses) == TRANSPORT_ATTEMPTS - 1
    assert sum(pauses) < 1


def test_a_refusing_store_is_asked_once(ledger: Ledger, proxy: DynamoProxy) -> None:
    proxy.faults.append(deny(WRITE))
    with pytest.raises(LedgerUnavailable):
        ledger.begin(operation())
    assert proxy.count() == {WRITE: 1}


def test_endless_throttling_ends(ledger: Ledger, proxy: DynamoProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "BUDGET", 0.2)
    proxy.faults.append(throttle(WRITE, float("inf")))
    with pytest.raises(LedgerUnavailable):
        ledger.begin(operation())
    proxy.faults.clear()
    assert outcomes() == []


def test_after_an_unknown_end_the_truth_can_be_asked(ledger: Ledger, proxy: DynamoProxy) -> None:
    intent = ledger.begin(operation())
    proxy.faults.append(drop_reply(WRITE, TRANSPORT_ATTEMPTS))
    with pytest.raises(LedgerUnavailable):
        ledger.finish(intent, Outcome.COMPLETED)
    with pytest.raises(OperationEnded):
        ledger.finish(intent, Outcome.COMPLETED)
    assert outcomes() == ["intent", "completed"]


def test_who_waits_too_long_for_a_shard_is_told(
    ledger: Ledger, proxy: DynamoProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, release = threading.Event(), threading.Event()

    def hold(call: Call) -> None:
        if call.target == WRITE:
            reached.set()
            release.wait(20)

    proxy.before = hold
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ledger.begin, operation())
        assert reached.wait(20)
        monkeypatch.setattr(append, "BUDGET", 0.05)
        with pytest.raises(LedgerUnavailable):
            ledger.begin(operation())
        release.set()
        first.result()
    assert proxy.count() == {WRITE: 1}
    assert outcomes() == ["intent"]
