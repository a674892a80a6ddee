"""The integrity check: what it finds, what it must not take for a finding, how it goes on, how it spreads its work."""

from __future__ import annotations

import hashlib
import random

import pytest

from chalicelib import metrics
from chalicelib.errors import FileMissing, InvalidRequest, ObjectCorrupt, StorageUnavailable
from chalicelib.limits import KIB, MIB
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files import checks
from nas_gateway.files.access import Call
from nas_gateway.files.checks import CYCLE, DAY_SECONDS, bucket_of, next_check
from nas_gateway.files.placement import place
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.integrity import checker, known, reading, rows
from nas_gateway.integrity.integrity import Pace
from nas_gateway.integrity.tables import FileDigests
from nas_gateway.uploads.tables import UploadPart
from tests.support.crash import World, faults
from tests.support.gateway import user
from tests.support.stored import (
    DAY,
    PERIOD_DAYS,
    Countdown,
    Watching,
    change,
    check_of,
    claim,
    events,
    file_id_of,
    flipped,
    in_parts,
    only,
    row,
)

__all__ = ["faults"]

DATA = random.Random(7).randbytes(300 * KIB)
PART = 64 * KIB
ROUND = PERIOD_DAYS * DAY
FAILED, RESTORED, DIGEST = "integrity_failed", "integrity_restored", "digest_recorded"


@pytest.fixture
def world(faults, monkeypatch):
    # Each bucket of the index is a query, and moto takes its time for one.
    monkeypatch.setattr(checks, "CHECK_BUCKETS", 2)
    monkeypatch.setattr(rows, "CHECK_BUCKETS", 2)
    return World({name: MemoryStorage(name) for name in ("submissions", "scratch")}, faults)


@pytest.fixture
def store(world):
    return world.stores["submissions"]


def run(world, looks=10**9):
    """What is due, checked by a process of its own; the counts that are not 0."""
    return only(check_of(world).job(Countdown(looks)))


def due(world):
    """Everything that is stored is due."""
    world.later(ROUND)


def found(file_id):
    """(state, reasons in the ledger) of a file."""
    return row(file_id).state, [event.metadata["reason"] for event in events(file_id, FAILED)]


# --- what it finds ----------------------------------------------------------------------------------------------------


def test_a_file_that_is_right_is_read_whole_and_due_again_within_the_period(world):
    file_id = file_id_of(world, "a.csv", DATA)
    assert run(world) == {}, "it is not due yet"
    due(world)
    counts = check_of(world).job(Countdown(10**9))
    assert only(counts) == {"checked": 1}
    assert counts["bytes"] == len(DATA)
    file = row(file_id)
    assert file.state == State.AVAILABLE
    assert file.checked_at == world.now
    assert world.now < file.check_due <= world.now + ROUND
    assert (file.check_holder, file.check_until, file.check_offset) == (None, None, None)
    assert events(file_id, FAILED, RESTORED, DIGEST) == []
    assert run(world) == {}


def damages(store, path):
    """Each kind of damage, and what it is found as."""
    return {
        "missing": lambda: store.delete(path),
        "size": lambda: store.save(path, DATA[:-1]),
        "digest": lambda: change(store, path, flipped(DATA, random.Random(1))),
    }


@pytest.mark.parametrize("reason", ["missing", "size", "digest"])
def test_damage_is_a_state_an_event_a_metric_and_an_error_line(world, store, reason, capsys):
    file_id = file_id_of(world, "a.csv", DATA)
    damages(store, row(file_id).path)[reason]()
    due(world)
    before = failures(reason)
    assert run(world) == {"checked": 1, "failed": 1}
    assert found(file_id) == (State.CORRUPT, [reason])
    (event,) = events(file_id, FAILED)
    assert (event.outcome, event.cohort, event.error_code) == ("failed", "VACS", "object_corrupt")
    assert failures(reason) == before + 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if '"integrity_failed"' in line]
    assert '"ERROR"' in line
    assert file_id in line
    assert "a.csv" not in line
    assert row(file_id).check_due <= world.now + DAY, "whoever restores it need not wait for a month"


