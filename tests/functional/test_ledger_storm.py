"""5 % of DynamoDB's answers are throttles, conflicts, broken connections, or a commit and then silence: nothing lost or doubled.

The real thing behind a failing proxy. 10,000 operations take some minutes (slow); 300 run with every `make test`.
"""

from __future__ import annotations

import hashlib
import os
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from pynamodb.exceptions import PynamoDBException

from chalicelib import dynamo
from chalicelib.errors import DepotError, LedgerUnavailable, OperationEnded
from chalicelib.limits import KIB
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload, UploadStatus
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files import tables as file_tables
from nas_gateway.files.access import Call as Caller
from nas_gateway.files.registry import Registry
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import append, queries
from nas_gateway.ledger.append import Appender
from nas_gateway.ledger.chain import verify_chain
from nas_gateway.ledger.events import Outcome
from nas_gateway.ledger.ledger import Ledger
from nas_gateway.uploads import tables as upload_tables
from nas_gateway.uploads.rows import live
from nas_gateway.uploads.service import Uploads
from nas_gateway.uploads.tables import UploadSession
from tests.support.ledger_env import LedgerFactory, Row, all_events, fresh_tables, real_tables, upload, use_endpoint
from tests.support.ledger_proxy import Call, DynamoProxy, Fault, cancel, drop_reply, drop_request, throttle, time_out

pytestmark = pytest.mark.slow

WRITERS = 8
# Seconds until a client gives up on an answer, instead of five: the storm brings hundreds of them.
PATIENCE = 0.5


@dataclass
class Storm:
    """Chooses what goes wrong with a call; `hits` counts it."""

    rng: random.Random
    share: float
    hits: Counter[str] = field(default_factory=Counter)

    def choose(self, call: Call) -> Fault | None:
        if self.rng.random() >= self.share:
            return None
        kinds: dict[str, Callable[[str], Fault]] = {
            "throttled": throttle, "broken before": drop_request, "broken after": drop_reply, "timed out": time_out,
        }  # fmt: skip
        if call.target == "TransactWriteItems":
            items = len(call.body["TransactItems"])
            kinds["conflict"] = lambda target: cancel("TransactionConflict", items)
        kind = self.rng.choice(sorted(kinds))
        self.hits[kind] += 1
        return kinds[kind](call.target)


@pytest.fixture
def storm(monkeypatch: pytest.MonkeyPatch) -> Storm:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    monkeypatch.setattr(append, "READ_TIMEOUT", PATIENCE)
    monkeypatch.setattr(dynamo, "READ_TIMEOUT", PATIENCE)
    monkeypatch.setattr(dynamo, "_shared", {})
    return Storm(random.Random(seed), 0.05)


# --- the ledger -------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a writer was told: operations that ended, single events that were recorded, and how many of each were refused."""

    ended: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    refused: int = 0
    unrecorded: int = 0


def operate(ledgers: list[Ledger], number: int, count: int) -> Told:
    """Operations with an intent, an outcome and a row of the caller's; every third is a single event instead."""
    told = Told()
    for turn in range(count):
        tracking_id = uuid.uuid4().hex
        about = upload(upload_id=f"upload-{turn % 5}" if turn % 2 else uuid.uuid4().hex)
        if turn % 3 == 2:
            try:
                told.recorded.append(ledgers[number % 2].record(about).event_id)
            except LedgerUnavailable:
                told.unrecorded += 1  # it may stand, once
            continue
        begun = Row(tracking_id, n=0)
        try:
            intent = ledgers[number % 2].begin(
                about,
                tracking_id=tracking_id,
                changes=lambda t, row=begun: t.save(row, condition=Row.id.does_not_exist()),
            )
        except LedgerUnavailable:
            told.refused += 1  # nothing has moved; the intent may stand, and then it is open
            continue
        while True:
            try:
                ledgers[(number + 1) % 2].finish(
                    intent, Outcome.COMPLETED, changes=lambda t, row=begun: t.update(row, actions=[Row.n.add(1)])
                )
            except LedgerUnavailable:
                continue
            except OperationEnded:
                pass  # an earlier try had got through
            told.ended.append(tracking_id)
            break
    return told


