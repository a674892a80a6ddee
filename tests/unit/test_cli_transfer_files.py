"""What `depot upload` and `download` do with files on this machine: the source, the state, the place of a download."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chalicelib.cli.client import place
from chalicelib.cli.client.failures import Failure, SourceChanged, Stopped
from chalicelib.cli.client.jobs import Stop, in_order
from chalicelib.cli.client.source import RunningHash, Slice, SourceFile
from chalicelib.cli.client.state import KEEP_SECONDS, ResumeStore, key_of, state_file

# --- the source ---------------------------------------------------------------------------------------------------------


def slice_of(source: SourceFile, start: int, end: int, running: RunningHash | None = None) -> Slice:
    return Slice(source, start, end, running=running, moved=lambda count: None, stop=threading.Event())


@pytest.mark.parametrize("seed", range(3))
def test_the_running_hash_survives_repetitions_and_gaps(seed: int, tmp_path: Path) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    content = chance.randbytes(100_000)
    path = tmp_path / "a"
    path.write_bytes(content)
    source, running = SourceFile(path), RunningHash()
    for _ in range(6):
        start = chance.randrange(100_000)
        with_block = slice_of(source, start, chance.randrange(start, 100_001), running)
        while with_block.read(chance.randrange(1, 9000)):
            pass
        with_block.close()
    assert running.finish(source, threading.Event()) == hashlib.sha256(content).hexdigest()


def test_a_slice_has_a_length_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(100)))
    part = slice_of(SourceFile(path), 10, 30)
    assert len(part) == 20
    assert part.read(15) + part.read(15) + part.read(15) == bytes(range(10, 30))
    part.close()


def test_the_last_block_of_a_changed_file_is_not_handed_out(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(1, 1))
    part = slice_of(SourceFile(path), 0, 100)
    assert part.read(50) == b"x" * 50
    path.write_bytes(b"y" * 100)
    with pytest.raises(SourceChanged):
        part.read(50)
    assert isinstance(part.error, SourceChanged)
    part.close()


def test_a_file_that_changed_is_not_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    source = SourceFile(path)
    path.write_bytes(b"x" * 101)
    with pytest.raises(SourceChanged):
        slice_of(source, 0, 100)


def test_a_stopped_slice_gives_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    stop = threading.Event()
    part = Slice(SourceFile(path), 0, 100, running=None, moved=lambda count: None, stop=stop)
    stop.set()
    with pytest.raises(Stopped):
        part.read(10)
    part.close()


# --- state ---------------------------------------------------------------------------------------------------------------


def test_entries_of_other_commands_stay_and_old_ones_go(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    first = ResumeStore(tmp_path / "s" / "uploads.json", pytest.fail, lambda: now)
    second = ResumeStore(tmp_path / "s" / "uploads.json", pytest.fail, lambda: now + KEEP_SECONDS)
    first.put("a", {"n": 1})
    second.put("b", {"n": 2})
    assert first.get("a") == {"n": 1, "saved_at": int(now)}
    third = ResumeStore(tmp_path / "s" / "uploads.json", pytest.fail, lambda: now + KEEP_SECONDS + 1)
    third.forget("nothing")
    assert (third.get("a"), third.get("b")) == (None, {"n": 2, "saved_at": int(now) + KEEP_SECONDS})


def test_many_threads_and_stores_lose_no_entry(tmp_path: Path) -> None:
    def work(number: int) -> Callable[[], None]:
        store = ResumeStore(tmp_path / "uploads.json", pytest.fail)
        return lambda: [store.put(f"{number}-{count}", {}) for count in range(10)] and None

    list(in_order([work(number) for number in range(8)], 8, Stop()))
    assert len(json.loads((tmp_path / "uploads.json").read_text())["entries"]) == 80


@pytest.mark.parametrize("text", ["", "null", "[]", '{"entries": [1]}', '{"entries": {"k": 1}}', "\xff"])
def test_a_damaged_state_counts_as_empty_and_is_replaced(text: str, tmp_path: Path) -> None:
    path = tmp_path / "uploads.json"
    path.write_text(text, encoding="latin-1")
    store = ResumeStore(path, pytest.fail)
    assert store.get("k") is None
    store.put("k", {"n": 1})
    entry = store.get("k")
    assert entry is not None
    assert entry["n"] == 1


def test_the_state_is_where_xdg_says_and_a_relative_path_does_not_count() -> None:
    assert state_file({"XDG_STATE_HOME": "/x"}, "u.json") == Path("/x/depot/u.json")
    assert state_file({"XDG_STATE_HOME": "x"}, "u.json") == Path.home() / ".local/state/depot/u.json"


def test_keys_do_not_run_into_one_another() -> None:
    assert key_of("a", "bc") != key_of("ab", "c")


# --- the place of a download ----------------------------------------------------------------------------------------------


def test_one_command_at_a_time_writes_a_part(tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    with place.open_part(part), pytest.raises(Failure, match="Another command"), place.open_part(part):
        pytest.fail("opened twice")


@pytest.mark.parametrize("third_command", [False, True])
def test_a_part_that_got_its_name_before_it_was_locked_is_not_written(
    third_command: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, final = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(b"done")

    def other_commits_first(descriptor: int, *, wait: bool) -> None:
        assert place.commit(part, final, replace=False)
        if third_command:
            part.write_bytes(b"")

    monkeypatch.setattr(place, "lock_file", other_commits_first)
    with pytest.raises(Failure, match="Another command"), place.open_part(part):
        pytest.fail("the finished file was opened for writing")
    assert final.read_bytes() == b"done"


def test_a_short_write_is_gone_on_with() -> None:
    class Slow(io.BytesIO):
        def write(self, block: object) -> int:
            return super().write(bytes(memoryview(block)[:3]))  # type: ignore[arg-type]

    slow = Slow()
    place.write_all(slow, b"0123456789")
    assert slow.getvalue() == b"0123456789"