def failures(reason):
    return sum(
        sample.value
        for sample in metrics.registry.samples()
        if sample.metric.name == "depot_integrity_failed_total" and dict(sample.labels) == {"reason": reason}
    )


def test_available_and_the_object_missing_or_different_is_corrupt_and_an_alarm(world, store, capsys):
    """The row of the table in notes on reliability: for whatever differs, by whatever way it came."""
    for number, reason in enumerate(["missing", "size", "digest"]):
        file_id = file_id_of(world, f"{number}.csv", DATA)
        damages(store, row(file_id).path)[reason]()
    parts = in_parts(world, "p.csv", DATA, PART)
    change(store, row(parts).path, flipped(DATA, random.Random(2)))
    due(world)
    assert run(world) == {"checked": 4, "failed": 4}
    assert found(parts) == (State.CORRUPT, ["parts"])
    assert capsys.readouterr().err.count('"integrity_failed"') == 4


def test_a_damaged_file_is_found_once_and_stays_listed(world, store):
    file_id = file_id_of(world, "a.csv", DATA)
    store.delete(row(file_id).path)
    due(world)
    run(world)
    world.later(2 * DAY)
    assert run(world) == {"checked": 1}, "looked at again, and no second event"
    assert len(events(file_id, FAILED)) == 1
    listed, _ = world.process().transfers.registry.listed("VACS", None, 10)
    assert [(file.file_id, file.state) for file in listed] == [(file_id, State.CORRUPT)]


def test_a_damaged_file_is_described_and_deleted_but_not_served(world, store):
    file_id = file_id_of(world, "a.csv", DATA)
    path = row(file_id).path
    change(store, path, flipped(DATA, random.Random(3)))
    check_of(world).verify(file_id=file_id)
    transfers, reader = world.process().transfers, user("cohort_manager", "VACS")
    assert transfers.file(reader, file_id).state == State.CORRUPT
    for refused in (transfers.download, transfers.describe):
        with pytest.raises(ObjectCorrupt):
            refused(reader, "submissions", path)
    transfers.delete(reader, "submissions", path)
    with pytest.raises(FileMissing):
        transfers.file(reader, file_id)


def test_a_damaged_file_can_be_replaced(world, store):
    file_id = file_id_of(world, "a.csv", DATA)
    store.delete(row(file_id).path)
    check_of(world).verify(file_id=file_id)
    new = file_id_of(world, "a.csv", DATA)
    assert (row(file_id).state, row(new).state) == (State.REPLACED, State.AVAILABLE)
    due(world)
    assert run(world) == {"checked": 1}


def test_bytes_that_are_right_again_are_released(world, store):
    file_id = file_id_of(world, "a.csv", DATA)
    path = row(file_id).path
    store.delete(path)
    due(world)
    run(world)
    store.save(path, DATA)
    world.later(2 * DAY)
    assert run(world) == {"checked": 1, "restored": 1}
    assert row(file_id).state == State.AVAILABLE
    assert [event.outcome for event in events(file_id, RESTORED)] == ["completed"]
    with world.process().transfers.download(Call(), "submissions", path) as download:
        assert download.read() == DATA


# --- uploads in pieces ------------------------------------------------------------------------------------------------


def test_an_upload_in_pieces_gets_its_whole_digest_within_a_day(world):
    file_id = in_parts(world, "p.csv", DATA, PART)
    world.later(DAY + 1)
    assert run(world) == {"checked": 1, "digests": 1}
    assert row(file_id).sha256 == hashlib.sha256(DATA).hexdigest()
    (event,) = events(file_id, DIGEST)
    assert (event.file_hash, event.metadata) == (row(file_id).sha256, {"basis": "parts"})
    due(world)
    assert run(world) == {"checked": 1}, "only once"