@pytest.mark.parametrize("forgetful", [False, True])
def test_150_operations_in_a_storm(ministack_url: str, storm: Storm, forgetful: bool) -> None:
    """`forgetful`: a store that does not know a ClientRequestToken again, so that only our own look prevents doubles."""
    storm.share = 0.15 if forgetful else 0.05
    one_round(ministack_url, storm, 150, forgetful)


@pytest.mark.slow
def test_thousands_of_operations_in_a_storm(ministack_url: str, storm: Storm) -> None:
    """In rounds of 1,000 over fresh tables: MiniStack's queries get slower with the length of a chain.

    One round, and ten with STORM_ROUNDS=10 (ten minutes).
    """
    for _ in range(int(os.environ.get("STORM_ROUNDS", "1"))):
        storm.hits.clear()
        one_round(ministack_url, storm, 1000, False)


def one_round(ministack_url: str, storm: Storm, operations: int, forgetful: bool) -> None:
    with DynamoProxy(ministack_url) as proxy, real_tables(proxy.url) as make:
        proxy.choose, proxy.forget_tokens = storm.choose, forgetful
        ledgers = [make(), make()]  # two processes, as far as the chains know
        with ThreadPoolExecutor(WRITERS) as pool:
            runs = list(pool.map(lambda number: operate(ledgers, number, operations // WRITERS), range(WRITERS)))
        proxy.choose = lambda call: None
        events, calls = list(all_events()), sum(proxy.count().values())
        still_open = {intent.tracking_id for intent in queries.open_operations()}
        rows = {row.id: int(row.n) for row in Row.scan()}
    ended, recorded = [each for told in runs for each in told.ended], [each for told in runs for each in told.recorded]
    refused, unrecorded = sum(told.refused for told in runs), sum(told.unrecorded for told in runs)
    print(
        f"{calls} calls, {dict(storm.hits)}; {len(ended)} ended, {refused} refused, {len(still_open)} of them stand; "
        f"{len(recorded)} single events, {unrecorded} refused"
    )

    assert verify_chain(events).ok
    seen = Counter((event["tracking_id"], event["outcome"]) for event in events)
    assert set(seen.values()) == {1}, "doubled"
    intents = {tracking_id for tracking_id, outcome in seen if outcome == "intent"}
    single = [event["event_id"] for event in events if event["tracking_id"] not in intents]
    assert set(recorded) <= set(single), "lost"
    assert len(single) <= len(recorded) + unrecorded, "doubled"
    completed = {tracking_id for tracking_id, outcome in seen if outcome == "completed" and tracking_id in intents}
    assert completed == set(ended), "lost, or ended without being told"
    assert intents == completed | still_open
    assert len(still_open) <= refused
    assert len(ended) + refused + len(recorded) + unrecorded == operations // WRITERS * WRITERS
    # The caller's own rows went with the events, each exactly once.
    assert rows == {tracking_id: int(tracking_id in completed) for tracking_id in intents}
    # It was a storm.
    assert sum(storm.hits.values()) > calls * storm.share * 0.5
    assert len(storm.hits) >= 3


# --- upload sessions ----------------------------------------------------------------------------------------------------

LEASE = 1.0


class Process:
    """A services tier over stores that all processes share."""

    def __init__(self, make: LedgerFactory, stores: dict[str, MemoryStorage]) -> None:
        ledger = Ledger(server_role="services", appender=Appender(table=make.table))
        transfers = Transfers(stores.__getitem__, ledger, Registry(), disks=list(stores))
        self.uploads = Uploads(transfers, lease=LEASE)


@dataclass
class Client:
    """Sends one file in chunks, each through another process, and asks where it stands whenever something went wrong."""

    data: bytes
    new: NewUpload
    rng: random.Random
    told: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def send(self, processes: list[Process], attempts: int = 200) -> UploadStatus:
        upload_id = ""
        for _ in range(attempts):
            uploads = self.rng.choice(processes).uploads
            try:
                if not upload_id:
                    upload_id = self.heard(uploads.create(Caller(), self.new)).upload_id
                    shrink(upload_id)
                status = self.heard(uploads.status(Caller(), upload_id, settle=True))
                while status.state != "AVAILABLE":
                    block = self.data[status.offset : status.offset + self.rng.randrange(1, 60 * KIB)]
                    if not block:
                        status = self.heard(uploads.complete(Caller(), upload_id))
                        continue
                    status = self.heard(uploads.append(Caller(), upload_id, status.offset, BytesReader(block)))
                return status
            except DepotError as error:
                if not (error.retryable or error.code in ("offset_conflict", "upload_state")):
                    raise
                self.errors[error.code] += 1
        raise AssertionError(f"wedged: {dict(self.errors)}")

    def heard(self, status: UploadStatus) -> UploadStatus:
        assert status.offset >= self.told, f"{self.told} bytes were acknowledged, now it is {status.offset}"
        self.told = status.offset
        return status


def ledger_words(states: Counter[str]) -> dict[str, int]:
    words = {"AVAILABLE": "completed", "FAILED": "failed"}
    return {words[state]: count for state, count in states.items()}


def shrink(upload_id: str) -> None:
    """Parts of 80 KiB rather than 8 MiB, so that a small file has several, and most chunks become tails first."""
    while True:
        with suppress(PynamoDBException):
            UploadSession(upload_id).update([UploadSession.part_bytes.set(80 * KIB)])
            return


@pytest.fixture
def tables(ministack_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoProxy]:
    with DynamoProxy(ministack_url) as proxy:
        use_endpoint(monkeypatch, proxy.url)
        fresh_tables(Row, *file_tables.MODELS, *upload_tables.MODELS)
        yield proxy


@pytest.mark.parametrize(
    ("files", "share"),
    [(6, 0.1), pytest.param(20, 0.3, marks=pytest.mark.slow), pytest.param(150, 0.05, marks=pytest.mark.slow)],
)
def test_upload_sessions_in_a_storm(tables: DynamoProxy, storm: Storm, files: int, share: float) -> None:
    storm.share = share
    # S3's rules in small.
    stores = {"submissions": MemoryStorage("submissions", min_part_bytes=50 * KIB, renumber_after_loss=False)}
    processes = [Process(LedgerFactory(append.connect()), stores) for _ in range(3)]
    clients = []
    for number in range(files):
        rng = random.Random(storm.rng.random())
        path = f"submissions/VACS/2024/patient/{uuid.uuid4().hex}"
        data = rng.randbytes(rng.randrange(1, 250 * KIB))
        sha256 = hashlib.sha256(data).hexdigest() if number % 2 else None
        new = NewUpload(disk="submissions", path=path, size=len(data), sha256=sha256, idempotency_key=uuid.uuid4().hex)
        clients.append(Client(data, new, rng))
    tables.choose = storm.choose
    with ThreadPoolExecutor(WRITERS) as pool:
        done = list(pool.map(lambda client: client.send(processes), clients))
    tables.choose = lambda call: None
    errors = sum((client.errors for client in clients), Counter[str]())
    print(f"{sum(tables.count().values())} calls, {dict(storm.hits)}; clients saw {dict(errors)}")

    for client, status in zip(clients, done, strict=True):
        assert status.receipt is not None
        assert stores["submissions"].get_file(client.new.path) == client.data
        assert status.receipt.size == len(client.data)
    assert len(list(stores["submissions"].list_files())) == files
    # A creation that was answered 503 has ended as failed, and its key opened another session.
    states = Counter(row.state for row in UploadSession.scan())
    assert states["AVAILABLE"] == files
    assert set(states) <= {"AVAILABLE", "FAILED"}
    assert live() == []
    events = list(all_events())
    assert verify_chain(events).ok
    begun = Counter(event["tracking_id"] for event in events if event["outcome"] == "intent")
    ended = Counter(event["tracking_id"] for event in events if event["outcome"] != "intent")
    assert set(begun.values()) == {1}
    assert begun == ended
    assert Counter(event["outcome"] for event in events) == {"intent": sum(states.values()), **ledger_words(states)}
    assert list(queries.open_operations()) == []
