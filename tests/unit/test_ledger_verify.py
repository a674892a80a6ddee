"""Whatever is done to an exported ledger, the verifier finds it and names where it begins; a good one raises no alarm."""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nas_gateway.ledger import verify as module
from nas_gateway.ledger.events import INDEX_ONLY
from nas_gateway.ledger.signing import SigningKey
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.ledger.verify import FIELDS, Fault, Seen, Signed, main, parse_checkpoint, public_key, sealed, verify
from tests.support.ledger_book import (
    KEY,
    OTHER_KEY,
    Book,
    check,
    resealed,
    seen_after,
    to_line,
    usual_book,
    write_large,
)

SCRIPT = Path(module.__file__)


@pytest.fixture(scope="module")
def seed() -> int:
    return random.randrange(2**32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, seed: int) -> list[bytes]:
    return usual_book(tmp_path_factory.mktemp("book"), seed).export()


@pytest.fixture
def chooser(seed: int) -> random.Random:
    print("seed", seed)
    return random.Random(seed)


def is_event(line: bytes) -> bool:
    return not line.startswith(b'{"checkpoint"')


def place(line: bytes) -> tuple[int, int]:
    event = json.loads(line)
    return event["shard"], event["seq"]


def events_of(lines: list[bytes]) -> list[int]:
    return [number for number, line in enumerate(lines) if is_event(line)]


def protected(lines: list[bytes]) -> list[int]:
    """Indices of the events that a checkpoint covers."""
    last = max(number for number, line in enumerate(lines) if not is_event(line))
    return [number for number in events_of(lines) if number < last]


# --- a good ledger --------------------------------------------------------------------------------------------------