def test_parts_that_differ_give_no_digest(world, store):
    file_id = in_parts(world, "p.csv", DATA, PART)
    change(store, row(file_id).path, flipped(DATA, random.Random(4)))
    due(world)
    assert run(world) == {"checked": 1, "failed": 1}
    assert row(file_id).sha256 is None
    assert found(file_id) == (State.CORRUPT, ["parts"])


def test_the_rows_of_the_upload_are_not_needed_after_the_first_check(world, store):
    file_id = in_parts(world, "p.csv", DATA, PART)
    due(world)
    run(world)
    for part in UploadPart.query(file_id):
        part.delete()
    change(store, row(file_id).path, flipped(DATA, random.Random(5)))
    due(world)
    assert run(world) == {"checked": 1, "failed": 1}
    assert found(file_id)[1] == ["parts"]


@pytest.mark.parametrize("wrong", ["one is gone", "one says something else"])
def test_rows_of_parts_that_are_not_those_of_the_file_are_not_gone_by(world, wrong):
    """Then only the size is known, and nothing false is found."""
    file_id = in_parts(world, "p.csv", DATA, PART)
    part = next(iter(UploadPart.query(file_id)))
    part.delete() if wrong == "one is gone" else part.update([UploadPart.sha256.set("0" * 64)])
    due(world)
    assert run(world) == {"checked": 1, "digests": 1}
    assert events(file_id, DIGEST)[0].metadata == {"basis": "first_reading"}


def direct(world, name="d.bin"):
    """A file that went straight to the store: nobody knows more of it than its size and ETag."""
    file_id = file_id_of(world, name, DATA)
    TrackedFile(file_id).update([TrackedFile.sha256.remove()])
    return file_id


def test_a_file_whose_bytes_nobody_saw_is_compared_with_its_etag_the_first_time(world, store):
    right, wrong = direct(world, "right.bin"), direct(world, "wrong.bin")
    other = bytes(reversed(DATA))
    store.save(row(wrong).path, other)
    due(world)
    assert run(world) == {"checked": 2, "digests": 1, "failed": 1}
    assert row(right).sha256 == hashlib.sha256(DATA).hexdigest()
    assert events(right, DIGEST)[0].metadata == {"basis": "first_reading"}
    assert found(wrong) == (State.CORRUPT, ["digest"])


def presigned(world, store, etag_of):
    """A file of three parts that went straight to the store, which gave these ETags for them."""
    file_id = direct(world)
    for number, offset in enumerate(range(0, len(DATA), 100 * KIB), start=1):
        part = DATA[offset : offset + 100 * KIB]
        UploadPart(file_id, number, offset=offset, size=len(part), etag=etag_of(part), sha256="").save()
    return file_id


def md5(part):
    return hashlib.md5(part).hexdigest()


def test_a_presigned_file_is_compared_with_the_store_s_own_digests_of_its_parts(world, store):
    right = presigned(world, store, md5)
    due(world)
    assert run(world) == {"checked": 1, "digests": 1}
    assert events(right, DIGEST)[0].metadata == {"basis": "store_digests"}
    (kept,) = FileDigests.query(right)
    assert len(kept.packed) == 3 * 40


def test_a_presigned_file_that_was_put_back_in_another_way_is_right(world, store):
    """Its ETag is another then."""
    file_id = presigned(world, store, md5)
    TrackedFile(file_id).update([TrackedFile.etag.set("other-3")])
    due(world)
    assert run(world) == {"checked": 1, "digests": 1}


def test_rot_in_a_presigned_file_is_found_at_its_first_check(world, store):
    file_id = presigned(world, store, md5)
    change(store, row(file_id).path, flipped(DATA, random.Random(14)))
    due(world)
    assert run(world) == {"checked": 1, "failed": 1}
    assert found(file_id) == (State.CORRUPT, ["parts"])
    assert list(FileDigests.query(file_id)) == []


def test_etags_that_are_no_digests_are_not_gone_by(world, store):
    file_id = presigned(world, store, lambda part: md5(part + b"salt"))
    due(world)
    assert run(world) == {"checked": 1, "digests": 1}
    assert events(file_id, DIGEST)[0].metadata == {"basis": "first_reading"}


