"""An export holds what the table holds, is the same whoever makes it, goes on where it ended, and hides nothing."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from chalicelib.errors import DepotError, LedgerBroken, LedgerUnavailable
from nas_gateway.ledger import export as module
from nas_gateway.ledger.checkpoints import Checkpointer
from nas_gateway.ledger.events import Outcome
from nas_gateway.ledger.export import Exported, export
from nas_gateway.ledger.stores import AppendedFile
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.ledger.verify import GENESIS, verify
from tests.support.ledger_book import KEY, OTHER_KEY, START, Book, usual_book
from tests.support.ledger_env import LedgerFactory, all_events, moto_tables, upload


@pytest.fixture
def book(tmp_path: Path) -> Book:
    seed = random.randrange(2**32)
    print("seed", seed)
    return usual_book(tmp_path / "checkpoints", seed)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def run(book: Book, file: Path) -> Exported:
    return export(file, book.store, events=book)


# --- the file -------------------------------------------------------------------------------------------------------


def test_an_export_verifies_and_only_its_owner_can_read_it(book: Book, file: Path) -> None:
    assert run(book, file) == Exported(events=170, checkpoints=6, rewritten=0)
    assert verify(file, KEY.public).ok
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_second_run_adds_nothing_and_changes_nothing(book: Book, file: Path) -> None:
    run(book, file)
    before = file.read_bytes()
    assert run(book, file) == Exported(events=0, checkpoints=0, rewritten=20)
    assert file.read_bytes() == before


def test_an_export_in_pieces_is_byte_for_byte_that_in_one(book: Book, file: Path, tmp_path: Path) -> None:
    for number in range(12):
        run(book, file)
        book.add(book.chooser.randrange(30))
        if number % 3 == 1:
            book.checkpoint()
    run(book, file)
    run(book, tmp_path / "at-once")
    assert file.read_bytes() == (tmp_path / "at-once").read_bytes()
    assert verify(file, KEY.public).ok


def test_a_checkpoint_that_was_being_signed_during_the_last_export_finds_its_place(book: Book, file: Path) -> None:
    """Its heads lie behind the end of the file."""
    signed: list[bytes] = []
    put, book.store.put = book.store.put, lambda number, line: bool(signed.append(line)) or True  # type: ignore[method-assign]
    book.checkpoint()
    book.add(30)
    run(book, file)
    put(7, signed[0])
    assert run(book, file) == Exported(events=0, checkpoints=1, rewritten=50)
    report = verify(file, KEY.public)
    assert (report.ok, report.number, report.unprotected) == (True, 7, 30)


@pytest.mark.parametrize("block", [64, 1000, 1024 * 1024])
def test_a_run_that_was_killed_anywhere_is_gone_on_from(
    book: Book, file: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    run(book, file)
    whole = file.read_bytes()
    ends = [number for number, byte in enumerate(whole) if byte == 10]
    for length in [0, 1, 100, *ends[3::29], *(end + 1 for end in ends[3::29]), *(end + 40 for end in ends[3:-1:29])]:
        file.write_bytes(whole[:length])
        run(book, file)
        assert file.read_bytes() == whole, length


def test_a_file_whose_end_was_changed_is_refused_and_left_alone(book: Book, file: Path) -> None:
    run(book, file)
    whole = file.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(whole) if line.startswith(b'{"checkpoint"'))
    foreign = Book(file.parent / "other", 99)
    foreign.add(40)
    foreign.checkpoint()
    for bad in (
        [*whole[:-3], whole[-3].replace("Åsa".encode(), b"Eve"), *whole[-2:]],
        [*whole[:-5], *whole[-2:], *whole[-5:-2]],
        [*whole[:last], whole[last].replace(b'"number":6', b'"number":7'), *whole[last + 1 :]],
        [*whole[:last], whole[last][:-10] + b"\n", *whole[last + 1 :]],
        foreign.export(),
        [b"something else\n"],
    ):
        file.write_bytes(b"".join(bad))
        with pytest.raises(LedgerBroken):
            run(book, file)
        assert file.read_bytes() == b"".join(bad)


def test_a_table_that_no_longer_has_what_the_file_has_is_told(book: Book, file: Path) -> None:
    """An event that no checkpoint covers was cut off the table: the file still has it, and keeps it."""
    run(book, file)
    before, last = file.read_bytes(), json.loads(file.read_bytes().splitlines()[-1])
    book.chains[last["shard"]].pop()
    with pytest.raises(LedgerBroken, match=f"shard {last['shard']}, seq {last['seq']}"):
        run(book, file)
    assert file.read_bytes() == before


def test_a_table_whose_end_was_cut_is_found_in_a_new_export(book: Book, file: Path) -> None:
    book.chains[3] = book.chains[3][:1]
    run(book, file)
    fault = verify(file, KEY.public).fault
    assert fault is not None
    assert (fault.shard, fault.seq) == (3, 2)


def test_without_checkpoints_everything_is_written_and_nothing_protected(book: Book, file: Path) -> None:
    assert export(file, None, events=book) == Exported(events=170, checkpoints=0, rewritten=0)
    report = verify(file, KEY.public)
    assert (report.ok, report.unprotected) == (True, 170)


def test_two_exports_to_one_file_do_not_mix(book: Book, file: Path) -> None:
    class Nested:
        def lines(self, shard: int, first: int, last: int = 2**53) -> Iterator[tuple[int, bytes]]:
            with pytest.raises(DepotError, match="Another export"):
                run(book, file)
            return book.lines(shard, first, last)

    export(file, book.store, events=Nested())
    assert verify(file, KEY.public).ok


def test_a_link_is_not_followed(book: Book, file: Path, tmp_path: Path) -> None:
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DepotError, match="FILE cannot be written"):
        run(book, file)
    assert not (tmp_path / "elsewhere").exists()


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws() -> Iterator[LedgerFactory]:
    with moto_tables() as factory:
        yield factory


def fill(aws: LedgerFactory, count: int, shards: int, **more: Any) -> None:
    """Events in the table, as the ledger makes them, but without its transactions, which take moto long."""
    aws.empty()
    heads = [(0, GENESIS)] * shards
    with PHIFileTracking.batch_write() as batch:
        for number in range(count):
            shard = number % shards
            seq, prev = heads[shard]
            operation = upload(**(more if number % 3 else {})).to_json()
            outcome = [Outcome.INTENT, Outcome.COMPLETED, Outcome.FAILED][number % 3]
            row = PHIFileTracking.linked(
                v=1, shard=shard, event_id=f"e{number}", tracking_id=f"t{number}", outcome=outcome, seq=seq + 1,
                server_role="services", bytes_transferred=number, prev_hash=prev, at=START, **operation,
            )  # fmt: skip
            heads[shard] = (seq + 1, row.hash)
            batch.save(row)


@pytest.fixture
def store(aws: LedgerFactory, tmp_path: Path) -> AppendedFile:
    """Events of all kinds in the table, and a checkpoint over all but one."""
    fill(aws, 30, 3, metadata={"tab": '\t"\\\x00\x7f\u2028', "n": "1"}, user="Åsa")
    store = AppendedFile(tmp_path / "checkpoints")
    assert Checkpointer(store, OTHER_KEY).run() is not None
    aws().record(upload(file_size=None, cohort=None))
    return store


def test_what_is_exported_from_the_table_verifies_and_is_what_readers_see(store: AppendedFile, file: Path) -> None:
    assert export(file, store) == Exported(events=31, checkpoints=1, rewritten=0)
    report = verify(file, OTHER_KEY.public)
    assert (report.ok, report.unprotected) == (True, 1)
    found = [json.loads(line) for line in file.read_bytes().splitlines()]
    key = itemgetter("shard", "seq")
    assert sorted(all_events(), key=key) == sorted((each for each in found if "seq" in each), key=key)


def test_pages_are_read_to_their_end_by_queries_alone(aws: LedgerFactory, file: Path) -> None:
    """Over 2 MiB in one shard; DynamoDB answers 1 MiB at a time. No scan, no index."""
    fill(aws, 400, 1, metadata={"m": "x" * 8000})
    calls: Counter[str] = Counter()
    asked: list[dict[str, Any]] = []

    def note(model: Any, params: dict[str, Any], **_: Any) -> None:
        calls[model.name] += 1
        asked.append(json.loads(params["body"]))

    client = PHIFileTracking._get_connection().connection.client
    client.meta.events.register("before-call.dynamodb", note)
    try:
        assert export(file, None).events == 400
    finally:
        client.meta.events.unregister("before-call.dynamodb", note)
    assert set(calls) == {"Query"}
    assert 16 + 2 <= calls["Query"] <= 16 + 4
    assert all(each["ConsistentRead"] and "IndexName" not in each for each in asked)
    assert verify(file, KEY.public).events == 400


@pytest.mark.parametrize(
    "update",
    [
        "SET #u = :text", "REMOVE #u", "SET metadata = :json", "SET metadata = :text", "SET more = :text",
        "SET bytes_transferred = :odd", "SET bytes_transferred = :text", "SET cleanup_required = :list",
        "SET #at = :same_instant", "SET #h = :text", "SET v = :two", "SET file_size = :huge", "SET more = :binary",
    ],
)  # fmt: skip
def test_a_row_that_somebody_changed_in_the_table_is_exported_as_it_is_and_named(
    store: AppendedFile, file: Path, update: str
) -> None:
    connection = PHIFileTracking._get_connection()
    shard, seq = next((e["shard"], e["seq"]) for e in all_events() if e["user"] == "Åsa")
    stamp = PHIFileTracking.get(shard, seq).to_dict()["at"]
    values = {
        ":text": {"S": "mallory"}, ":json": {"S": '{"n":"0"}'}, ":odd": {"N": "1.5"}, ":list": {"L": []},
        ":same_instant": {"S": stamp.replace("Z", "+00:00")}, ":two": {"N": "2"}, ":huge": {"N": "9" * 30},
        ":binary": {"B": b"x"},
    }  # fmt: skip
    names = {"#u": "user", "#at": "at", "#h": "hash"}
    options: dict[str, Any] = {}
    if used := {name: value for name, value in values.items() if name in update}:
        options["ExpressionAttributeValues"] = used
    if named := {name: value for name, value in names.items() if name in update.split()}:
        options["ExpressionAttributeNames"] = named
    connection.connection.client.update_item(
        TableName=connection.table_name,
        Key={"shard": {"N": str(shard)}, "seq": {"N": str(seq)}},
        UpdateExpression=update,
        **options,
    )
    export(file, store)
    fault = verify(file, OTHER_KEY.public).fault
    assert fault is not None
    assert (fault.shard, fault.seq) == (shard, seq)
    with pytest.raises(LedgerBroken):
        Checkpointer(AppendedFile(file.parent / "empty"), KEY).run()


def test_a_table_that_cannot_be_read_is_told(store: AppendedFile, file: Path) -> None:
    PHIFileTracking.delete_table()
    with pytest.raises(LedgerUnavailable):
        export(file, store)


# --- what only the table's reader can see -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "attribute", "value"),
    [
        (1, "at_key", {"S": "2001-01-01T00:00:00.000000Z#04-000000000002"}),
        (1, "day", {"S": "2001-01-01"}),
        (1, "day", None),
        (2, "failed_day", None),
        (2, "failed_day", {"S": "2001-01-01"}),
        (0, "failed_day", {"S": "2001-01-01"}),
    ],
)
def test_an_event_that_an_index_hides_is_named_when_the_file_is_written(
    file: Path, number: int, attribute: str, value: dict[str, str] | None
) -> None:
    with moto_tables() as make:
        ledger = make()
        for outcome in (Outcome.COMPLETED, Outcome.COMPLETED, Outcome.FAILED):
            ledger.record(upload(upload_id="one"), outcome)
        assert export(file, None) == Exported(events=3, checkpoints=0, rewritten=0)
        row = list(all_events())[number]
        table = PHIFileTracking._get_connection()
        item = table.get_item(str(row["shard"]), str(row["seq"]))["Item"]
        changed = {name: kept for name, kept in item.items() if name != attribute}
        table.connection.client.put_item(
            TableName=table.table_name, Item=changed if value is None else {**changed, attribute: value}
        )
        file.unlink()
        with pytest.raises(LedgerBroken, match=f"1 of the events .* first shard {row['shard']}, seq {row['seq']}\\."):
            export(file, None)
        assert verify(file, KEY.public).ok  # the hashes do not show it
