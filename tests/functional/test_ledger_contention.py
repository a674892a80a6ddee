"""Many writers, several processes, one ledger: nothing lost, nothing doubled, every chain whole (real MiniStack)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chalicelib.errors import LedgerUnavailable, OperationEnded
from nas_gateway.ledger.chain import verify_chain
from nas_gateway.ledger.events import Intent, Outcome
from nas_gateway.ledger.ledger import Ledger
from tests.support.ledger_env import all_events, fresh_tables, real_tables, upload, use_endpoint
from tests.support.ledger_proxy import Call, DynamoProxy, Fault, cancel, drop_reply, drop_request, throttle
from tests.support.ledger_writer import write_all
from tests.support.ministack import CREDENTIALS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def prefix(ministack_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    use_endpoint(monkeypatch, ministack_url)
    return fresh_tables()


def test_threads_and_processes_write_at_once(prefix: str, ministack_url: str) -> None:
    all_write_at_once(prefix, ministack_url, processes=2, threads=4, here=16, events=40, hot=2)


# Events of each of 64 writers. 1,000 by hand: LEDGER_EVENTS=1000.
EVENTS = int(os.environ.get("LEDGER_EVENTS", "25"))
# Who writes in several processes reads the head of a chain again and again, and MiniStack looks at every event of the chain for
# that (DynamoDB at one): 38 events a second with 2,000 in a chain, and slower. So several processes write several ledgers.
ROUND = 30


@pytest.mark.slow
def test_64_threads_of_one_process_write_many_events_each(prefix: str, ministack_url: str) -> None:
    """Nobody gets more patience than in service, and nobody is refused."""
    all_write_at_once(prefix, ministack_url, processes=0, threads=0, here=64, events=EVENTS, hot=0)


@pytest.mark.slow
def test_8_processes_of_8_threads_write_many_events_each(prefix: str, ministack_url: str) -> None:
    for first in range(0, EVENTS, ROUND):
        events = min(ROUND, EVENTS - first)
        all_write_at_once(fresh_tables(), ministack_url, processes=7, threads=8, here=8, events=events, hot=0)


@pytest.mark.slow
def test_64_writers_who_all_want_the_same_shard_all_get_in(prefix: str, ministack_url: str) -> None:
    all_write_at_once(prefix, ministack_url, processes=7, threads=8, here=8, events=6, hot=1)


def all_write_at_once(
    prefix: str, ministack_url: str, *, processes: int, threads: int, here: int, events: int, hot: int
) -> None:
    """Each event is there once, and every chain is whole. Of each `hot`, one goes into the same shard."""
    environment = {**CREDENTIALS, "AWS_ENDPOINT_URL_DYNAMODB": ministack_url, "PATH": os.environ.get("PATH", "")}
    others = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.ledger_writer", prefix, str(threads), str(events), str(hot)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(processes)
    ]  # fmt: skip
    for process in others:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    written = write_all("here", here, events, hot)
    for process in others:
        output, _ = process.communicate(timeout=60 + events)
        assert process.returncode == 0, "a writer was refused: it waited longer than the ledger's budget"
        written += output.split()

    found = list(all_events())
    assert verify_chain(found).ok
    assert len(found) == len(written) == (here + processes * threads) * events
    assert Counter(event["event_id"] for event in found) == Counter(written)
    ends = Counter(event["shard"] for event in found)
    assert {(event["shard"], event["seq"]) for event in found} == {(s, n + 1) for s in ends for n in range(ends[s])}
    assert len(ends) == (1 if hot == 1 else 16)


def test_of_two_who_end_the_same_operation_one_does(prefix: str) -> None:
    ledgers = [Ledger(server_role="services"), Ledger(server_role="services")]
    intents = [ledgers[0].begin(upload()) for _ in range(20)]

    def end(ledger: Ledger, intent: Intent, start: threading.Barrier) -> bool:
        start.wait()
        try:
            ledger.finish(intent, Outcome.COMPLETED)
        except OperationEnded:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for intent in intents:
            start = threading.Barrier(2)
            runs = [pool.submit(end, ledger, intent, start) for ledger in ledgers]
            assert sorted(run.result() for run in runs) == [False, True]
    found = list(all_events())
    assert verify_chain(found).ok
    assert Counter(event["outcome"] for event in found) == {"intent": 20, "completed": 20}


def end_operations(ledgers: list[Ledger]) -> list[str]:
    """Eight threads begin and end 20 operations each; the tracking ids of those that they were told are ended."""

    def work(number: int) -> list[str]:
        told = []
        for _ in range(20):
            try:
                intent = ledgers[number % 2].begin(upload(upload_id=f"upload-{number % 3}"))
                ledgers[(number + 1) % 2].finish(intent, Outcome.COMPLETED)
                told.append(intent.tracking_id)
            except LedgerUnavailable:  # three in a row: allowed to give up, not to lie
                continue
            except OperationEnded:
                raise AssertionError("nobody else ends these") from None
        return told

    with ThreadPoolExecutor(8) as pool:
        return [tracking_id for run in pool.map(work, range(8)) for tracking_id in run]


def test_random_faults_lose_nothing_and_double_nothing(ministack_url: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chooser = random.Random(seed)
    kinds = [drop_reply, drop_request, throttle]
    write_kinds = [*kinds, lambda target: cancel("TransactionConflict")]

    def choose(call: Call) -> Fault | None:
        if chooser.random() >= 0.15:
            return None
        return chooser.choice(write_kinds if call.target == "TransactWriteItems" else kinds)(call.target)

    with DynamoProxy(ministack_url) as proxy, real_tables(proxy.url) as make:
        proxy.choose = choose
        proxy.forget_tokens = bool(seed % 2)
        told = end_operations([make(), make()])
        proxy.choose = lambda call: None
        found = list(all_events())

    assert verify_chain(found).ok
    by_outcome = Counter((event["tracking_id"], event["outcome"]) for event in found)
    assert set(by_outcome.values()) == {1}
    assert all(by_outcome[tracking_id, "intent"] == by_outcome[tracking_id, "completed"] == 1 for tracking_id in told)
    assert len(told) > 100