# --- going on where the time ended ------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 KiB, so that a test's deadline can end anywhere in a small file."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 16 * KIB)


def known_in_parts(world):
    """A file whose parts' digests and whole digest are known."""
    file_id = in_parts(world, "p.csv", DATA, PART)
    due(world)
    run(world)
    due(world)
    return file_id


def test_who_asks_for_a_check_now_gets_all_of_it(world, store, small_blocks):
    """Not only what a run has left of it: its first part may have changed since."""
    file_id = known_in_parts(world)
    check_of(world).job(Countdown(6))
    assert row(file_id).check_offset == PART
    change(store, row(file_id).path, bytes([DATA[0] ^ 1]) + DATA[1:])
    assert check_of(world).verify(file_id=file_id).damaged == [{"file_id": file_id, "reason": "parts"}]


def test_a_large_file_goes_on_part_by_part_and_is_read_once_in_all(world, store, small_blocks):
    file_id, runs, read = known_in_parts(world), 0, 0
    while row(file_id).checked_at != world.now:
        counts = check_of(world).job(Countdown(9))
        runs, read = runs + 1, read + counts["bytes"]
        assert counts["left"] == (row(file_id).checked_at != world.now)
        assert runs < 10
    assert runs > 2
    assert read < len(DATA) + runs * PART, "of each part that was not finished something is read twice, and no more"
    assert row(file_id).check_offset is None


def test_damage_behind_the_place_where_it_went_on_is_found(world, store, small_blocks):
    file_id = known_in_parts(world)
    change(store, row(file_id).path, DATA[:-1] + bytes([DATA[-1] ^ 1]))
    runs = 0
    while row(file_id).state == State.AVAILABLE:
        check_of(world).job(Countdown(12))
        runs += 1
        assert runs < 10
    assert runs > 1
    assert found(file_id) == (State.CORRUPT, ["parts"])