def test_a_whole_ledger_is_whole_and_what_nothing_protects_is_told(whole: list[bytes], tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(b"".join(whole))
    report = verify(file, KEY.public)
    assert report.ok
    assert (report.events, report.number, report.unprotected) == (170, 6, 20)
    assert report.seen == seen_after(whole)
    at = json.loads(whole[protected(whole)[-1] + 1])["checkpoint"]["at"]
    assert report.text().endswith(
        f"20 events after checkpoint 6 of {at} are not protected: whoever can write to the table could change them."
    )


def test_no_false_alarm_in_50_000_events(tmp_path: Path, seed: int) -> None:
    book = Book(tmp_path, seed)
    for _ in range(5):
        book.add(10_000)
        book.checkpoint()
    run = module.Verifier(KEY.public)
    for line in book.export():
        assert run.feed(line) is None
    assert run.end() is None
    assert (run.events, run.number, run.unprotected) == (50_000, 5, 0)


@pytest.mark.slow
def test_no_false_alarm_in_a_million_events(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    write_large(file, 1_000_000, every=3_000)
    report = verify(file, KEY.public)
    assert report.ok
    assert (report.events, report.number, report.unprotected) == (1_000_000, 334, 0)


def test_an_empty_file_is_whole_and_protects_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    report = verify(tmp_path / "empty", KEY.public)
    assert report.ok
    assert report.text() == "Whole: 0 events and 0 checkpoints."


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    book = Book(tmp_path / "c", 5)
    peaks = []
    for name, count in (("small", 1_000), ("large", 9_000)):
        book.add(count)
        book.checkpoint()
        file = tmp_path / name
        file.write_bytes(b"".join(book.export()))
        verify(file, KEY.public)  # what is made once has been made
        tracemalloc.start()
        assert verify(file, KEY.public).ok
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000


def test_the_forms_are_those_of_the_table() -> None:
    """Whoever adds a field to the events adds it to the verifier, to the document, and raises the version."""
    attributes = {name: kind for name, kind in PHIFileTracking.get_attributes().items() if name not in INDEX_ONLY}
    assert [name for name, _, _ in FIELDS] == sorted(attributes.keys() - {"v"})
    assert {name for name, _, always in FIELDS if always} == {
        name for name, kind in attributes.items() if not kind.null and name != "v"
    }
    document = (Path(__file__).parents[2] / "docs" / "ledger-format.md").read_text()
    assert not [name for name, _, _ in FIELDS if f"`{name}`" not in document]


# --- a thousand single edits ----------------------------------------------------------------------------------------


PLACE = re.compile(rb'"(?:seq|shard)":[^,]*')


def lines_in(content: bytes) -> list[bytes]:
    return [line for line in re.split(rb"(?<=\n)", content) if line]


def edit_field(chooser: random.Random, line: bytes) -> bytes:
    """One field changed, removed or added."""
    outer: dict[str, Any] = json.loads(line)
    inner = outer if is_event(line) else outer["checkpoint"]
    name = chooser.choice(sorted(inner))
    old = inner[name]
    kind = chooser.choice(["change", "change", "change", "remove", "add"])
    if kind == "remove":
        del inner[name]
    elif kind == "add":
        name = chooser.choice([each for each, _, _ in FIELDS if each not in inner] + ["more", "next_key"])
        inner[name] = chooser.choice(["", "x", 1, True, {"a": "b"}])
    elif isinstance(old, bool):
        inner[name] = not old
    elif isinstance(old, int):
        inner[name] = old + chooser.choice([-1, 1, 1000])
    elif isinstance(old, dict):
        inner[name] = chooser.choice([{}, {"k": "other"}, {**old, "more": ""}])
    elif isinstance(old, list):
        inner[name] = [*old[:3], [3, old[3][1] + 1, old[3][2]], *old[4:]]
    else:
        spot = chooser.randrange(len(old))
        inner[name] = old[:spot] + ("1" if old[spot] != "1" else "2") + old[spot + 1 :]
    return to_line(outer)


def edit_byte(chooser: random.Random, line: bytes) -> bytes:
    """One byte changed, removed, added or doubled; of the end of the line, too."""
    spot = chooser.randrange(len(line))
    other = bytes([chooser.choice([*range(256)])])
    middle = chooser.choice([other, b"", other + line[spot : spot + 1], line[spot : spot + 1] * 2])
    return line[:spot] + middle + line[spot + 1 :]


def test_1000_single_edits_are_all_found_and_the_first_bad_event_is_named(
    whole: list[bytes], chooser: random.Random
) -> None:
    for _ in range(1000):
        number = chooser.randrange(len(whole))
        line, edit = whole[number], chooser.choice([edit_field, edit_byte])
        changed = edit(chooser, line)
        if changed == line:
            continue
        fault = check(lines_in(b"".join([*whole[:number], changed, *whole[number + 1 :]])))
        assert fault is not None, (line, changed)
        # An empty line behind a good one is a line of its own.
        assert fault.line == number + 1 + (changed == line + b"\n"), (fault, line, changed)
        still_a_line = changed.endswith(b"\n") and changed.count(b"\n") == 1
        if is_event(line) and still_a_line and PLACE.findall(changed) == PLACE.findall(line):
            assert (fault.shard, fault.seq) == place(line), (fault, line, changed)


# --- the other ways -------------------------------------------------------------------------------------------------


def test_50_deleted_events_are_named(whole: list[bytes], chooser: random.Random) -> None:
    seen = seen_after(whole)
    for _ in range(50):
        number = chooser.choice(events_of(whole))
        fault = check(whole[:number] + whole[number + 1 :], seen)
        assert fault is not None
        assert (fault.shard, fault.seq) == place(whole[number])
        assert fault.reason.startswith("missing")


def test_a_deleted_event_under_a_checkpoint_is_named_without_any_memory(whole: list[bytes]) -> None:
    for number in protected(whole):
        fault = check(whole[:number] + whole[number + 1 :])
        assert fault is not None
        assert (fault.shard, fault.seq) == place(whole[number])


def test_50_inserted_events_are_named(whole: list[bytes], chooser: random.Random) -> None:
    for turn in range(50):
        number = chooser.choice(protected(whole))
        line = whole[number]
        if turn % 2:  # forged so that it fits behind its place's event, hash and all
            event = json.loads(line)
            forged = {**event, "seq": event["seq"] + 1, "prev_hash": event["hash"], "user": "mallory"}
            lines = [*whole[: number + 1], to_line(resealed(forged)), *whole[number + 1 :]]
            named = (event["shard"], event["seq"] + 1)
        else:  # a copy of one that is there
            where = chooser.randrange(number + 1, len(whole) + 1)
            lines, named = [*whole[:where], line, *whole[where:]], place(line)
        fault = check(lines)
        assert fault is not None
        assert (fault.shard, fault.seq) == named


def test_50_swaps_are_found(whole: list[bytes], chooser: random.Random) -> None:
    for _ in range(50):
        first, second = sorted(chooser.sample(range(len(whole)), 2))
        lines = list(whole)
        lines[first], lines[second] = lines[second], lines[first]
        fault = check(lines)
        assert fault is not None
        assert first + 1 <= fault.line <= second + 1


def test_every_swap_of_neighbours_is_found(whole: list[bytes]) -> None:
    for number in range(len(whole) - 1):
        fault = check([*whole[:number], whole[number + 1], whole[number], *whole[number + 2 :]])
        assert fault is not None
        assert fault.line in (number + 1, number + 2)


def test_50_truncations_are_found_by_what_was_seen_before(whole: list[bytes], chooser: random.Random) -> None:
    seen, size = seen_after(whole), sum(map(len, whole))
    lengths = [chooser.randrange(size) for _ in range(40)]
    lengths += [sum(map(len, whole[:number])) for number in chooser.sample(range(len(whole)), 10)]
    for length in lengths:
        lines = lines_in(b"".join(whole)[:length])
        fault = check(lines, seen)
        assert fault is not None, length
        if lines and not lines[-1].endswith(b"\n"):
            assert fault.line == len(lines)
        assert check(whole, seen) is None


def test_truncations_are_found_by_the_checkpoints_of_their_own_store(whole: list[bytes]) -> None:
    copies = [line for line in whole if not is_event(line)]
    last = whole.index(copies[-1])
    for number in range(last + 1):
        fault = check(whole[:number], copies=iter(copies))
        assert fault is not None
        assert fault.checkpoint == 1 + sum(not is_event(line) for line in whole[:number])
    assert check(whole, copies=iter(copies)) is None
    assert check(whole, copies=iter(copies[:-2])) is None  # an older copy of them says nothing against newer ones
    assert check(whole, copies=iter([])) is None


def test_copies_that_begin_in_the_middle_are_compared_from_there(whole: list[bytes]) -> None:
    copies = [line for line in whole if not is_event(line)]
    for first in range(len(copies)):
        assert check(whole, copies=iter(copies[first:])) is None
        fault = check(whole[: whole.index(copies[0]) + 1], copies=iter(copies[first:]))
        expected = max(first + 1, 2) if copies[first:][1:] or first else None
        assert (fault.checkpoint if fault else None) == expected
    gap = check(whole, copies=iter([*copies[1:2], *copies[3:]]))
    assert gap is not None
    assert (gap.checkpoint, gap.reason) == (3, "differs from the one that is kept elsewhere")
    other = copies[2].replace(b'"signature":"', b'"signature":"A', 1)
    edited = check(whole, copies=iter([copies[1], other, *copies[3:]]))
    assert edited is not None
    assert edited.checkpoint == 3
    garbage = check(whole, copies=iter([b"garbage\n"]))
    assert garbage is not None
    assert garbage.checkpoint == 1


def test_50_restored_old_copies_are_found(tmp_path: Path, chooser: random.Random, seed: int) -> None:
    """Each was good when it was made."""
    book, copies = Book(tmp_path, seed), []
    for number in range(50):
        copies.append(book.export())
        book.add(chooser.randrange(1, 5))
        if number % 7 == 3:
            book.checkpoint()
    seen = seen_after(book.export())
    for old in copies:
        assert check(old) is None
        fault = check(old, seen)
        assert fault is not None
        assert fault.reason.startswith("missing: it was seen before")


def test_an_older_copy_that_went_another_way_since_is_found(tmp_path: Path) -> None:
    book = Book(tmp_path, 3)
    book.add(50)
    book.checkpoint()
    chains, tips = [list(chain) for chain in book.chains], list(book.tips)
    book.add(20)
    seen = seen_after(book.export())
    book.chains, book.tips = chains, tips
    book.add(200)
    fault = check(book.export(), seen)
    assert fault is not None
    assert fault.reason == "is not the event that was seen here before"


def rewritten(whole: list[bytes], number: int) -> list[bytes]:
    """One event changed, and all after it in its chain hashed anew: what somebody can do who can write to the table."""
    lines, (shard, seq) = list(whole), place(whole[number])
    event = resealed({**json.loads(lines[number]), "user": "mallory"})
    lines[number] = to_line(event)
    for later in events_of(lines):
        if place(lines[later])[0] == shard and place(lines[later])[1] > seq:
            event = resealed({**json.loads(lines[later]), "prev_hash": event["hash"]})
            lines[later] = to_line(event)
    return lines


def test_50_chains_hashed_anew_without_the_key_are_found(whole: list[bytes], chooser: random.Random) -> None:
    for _ in range(50):
        number = chooser.choice(protected(whole))
        shard, seq = place(whole[number])
        fault = check(rewritten(whole, number))
        assert fault is not None
        last = re.search(r"up to seq (\d+), is not what checkpoint", fault.reason)
        assert last
        assert fault.shard == shard
        assert fault.seq <= seq <= int(last.group(1))


def test_an_unprotected_tail_hashed_anew_is_found_by_what_was_seen_before(whole: list[bytes]) -> None:
    number = events_of(whole)[-1]
    assert number not in protected(whole)
    altered = rewritten(whole, number)
    assert check(altered) is None
    fault = check(altered, seen_after(whole))
    assert fault is not None
    assert (fault.shard, fault.seq) == place(whole[number])


def test_numbers_have_no_gaps_though_all_hashes_fit(whole: list[bytes]) -> None:
    event = json.loads(whole[-1])
    for seq, reason in ((event["seq"] + 1, "missing"), (event["seq"] - 1, "out of order or doubled")):
        fault = check([*whole[:-1], to_line(resealed({**event, "seq": seq}))])
        assert fault is not None
        assert fault.reason == reason


def test_an_event_that_follows_another_past_is_found_though_its_own_hash_is_right(whole: list[bytes]) -> None:
    fault = check([*whole[:-1], to_line(resealed({**json.loads(whole[-1]), "prev_hash": "0" * 63 + "1"}))])
    assert fault is not None
    assert fault.reason == "does not follow the event before it"


# --- checkpoints ----------------------------------------------------------------------------------------------------


def resigned(lines: list[bytes], key: SigningKey, **changes: Any) -> Iterator[bytes]:
    """Checkpoints signed anew, with `key`, and chained."""
    prev = "0" * 64
    for line in lines:
        if is_event(line):
            yield line
            continue
        old = parse_checkpoint(line).checkpoint
        made = module.Checkpoint(old.number, old.at, old.heads, prev, key.public, **changes)
        prev = made.hash()
        yield Signed(made, key.sign(module.CONTEXT + made.body())).line()


def test_checkpoints_of_another_key_are_refused(whole: list[bytes]) -> None:
    fault = check(list(resigned(whole, SigningKey.generate())))
    assert fault is not None
    assert (fault.checkpoint, fault.reason) == (1, "is not signed by the key that should have signed it")


def test_another_key_named_by_nobody_is_refused(whole: list[bytes]) -> None:
    """The first key goes on to sign where it had handed over: then the one that it named is missed."""
    fault = check(list(resigned(whole, KEY)))
    assert fault is None  # without the change of keys, this is a ledger of its own
    old = [line for line in whole if not is_event(line)]
    new = [line for line in resigned(whole, KEY) if not is_event(line)]
    spliced = [new[old.index(line)] if line in old[4:] else line for line in whole]
    fault = check(spliced)
    assert fault is not None
    assert fault.checkpoint == 5


def test_what_the_key_itself_signed_must_follow_the_last_checkpoint_too(whole: list[bytes]) -> None:
    """Somebody who has the key signs a second checkpoint 2."""
    first, second = [number for number, line in enumerate(whole) if not is_event(line)][:2]
    good = parse_checkpoint(whole[second]).checkpoint
    for made in (replace(good, prev="1" * 64), replace(good, at="2000-01-01T00:00:00.000000Z")):
        line = Signed(made, KEY.sign(module.CONTEXT + made.body())).line()
        fault = check([*whole[:second], line])
        assert fault is not None
        assert (fault.checkpoint, fault.reason) == (2, "does not follow the checkpoint before it")
    # One that follows is good by itself, and is found by who saw, or has, the other.
    made = replace(good, at="2030-01-01T00:00:00.000000Z")
    forked = [*whole[:second], Signed(made, KEY.sign(module.CONTEXT + made.body())).line()]
    assert check(forked) is None
    fault = check(forked, seen_after(whole[: second + 1]))
    assert fault is not None
    assert (fault.checkpoint, fault.reason) == (2, "is not the checkpoint that was seen before")
    fault = check(forked, copies=iter([whole[first], whole[second]]))
    assert fault is not None
    assert (fault.checkpoint, fault.reason) == (2, "differs from the one that is kept elsewhere")


def test_a_last_checkpoint_that_was_cut_off_is_missed_though_every_event_is_there(whole: list[bytes]) -> None:
    last = max(number for number, line in enumerate(whole) if not is_event(line))
    fault = check(whole[:last], seen_after(whole[: last + 1]))
    assert fault is not None
    assert (fault.checkpoint, fault.reason[:8]) == (6, "missing:")


def test_a_change_of_keys_needs_both_signatures(whole: list[bytes]) -> None:
    number = next(n for n, line in enumerate(whole) if b'"countersignature"' in line)
    good = parse_checkpoint(whole[number])
    body, mallory = good.checkpoint.body(), SigningKey.generate()
    for bad in (
        Signed(good.checkpoint, good.signature),
        Signed(good.checkpoint, good.signature, mallory.sign(module.CONTEXT + body)),
        Signed(good.checkpoint, OTHER_KEY.sign(module.CONTEXT + body), good.countersignature),
        Signed(good.checkpoint, KEY.sign(body), good.countersignature),
    ):
        fault = check([*whole[:number], bad.line(), *whole[number + 1 :]])
        assert fault is not None
        assert (fault.checkpoint, fault.reason) == (4, "its signature is wrong")


def test_a_signature_has_one_spelling(whole: list[bytes]) -> None:
    number = next(n for n, line in enumerate(whole) if not is_event(line))
    line = whole[number]
    digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = digits[digits.index(line[-6]) + 1 : digits.index(line[-6]) + 2]  # its lowest bits carry nothing
    fault = check([*whole[:number], line[:-6] + last + line[-5:], *whole[number + 1 :]])
    assert fault is not None
    assert fault.reason == "its signature is wrong"


def test_a_deleted_or_doubled_checkpoint_is_named(whole: list[bytes]) -> None:
    numbers = [number for number, line in enumerate(whole) if not is_event(line)]
    for index, number in enumerate(numbers[:-1]):
        fault = check(whole[:number] + whole[number + 1 :])
        assert fault is not None
        named = fault.checkpoint == index + 1 or fault.reason == "out of order"
        assert named, fault
        doubled = check(whole[: number + 1] + whole[number:])
        assert doubled is not None
        assert doubled.reason == "out of order or doubled"


# --- nonsense -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"{}\n", b"[]\n", b"null\n", b"\xff\n", b"[" * 100_000 + b"\n", b'{"checkpoint":[]}\n',
        b'{"checkpoint":{}}\n', b'{"checkpoint":' + b"[" * 100_000 + b"\n", b'{"shard":99,"seq":1}\n', b"x",
        b'{"checkpoint":{"heads":[],"number":1e999}}\n',
    ],
)  # fmt: skip
def test_nonsense_is_a_fault_and_not_a_crash(line: bytes) -> None:
    fault = check([line])
    assert isinstance(fault, Fault)
    assert str(fault)


