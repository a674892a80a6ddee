"""`verify_chain` finds every way to alter a chain that its hashes can show, and names the first bad event."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from nas_gateway.ledger.chain import Head, verify_chain
from nas_gateway.ledger.events import GENESIS, event_hash

Event = dict[str, Any]
DOC = Path(__file__).parents[2] / "docs" / "ledger-format.md"


def chain(count: int, shards: int = 3) -> list[Event]:
    heads: dict[int, tuple[int, str]] = {}
    made = []
    for number in range(count):
        shard = number % shards
        seq, prev = heads.get(shard, (0, GENESIS))
        event: Event = {
            "v": 1, "shard": shard, "seq": seq + 1, "event_id": f"e{number}", "user": f"u{number}", "bytes_transferred": number,
            "at": f"2025-01-01T00:00:00.{number:06d}Z", "metadata": {"k": f"m{number}"}, "prev_hash": prev,
        }  # fmt: skip
        event["hash"] = event_hash(prev, event)
        heads[shard] = (seq + 1, event["hash"])
        made.append(event)
    return made


def test_a_good_chain_passes_and_its_heads_are_told() -> None:
    events = chain(30)
    report = verify_chain(iter(events))
    assert report.ok
    assert report.events == 30
    assert report.heads[2] == Head(10, events[-1]["hash"])


def test_a_check_can_go_on_where_another_ended() -> None:
    events = chain(30)
    first = verify_chain(events[:11])
    second = verify_chain(events[11:], first.heads)
    assert second.ok
    assert second.heads == verify_chain(events).heads
    assert not verify_chain(events[11:]).ok


def test_a_single_edit_is_found_wherever_it_is() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chooser = random.Random(seed)
    for _ in range(300):
        events = chain(30)
        place = chooser.randrange(30)
        event = events[place]
        name = chooser.choice(sorted(event))
        old = event[name]
        if isinstance(old, int):
            event[name] = old + chooser.choice([-1, 1, 1000])
        elif isinstance(old, dict):
            event[name] = chooser.choice([{}, {"k": "other"}, {**old, "more": ""}])
        else:
            event[name] = chooser.choice([old[:-1], old + "x", "", old.swapcase() if old.swapcase() != old else "y"])
        fault = verify_chain(events).fault
        assert fault is not None, (name, old, event[name])
        if name not in ("shard", "seq"):
            assert (fault.shard, fault.seq) == (event["shard"], event["seq"]), name


@pytest.mark.parametrize("name", ["user", "metadata", "v", "event_id", "prev_hash", "hash"])
def test_a_field_that_is_gone_is_found(name: str) -> None:
    events = chain(9)
    del events[4][name]
    fault = verify_chain(events).fault
    assert fault is not None
    assert (fault.shard, fault.seq) == (1, 2)


def test_a_field_that_was_added_is_found() -> None:
    events = chain(9)
    events[4]["cohort"] = "VACS"
    assert verify_chain(events).fault is not None


def test_a_deleted_event_is_named_as_missing() -> None:
    events = chain(30)
    del events[10]  # shard 1, seq 4
    fault = verify_chain(events).fault
    assert fault is not None
    assert (fault.shard, fault.seq, fault.reason) == (1, 4, "missing")


def test_a_swap_an_insertion_and_a_copy_are_found() -> None:
    swapped = chain(30)
    swapped[3], swapped[6] = swapped[6], swapped[3]
    fault = verify_chain(swapped).fault
    assert fault is not None
    assert (fault.shard, fault.seq) == (0, 2)
    doubled = chain(30)
    doubled.insert(9, doubled[6])
    fault = verify_chain(doubled).fault
    assert fault is not None
    assert (fault.seq, fault.reason) == (3, "out of order or doubled")
    exchanged = chain(30)
    first, second = exchanged[3], exchanged[6]
    first["user"], second["user"] = second["user"], first["user"]
    assert verify_chain(exchanged).fault is not None


def test_rehashing_one_event_breaks_the_next() -> None:
    events = chain(30)
    events[3]["user"] = "mallory"
    events[3]["hash"] = event_hash(events[3]["prev_hash"], events[3])
    fault = verify_chain(events).fault
    assert fault is not None
    assert (fault.shard, fault.seq, fault.reason) == (0, 3, "does not follow the event before it")


def test_an_event_of_another_version_is_not_waved_through() -> None:
    events = chain(1)
    events[0]["v"] = 2
    events[0]["hash"] = event_hash(GENESIS, events[0])
    fault = verify_chain(events).fault
    assert fault is not None
    assert fault.reason == "unknown version"


@pytest.mark.parametrize(
    "bad", [{"shard": 16}, {"shard": "0"}, {"shard": True}, {"seq": None}, {"seq": 1.0}, {"user": 1.5}]
)
def test_nonsense_is_a_fault_and_not_a_crash(bad: Event) -> None:
    events = chain(3)
    events[0].update(bad)
    assert verify_chain(events).fault is not None


def test_a_verifier_written_from_the_document_agrees() -> None:
    code = re.search(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert code
    scope: dict[str, Any] = {}
    exec(code.group(1), scope)
    scope["verify"](chain(30))
    for place, name, value in [(4, "user", "x"), (7, "prev_hash", GENESIS), (0, "bytes_transferred", 1)]:
        altered = chain(30)
        altered[place][name] = value
        with pytest.raises(SystemExit):
            scope["verify"](altered)