def test_a_place_to_go_on_at_counts_only_with_the_digests_of_what_lies_behind_it(world, store, small_blocks):
    """They are gone, say: then all of it is read, since only the whole digest is left to compare with."""
    file_id = known_in_parts(world)
    check_of(world).job(Countdown(6))
    assert row(file_id).check_offset == PART
    for gone in (*FileDigests.query(file_id), *UploadPart.query(file_id)):
        gone.delete()
    change(store, row(file_id).path, DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert run(world) == {"checked": 1, "failed": 1}
    assert found(file_id)[1] == ["digest"]


@pytest.mark.parametrize("damaged", [None, 0, -1], ids=["right", "its first part", "its last part"])
def test_a_large_presigned_file_is_first_read_in_several_calls(world, store, small_blocks, monkeypatch, damaged):
    monkeypatch.setattr(checker, "ONE_PASS_BYTES", 0)
    file_id = presigned(world, store, md5)
    if damaged is not None:
        data = bytearray(DATA)
        data[damaged] ^= 1
        change(store, row(file_id).path, bytes(data))
    due(world)
    runs, read = 0, 0
    while row(file_id).checked_at is None and row(file_id).state == State.AVAILABLE:
        read += check_of(world).job(Countdown(18))["bytes"]  # two parts and a little
        runs += 1
        assert runs < 9
    assert runs == (1 if damaged == 0 else 2)
    if damaged is not None:
        assert found(file_id) == (State.CORRUPT, ["parts"])
        return
    assert read < 2 * len(DATA)
    assert row(file_id).sha256 is None, "nobody read it in one go"
    assert [item.size for item in known.of(row(file_id)).ranges] == [100 * KIB] * 3
    due(world)
    change(store, row(file_id).path, flipped(DATA, random.Random(15)))
    assert run(world) == {"checked": 1, "failed": 1}


def test_another_object_since_the_last_call_is_read_from_the_beginning(world, store, small_blocks):
    file_id = known_in_parts(world)
    check_of(world).job(Countdown(6))
    assert row(file_id).check_offset == PART
    path = row(file_id).path
    store.save(path, flipped(DATA[:PART], random.Random(6)) + DATA[PART:])  # its damage lies before the checkpoint
    assert run(world) == {"checked": 1, "failed": 1}


def test_a_file_that_needs_one_go_and_more_time_than_a_call_has_lets_the_others_have_their_turn(
    world, small_blocks, capsys
):
    large, small = file_id_of(world, "large.csv", DATA), file_id_of(world, "small.csv", DATA[:KIB])
    due(world)
    TrackedFile(large).update([TrackedFile.check_due.set(1)])  # it comes first
    for _ in range(3):
        check_of(world).job(Countdown(8))
    assert row(small).checked_at == world.now
    assert row(large).checked_at is None
    assert "integrity_needs_longer" in capsys.readouterr().err
    check_of(world).verify(file_id=large)
    assert row(large).checked_at == world.now


def test_ranges_of_a_large_single_upload_are_kept_when_its_whole_digest_was_right(
    world, store, monkeypatch, small_blocks
):
    monkeypatch.setattr(known, "RANGE_BYTES", 100 * KIB)
    file_id = file_id_of(world, "a.csv", DATA)
    due(world)
    run(world)
    (kept,) = FileDigests.query(file_id)
    assert len(kept.packed) == 3 * 40
    assert known.of(row(file_id)).ranges[2].offset == 200 * KIB
    due(world)
    assert check_of(world).job(Countdown(12))["left"] == 1
    assert row(file_id).check_offset == 100 * KIB
    assert run(world) == {"checked": 1}
    change(store, row(file_id).path, flipped(DATA, random.Random(8)))
    due(world)
    assert run(world) == {"checked": 1, "failed": 1}
    assert found(file_id)[1] == ["parts"]


def test_ranges_of_a_damaged_file_are_not_kept(world, store, monkeypatch):
    monkeypatch.setattr(known, "RANGE_BYTES", 100 * KIB)
    file_id = file_id_of(world, "a.csv", DATA)
    change(store, row(file_id).path, flipped(DATA, random.Random(9)))
    due(world)
    assert run(world) == {"checked": 1, "failed": 1}
    assert list(FileDigests.query(file_id)) == []


def test_more_ranges_than_a_row_holds(world, monkeypatch):
    monkeypatch.setattr(known, "RANGES_A_ROW", 2)
    file_id = in_parts(world, "p.csv", DATA, PART)
    due(world)
    run(world)
    assert [int(kept.first) for kept in FileDigests.query(file_id)] == [0, 2, 4]
    assert [item.offset for item in known.of(row(file_id)).ranges] == [at * PART for at in range(5)]


# --- what is no finding -----------------------------------------------------------------------------------------------


def watched(world, act, at=1):
    """While a file is read, after its block number `at`, this happens once."""
    pending = [act]
    store = Watching(world.stores["submissions"], lambda: pending.pop()() if pending else None, at)
    world.stores["submissions"] = store
    return store


def test_a_file_that_is_replaced_while_it_is_read_is_no_finding(world):
    old = file_id_of(world, "a.csv", DATA)
    due(world)
    TrackedFile(old).update([TrackedFile.size.set(len(DATA) - 1)])  # what is read would be a finding
    watched(world, lambda: None)
    new = []
    real = world.stores["submissions"].get_metadata
    check = check_of(world)

    def later(path):
        if not new:
            new.append("")
            new[0] = file_id_of(world, "a.csv", DATA)
        return info

    info = real(row(old).path)  # a store that says nothing of the change: only the rows tell
    world.stores["submissions"].get_metadata = later
    assert only(check.job(Countdown(10**9))) == {"skipped": 1}
    assert (row(old).state, row(new[0]).state) == (State.REPLACED, State.AVAILABLE)
    assert events(old, FAILED) == []


def test_a_file_whose_replacement_is_under_way_is_no_finding(world, store):
    """Its bytes are there before the rows say so."""
    old = file_id_of(world, "a.csv", DATA)
    due(world)
    transfers, path = world.process().transfers, row(old).path
    file, intent = transfers.announce(Call(), place("submissions", path), "file_uploaded_via_stream", if_absent=False)
    saved = store.save(path, b"new")
    assert run(world) == {"skipped": 1}
    assert found(old) == (State.AVAILABLE, [])
    assert row(old).check_due > world.now, "it is looked at again later"
    file.size, file.sha256, file.etag = saved.size, saved.sha256, saved.etag
    transfers.complete(file, intent)
    assert row(old).state == State.REPLACED


@pytest.mark.parametrize("at", ["before the row is written", "between the object and its row"])
def test_a_file_that_is_deleted_while_it_is_read_is_no_finding(world, at):
    file_id = file_id_of(world, "a.csv", DATA)
    due(world)
    path, transfers = row(file_id).path, world.process().transfers
    real = world.stores["submissions"]

    class Deleting:
        def __getattr__(self, name):
            return getattr(real, name)

        def open(self, asked, range=None):
            if at == "before the row is written":
                transfers.delete(Call(), "submissions", path)
            else:
                TrackedFile(file_id).update([TrackedFile.state.set(State.DELETING)])
                real.delete(path)
            raise FileMissing

    world.stores["submissions"] = Deleting()
    assert run(world)["skipped"] == 1
    assert events(file_id, FAILED) == []
    assert row(file_id).state in (State.DELETED, State.DELETING)
    assert row(file_id).check_due is None or at != "before the row is written"


def test_an_object_that_changes_while_it_is_read_is_no_finding(world, store):
    """Somebody restores it at this moment: the bytes that were read are the old ones."""
    file_id = file_id_of(world, "a.csv", DATA)
    path = row(file_id).path
    store.save(path, flipped(DATA, random.Random(10)))
    due(world)
    watched(world, lambda: store.save(path, DATA))
    assert run(world) == {"skipped": 1}
    assert found(file_id) == (State.AVAILABLE, [])
    world.later(DAY)
    assert run(world) == {"checked": 1}


def test_an_object_that_comes_back_at_this_moment_is_no_finding(world, store):
    file_id = file_id_of(world, "a.csv", DATA)
    due(world)
    path = row(file_id).path

    class Blinking:
        def __getattr__(self, name):
            return getattr(store, name)

        def open(self, asked, range=None):
            raise FileMissing

    world.stores["submissions"] = Blinking()
    assert store.exists(path)
    assert run(world) == {"skipped": 1}
    assert found(file_id) == (State.AVAILABLE, [])


class Away:
    """A NAS that does not answer."""

    def __init__(self, store, error=StorageUnavailable):
        self._store, self._error, self.asked = store, error, 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def open(self, path, range=None):
        self.asked += 1
        raise self._error


def test_a_nas_that_is_away_is_no_finding_and_the_run_says_so(world, capsys):
    ids = [file_id_of(world, f"{number}.csv", DATA) for number in range(6)]
    here = file_id_of(world, "here.csv", DATA, disk="scratch")
    due(world)
    away = world.stores["submissions"] = Away(world.stores["submissions"])
    counts = check_of(world).job(Countdown(10**9))
    assert only(counts) == {"checked": 1, "skipped": 3, "left": 3, "away": 1}
    assert away.asked == 3, "the others are not tried in this run"
    assert all(found(file_id) == (State.AVAILABLE, []) for file_id in ids)
    assert row(here).checked_at == world.now
    assert "integrity_disk_away" in capsys.readouterr().err
    world.stores["submissions"] = away._store
    assert run(world) == {"checked": 3}
    world.later(2 * 3600)
    assert run(world) == {"checked": 3}, "those that were tried come back soon"


def test_the_pause_after_a_failure_doubles_up_to_a_day(world):
    file_id = file_id_of(world, "a.csv", DATA)
    due(world)
    world.stores["submissions"] = Away(world.stores["submissions"])
    pauses = []
    for _ in range(7):
        run(world)
        pauses.append((row(file_id).check_due - world.now) / 3600)
        world.later(pauses[-1] * 3600 + 1)
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 24, 24])