def test_text_that_is_no_utf8_is_a_fault_though_its_hash_is_right(whole: list[bytes]) -> None:
    line = whole[events_of(whole)[0]].replace("Åsa".encode(), b"\xc5sa")
    body = re.sub(rb'"hash":"[0-9a-f]{64}",', b"", line)
    digest = module.hashlib.sha256(body[:-1]).hexdigest().encode()
    line = re.sub(rb'"hash":"[0-9a-f]{64}"', b'"hash":"%s"' % digest, line)
    assert sealed(line) is not None
    fault = check([line])
    assert fault is not None
    assert fault.reason == "has no canonical form"


def test_an_event_of_another_version_is_not_waved_through(whole: list[bytes]) -> None:
    event = resealed({**json.loads(whole[0]), "v": 2})
    fault = check([to_line(event)])
    assert fault is not None
    assert fault.reason == "unknown version"


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 1000)
    (tmp_path / "long").write_bytes(b"x" * 5000)
    fault = verify(tmp_path / "long", KEY.public).fault
    assert fault is not None
    assert fault.reason == "the line is too long"


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(whole: list[bytes], tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(whole))
    return path


def test_the_exit_code_says_it(file: Path, whole: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(file), "--public-key", KEY.public]
    assert main(arguments) == 0
    assert "Whole: 170 events and 6 checkpoints." in capsys.readouterr().out
    file.write_bytes(b"".join(whole).replace("Åsa".encode(), b"Eve", 1))
    assert main(arguments) == 1
    shard, seq = place(whole[events_of(whole)[0]])
    assert f"NOT WHOLE. shard {shard}, seq {seq}: content does not match its hash (line 1)" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fault"]["seq"] == seq