# --- one check a file -------------------------------------------------------------------------------------------------


def test_two_runs_at_once_check_a_file_once(world, store):
    file_id = file_id_of(world, "a.csv", DATA)
    change(store, row(file_id).path, flipped(DATA, random.Random(11)))
    due(world)
    second, other = [], check_of(world)
    watched(world, lambda: second.append(only(other.job(Countdown(10**9)))))
    assert run(world) == {"checked": 1, "failed": 1}
    assert second == [{"skipped": 1, "left": 1}]
    assert len(events(file_id, FAILED)) == 1


def test_an_entry_of_the_index_that_is_behind_leads_to_no_second_check(world):
    file_id = file_id_of(world, "a.csv", DATA)
    due(world)
    stale = row(file_id)
    run(world)
    one = check_of(world)._checker
    assert one.check(stale, Countdown(10**9), seen_due=stale.check_due).outlook == checker.Outlook.SKIPPED


def test_a_holder_that_went_away_is_succeeded_after_its_lease(world):
    file_id = file_id_of(world, "a.csv", DATA)
    due(world)
    TrackedFile(file_id).update(
        [TrackedFile.check_holder.set("gone"), TrackedFile.check_until.set(world.now + checker.LEASE_SECONDS)]
    )
    assert run(world) == {"skipped": 1, "left": 1}
    world.later(checker.LEASE_SECONDS + 1)
    assert run(world) == {"checked": 1}