def test_wrong_use_is_2(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--public-key", KEY.public]) == 2
    assert main([str(file), "--public-key", "short"]) == 2
    assert main([str(file), "--public-key", str(file)]) == 2
    (tmp_path / "state").write_text("[]")
    assert main([str(file), "--public-key", KEY.public, "--state", str(tmp_path / "state")]) == 2
    assert capsys.readouterr().err.count("\n") == 4
    with pytest.raises(SystemExit) as end:
        main([str(file)])
    assert end.value.code == 2


def test_the_state_is_kept_by_good_runs_only(file: Path, tmp_path: Path, whole: list[bytes]) -> None:
    state = tmp_path / "state.json"
    arguments = [str(file), "--public-key", KEY.public, "--state", str(state)]
    good = file.read_bytes()
    file.write_bytes(b"".join(whole[:40]))
    assert main(arguments) == 0
    before = state.read_bytes()
    file.write_bytes(good + b"x")
    assert main(arguments) == 1
    assert state.read_bytes() == before
    file.write_bytes(good)
    assert main(arguments) == 0
    assert Seen.load(state) == seen_after(whole)
    file.write_bytes(b"".join(whole[:40]))
    assert main(arguments) == 1
    assert main([str(file), "--public-key", OTHER_KEY.public, "--state", str(state)]) == 2


def test_a_key_is_taken_in_every_usual_form(tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    expected = SigningKey(private).public
    (tmp_path / "key.pem").write_text(pem)
    (tmp_path / "key.txt").write_text(expected + "\n")
    for text in (expected, raw.hex(), pem, str(tmp_path / "key.pem"), str(tmp_path / "key.txt")):
        assert public_key(text) == expected
    for text in ("", "x", "=" * 44, "-----BEGIN PUBLIC KEY-----", str(tmp_path / "none")):
        with pytest.raises(ValueError):
            public_key(text)


def test_the_file_of_the_verifier_runs_alone(file: Path, tmp_path: Path) -> None:
    """Copied out, with nothing of Depot to import."""
    alone = tmp_path / "alone" / "verify.py"
    alone.parent.mkdir()
    shutil.copy(SCRIPT, alone)
    command = [sys.executable, "-I", str(alone), str(file), "--public-key", KEY.public]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={})
    assert (done.returncode, done.stderr) == (0, "")
    assert "170 events" in done.stdout


def test_the_verifier_imports_the_standard_library_and_cryptography_alone() -> None:
    imported = set[str]()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert imported - sys.stdlib_module_names == {"cryptography"}


def test_the_documented_checkpoint_is_genuine_and_covers_the_documented_events() -> None:
    document = (Path(__file__).parents[2] / "docs" / "ledger-format.md").read_text()
    example = re.search(r"```checkpoint\n(.*?\n)```", document, re.DOTALL)
    events = re.search(r"```json\n(.*?)```", document, re.DOTALL)
    assert example
    assert events
    assert KEY.public in document
    lines = [to_line(json.loads(line)) for line in events.group(1).splitlines()]
    assert check([*lines, example.group(1).encode()]) is None