def test_who_lost_the_hold_records_nothing(world, store):
    """It slept past its lease, and another took over: its finding is not written."""
    file_id = file_id_of(world, "a.csv", DATA)
    path = row(file_id).path
    change(store, path, flipped(DATA, random.Random(12)))
    due(world)
    watched(world, lambda: TrackedFile(file_id).update([TrackedFile.check_holder.set("another")]))
    assert run(world)["skipped"] == 1
    assert found(file_id) == (State.AVAILABLE, [])
    assert row(file_id).check_holder == "another"


def test_a_long_reading_keeps_its_hold(world, small_blocks):
    file_id = file_id_of(world, "a.csv", DATA)
    due(world)
    until = []
    ticks = iter(range(0, 10**6, 60))

    def monotonic():
        world.now += 60
        until.append(row(file_id).check_until)
        return next(ticks)

    check = check_of(world, monotonic=monotonic, rate=1e18, sleep=lambda _: None)
    assert only(check.job(Countdown(10**9))) == {"checked": 1}
    assert len(set(until)) > 3


# --- spread -----------------------------------------------------------------------------------------------------------


def test_files_that_arrive_together_come_due_evenly():
    """A million would; here 20,000 ids in slots of a thirtieth of the period, and in each bucket of the index."""
    chance = random.Random(13)
    ids = [f"{chance.getrandbits(128):032x}" for _ in range(20_000)]
    now, period = 1_700_000_000.0, 30 * DAY
    dues = {file_id: next_check(file_id, now, period) for file_id in ids}
    assert all(now < due <= now + CYCLE * period for due in dues.values())
    for some in (ids, [file_id for file_id in ids if bucket_of(file_id) == 3]):
        slots = [0] * 27
        for file_id in some:
            slots[min(26, int((dues[file_id] - now) // DAY))] += 1
        usual = len(some) / 27
        assert max(slots) < 1.5 * usual
        assert min(slots) > 0.5 * usual


def test_the_spread_stays_after_everything_was_checked_at_once():
    now, period = 1_700_000_000.0, 30 * DAY
    for file_id in ("a", "b", "c"):
        first = next_check(file_id, now, period)
        assert next_check(file_id, first + 10, period) == pytest.approx(first + CYCLE * period)
        assert next_check(file_id, first - 10, period) == pytest.approx(first)


def test_first_checks_of_whole_and_of_piecewise_uploads(world):
    whole, pieces = file_id_of(world, "w.csv", DATA), in_parts(world, "p.csv", DATA, PART)
    assert row(whole).check_due == next_check(whole, world.now, ROUND)
    assert world.now < row(pieces).check_due <= world.now + DAY_SECONDS


def test_the_longest_due_come_first(world, store):
    ids = [file_id_of(world, f"{number}.csv", DATA[:KIB]) for number in range(8)]
    due(world)
    order = sorted(ids, key=lambda file_id: row(file_id).check_due)
    check_of(world).job(Countdown(6))  # three looks a file: before it, and after its one block
    assert [file_id for file_id in order if row(file_id).checked_at] == order[:3]


def test_overdue_files_are_told(world):
    file_id_of(world, "a.csv", DATA)
    world.later(ROUND + 1)
    check_of(world).job(Countdown(0))
    assert gauge("depot_integrity_overdue_files") == (1,)
    check_of(world).job(Countdown(10**9))
    assert gauge("depot_integrity_overdue_files") == (0,)


def gauge(name):
    return tuple(sample.value for sample in metrics.registry.samples() if sample.metric.name == name)


# --- pace -------------------------------------------------------------------------------------------------------------


def test_reading_is_held_down_to_the_rate():
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(10 * MIB, monotonic=lambda: now[0], sleep=sleep)
    for _ in range(30):
        pace(MIB)
    assert now[0] - 100 == pytest.approx(3)
    now[0] += 60  # a pause is not made up for with a burst
    pace(MIB)
    assert slept[-1] == pytest.approx(0.1)


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_checks_what_is_asked_for_due_or_not(world, store):
    ids = [file_id_of(world, f"{number}.csv", DATA) for number in range(3)]
    other = file_id_of(world, "other.csv", DATA, disk="scratch")
    store.delete(row(ids[1]).path)
    check = check_of(world)
    assert only(check.verify(file_id=ids[0]).counts) == {"checked": 1}
    report = check.verify(cohort="VACS")
    assert only(report.counts) == {"checked": 4, "failed": 1}
    assert report.damaged == [{"file_id": ids[1], "reason": "missing"}]
    again = check.verify(everything=True)
    assert only(again.counts) == {"checked": 4}
    assert again.damaged == report.damaged, "found before, and named all the same"
    assert row(other).checked_at == world.now


def test_verify_names_what_it_could_not_check(world):
    file_id = file_id_of(world, "a.csv", DATA)
    world.stores["submissions"] = Away(world.stores["submissions"])
    report = check_of(world).verify(file_id=file_id)
    assert report.unread == [{"file_id": file_id, "why": "storage_unavailable"}]


def test_a_work_copy_that_was_only_reported_is_not_checked(world, store):
    """Depot has not written its bytes, and they may change."""
    file_id = file_id_of(world, "a.csv", DATA)
    TrackedFile(file_id).update([TrackedFile.check_bucket.remove(), TrackedFile.check_due.remove()])
    store.delete(row(file_id).path)
    assert only(check_of(world).verify(cohort="VACS").counts) == {}
    with pytest.raises(FileMissing):
        check_of(world).verify(file_id=file_id)
    assert found(file_id) == (State.AVAILABLE, [])


def test_verify_refuses_what_is_not_there(world):
    with pytest.raises(FileMissing):
        check_of(world).verify(file_id="0" * 32)
    for asked in ({}, {"cohort": "VACS", "everything": True}):
        with pytest.raises(InvalidRequest):
            check_of(world).verify(**asked)


def test_an_empty_file(world, store):
    file_id = file_id_of(world, "empty.csv", b"")
    due(world)
    assert run(world) == {"checked": 1}
    store.save(row(file_id).path, b"x")
    due(world)
    assert run(world) == {"checked": 1, "failed": 1}


def test_the_path_of_a_found_file_is_as_it_was(world, store):
    file_id = file_id_of(world, "a.csv", DATA)
    store.delete(row(file_id).path)
    check_of(world).verify(file_id=file_id)
    assert claim(file_id).file_id == file_id
