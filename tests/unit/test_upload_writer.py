"""Bodies of every size, split and ending, through one process or several: what was acknowledged is the file."""

from __future__ import annotations

import os
import random
import secrets
import threading
import uuid
from contextlib import suppress

import pytest

from chalicelib.errors import (
    DepotError,
    ForwardedDiffers,
    LeaseLost,
    LengthMismatch,
    ObjectCorrupt,
    OffsetConflict,
    StorageUnavailable,
    TruncatedBody,
    UploadEnded,
    UploadLost,
    UploadStateConflict,
)
from chalicelib.limits import KIB, MAX_PARTS, MIB
from chalicelib.storage.seal import SealedBody, unsealed
from chalicelib.storage.streams import BytesReader, IteratorReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.uploads import rows
from nas_gateway.uploads.tables import Kind, UploadPart, UploadSession
from nas_gateway.uploads.writer import PARTS_IN_FLIGHT
from tests.support.crash import Crash, Way, World, faults
from tests.support.sender import Sender, check_ledger, check_no_residue, check_stored, chunked

__all__ = ["faults"]

MANY = int(os.environ.get("RANDOM_ROUNDS", "60"))
PART, LEAST = 80 * KIB, 50 * KIB
DATA = random.Random(7).randbytes(17 * MIB)
RULES = {"s3": {"min_part_bytes": LEAST, "renumber_after_loss": False}, "folder": {}}


@pytest.fixture
def world_on(faults, tmp_path):
    def make(kind="s3", store=None):
        if store is None and kind == "folder":
            store = LocalFileSystemStorage("submissions", str(tmp_path / "nas"))
        return World({"submissions": store or MemoryStorage("submissions", **RULES[kind])}, faults)

    return make


def new(**values):
    path = f"submissions/VACS/2024/patient/{uuid.uuid4().hex}.csv"
    return NewUpload(**{"disk": "submissions", "path": path, **values})


def row(sender_or_id):
    return UploadSession.get(getattr(sender_or_id, "upload_id", sender_or_id), consistent_read=True)


class Breaks(BytesReader):
    """Gives what it has, then breaks as a cut connection does. Says that it is longer."""

    def __init__(self, data, claimed):
        super().__init__(data)
        self._claimed = claimed

    def __len__(self):
        return self._claimed

    def read(self, size=-1, /):
        block = super().read(size)
        if not block:
            raise TruncatedBody
        return block


# --- sizes and splits -------------------------------------------------------------------------------------------------

EDGES = [0, 1, *(edge * MIB + more for edge in (4, 5, 8, 16) for more in (-1, 0, 1))]
SOME = [0, 5 * MIB - 1, 8 * MIB + 1]


@pytest.mark.parametrize(
    ("kind", "deferred", "sizes"),
    [
        ("s3", False, EDGES[:-3]),
        ("s3", True, SOME),
        ("folder", False, SOME),
        *(
            pytest.param(kind, late, EDGES, marks=pytest.mark.slow)
            for kind in ("s3", "folder")
            for late in (False, True)
        ),
    ],
)
def test_sizes_around_every_edge_in_chunks_of_4_mib(faults, tmp_path, kind, deferred, sizes):
    """With the real sizes of parts, through two processes that take turns."""
    store = (
        LocalFileSystemStorage("submissions", str(tmp_path / "nas"))
        if kind == "folder"
        else MemoryStorage("submissions", min_part_bytes=5 * MIB, renumber_after_loss=False)
    )
    world = World({"submissions": store}, faults)
    turns = [world.process(), world.process()]
    for size in sizes:
        sender = Sender(world, DATA[:size], new(), (4 * MIB,), deferred=deferred)
        status = sender.begin(turns[0])
        while status.state != "AVAILABLE":
            status = sender.step(turns[sender.sent % 2], status)
        check_stored(world, status, DATA[:size])
        store.delete(status.receipt.path)
    check_no_residue(world)
    check_ledger()


@pytest.mark.parametrize("count", [5, pytest.param(MANY, marks=pytest.mark.slow, id="many")])
@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_random_splits_bodies_and_processes(world_on, kind, count):
    """Chunked or of known length, whole or broken off anywhere; any process, each with a memory of its own."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance, world = random.Random(seed), world_on(kind)
    for _ in range(count):
        size = chance.choice([chance.randint(0, 2 * PART), chance.randint(0, 600 * KIB)])
        start = chance.randrange(len(DATA) - size)
        data, turns = DATA[start : start + size], [world.process() for _ in range(chance.randint(1, 3))]
        deferred = chance.random() < 0.4
        sender = Sender(world, data, new(), (1,), deferred=deferred, part_bytes=PART)
        status = sender.begin(chance.choice(turns))
        while status.state != "AVAILABLE":
            process = chance.choice(turns)
            if status.offset == size:
                status = sender.step(process, status)
                continue
            length = chance.choice([chance.randint(1, 3000), chance.randint(1, PART), chance.randint(1, 5 * PART)])
            block = data[status.offset : status.offset + length]
            kept = chance.choice([len(block), chance.randint(0, len(block))])
            body = chunked(block) if chance.random() < 0.5 else BytesReader(block)
            if kept < len(block):
                body = Breaks(block[:kept], len(block)) if chance.random() < 0.5 else broken_off(block[:kept])
                with pytest.raises(TruncatedBody):
                    process.append(Call(), sender.upload_id, status.offset, body)
                before, status = status.offset, sender.check(chance.choice(turns).status(Call(), sender.upload_id))
                assert status.offset == before + kept, "every byte that arrived counts"
            else:
                status = sender.check(process.append(Call(), sender.upload_id, status.offset, body))
        check_stored(world, status, data)
    check_no_residue(world)
    check_ledger()


def broken_off(data):
    """A chunked body that is cut."""

    def blocks():
        yield data
        raise TruncatedBody

    return IteratorReader(blocks())


@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_chunks_of_one_byte(world_on, kind):
    world = world_on(kind)
    sender = Sender(world, DATA[:25], new(), (1,), part_bytes=PART)
    check_stored(world, sender.go(world.process()), DATA[:25])
    check_no_residue(world)


# --- lengths that lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_more_than_was_announced_is_refused_with_a_length_and_without(world_on, kind):
    world = world_on(kind)
    process = world.process()
    upload_id = process.create(Call(), new(size=10)).upload_id
    with pytest.raises(LengthMismatch):
        process.append(Call(), upload_id, 0, BytesReader(b"x" * 11))
    assert process.status(Call(), upload_id).offset == 0
    large = Sender(world, DATA[: 7 * PART], new(), (1,), part_bytes=PART)
    large.begin(process)
    with pytest.raises(LengthMismatch):
        process.append(Call(), large.upload_id, 0, BytesReader(DATA[: 7 * PART + 1]))
    assert process.status(Call(), large.upload_id).offset == 0, "not even the parts before the end"
    with pytest.raises(LengthMismatch):
        process.append(Call(), upload_id, 0, IteratorReader([b"0123456789", b"x"]))
    assert process.status(Call(), upload_id).state == "OPEN"
    status = process.append(Call(), upload_id, process.status(Call(), upload_id).offset, BytesReader(b"0123456789"))
    check_stored(world, status, b"0123456789")


def test_a_size_below_what_has_arrived_and_a_second_other_size_are_refused(world_on):
    process = world_on().process()
    upload_id = process.create(Call(), new()).upload_id
    process.append(Call(), upload_id, 0, BytesReader(b"0123456789"))
    with pytest.raises(LengthMismatch):
        process.declare_size(Call(), upload_id, 9)
    process.declare_size(Call(), upload_id, 11)
    process.declare_size(Call(), upload_id, 11)
    with pytest.raises(UploadStateConflict):
        process.declare_size(Call(), upload_id, 12)
    with pytest.raises(LengthMismatch):
        process.complete(Call(), upload_id)
    process.abort(Call(), upload_id)


# --- part numbers -----------------------------------------------------------------------------------------------------


def numbered(sender, parts, *, unclean=0):
    """The session as if so many parts had been used; and holders that never let go."""
    session = row(sender)
    session.update(
        [
            UploadSession.parts.set(parts),
            UploadSession.epoch.set(session.epoch + unclean),
        ]
    )


@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_short_parts_are_made_only_while_the_numbers_suffice_for_the_rest(world_on, kind):
    """Five numbers for four full parts: one part may be short. After it, bytes wait as tails for a full part."""
    world = world_on(kind)
    process = world.process()
    sender = Sender(world, DATA[: 4 * PART], new(), (60 * KIB,), part_bytes=PART)
    sender.begin(process)
    numbered(sender, MAX_PARTS - 5)
    check_stored(world, sender.go(process), sender.data)
    numbers = [int(part.number) for part in UploadPart.query(sender.upload_id)]
    assert numbers[-1] <= MAX_PARTS
    assert len(numbers) == 5, "one short part more than needed, and then full ones"


def test_numbers_skipped_after_a_crash_are_made_up_for_by_larger_parts(world_on):
    """Four full parts to come and four numbers left; the holder before never let go, so three of them are not to be used."""
    world = world_on("folder")
    process = world.process()
    sender = Sender(world, DATA[: 4 * PART], new(), (4 * PART,), part_bytes=PART)
    sender.begin(process)
    numbered(sender, MAX_PARTS - 4, unclean=1)
    check_stored(world, sender.go(process), sender.data)
    sizes = [(int(part.number), int(part.size)) for part in UploadPart.query(sender.upload_id)]
    assert sizes == [(MAX_PARTS, 4 * PART)]


def test_a_holder_that_stored_nothing_does_not_hide_the_one_before_it_that_never_let_go(world_on):
    world = world_on("folder")
    process = world.process()
    sender = Sender(world, DATA[: 2 * PART], new(), (PART,), part_bytes=PART)
    sender.begin(process)
    numbered(sender, 0, unclean=1)
    process.append(Call(), sender.upload_id, 0, BytesReader(b""))
    assert rows.unclean_epochs(row(sender)) >= 1
    sender.go(process)
    numbers = [int(part.number) for part in UploadPart.query(sender.upload_id)]
    assert numbers[0] > PARTS_IN_FLIGHT
    assert numbers[1] == numbers[0] + 1, "who stored something is known to be above them all"


# --- a store that fails -----------------------------------------------------------------------------------------------


class Failing(MemoryStorage):
    """Refuses the part that begins at one offset, as often as it is told to."""

    def __init__(self, at, error, **rules):
        super().__init__("submissions", **rules)
        self.at, self.error = at, error

    def write_part(self, path, handle, number, offset, data):
        if offset == self.at:
            raise self.error
        return super().write_part(path, handle, number, offset, data)


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_when_part_k_fails_those_before_it_stay_acknowledged_and_none_after_it(world_on, kind, k):
    store = Failing(k * PART, StorageUnavailable(), **RULES[kind])
    world = world_on(store=store)
    process = world.process()
    sender = Sender(world, DATA[: 5 * PART - 7], new(), (5 * PART,), part_bytes=PART)
    status = sender.begin(process)
    with pytest.raises(StorageUnavailable):
        sender.step(process, status)
    assert process.status(Call(), sender.upload_id).offset == k * PART
    assert row(sender).lease_until == 0, "nobody has to wait for it"
    store.at = None
    check_stored(world, sender.go(world.process()), sender.data)
    check_no_residue(world)


def test_nobody_is_told_of_a_failure_while_another_part_is_still_on_its_way(world_on):
    """Who comes next uses the same numbers."""
    told, begun, early = threading.Event(), threading.Event(), []

    class Slow(MemoryStorage):
        def write_part(self, path, handle, number, offset, data):
            if offset == 0:
                assert begun.wait(60)
                raise StorageUnavailable
            begun.set()
            early.append(told.wait(0.3))
            return super().write_part(path, handle, number, offset, data)

    world = world_on(store=Slow("submissions", **RULES["s3"]))
    process = world.process()
    sender = Sender(world, DATA[: 2 * PART], new(), (2 * PART,), part_bytes=PART)
    status = sender.begin(process)
    with pytest.raises(StorageUnavailable):
        sender.step(process, status)
    told.set()
    assert early == [False]


def test_without_a_length_no_part_is_stored_behind_one_that_failed(world_on):
    """The file may end anywhere, so such a part might never be written again: stores refuse to complete then (ADR 5)."""
    for k in range(4):
        store = Failing(k * PART, StorageUnavailable(), **RULES["s3"])
        world = world_on(store=store)
        process = world.process()
        sender = Sender(world, DATA[: 4 * PART], new(), (4 * PART,), deferred=True, part_bytes=PART, body=chunked)
        status = sender.begin(process)
        with pytest.raises(StorageUnavailable):
            sender.step(process, status)
        assert len(store.list_parts(sender.new.path, row(sender).handle)) == k
        done = process.complete(Call(), sender.upload_id)
        check_stored(world, done, DATA[: k * PART])


@pytest.mark.parametrize("acknowledged", [0, 2])
def test_a_part_that_a_crash_left_behind_the_end_does_not_stand_in_the_way(world_on, faults, acknowledged):
    """The length was not known, the sender says it now, and it is before that part: Ceph's rule must not make it unfinishable."""
    world = world_on()
    sender = Sender(world, DATA[: 4 * PART], new(), (4 * PART,), deferred=True, part_bytes=PART, body=chunked)
    process = world.process()
    status = sender.begin(process)
    faults.arm(acknowledged + 1, Way.AFTER, "store write_part")
    with pytest.raises(Crash):
        sender.step(process, status)
    faults.revive()
    world.later()
    process, store = world.process(), world.stores["submissions"]
    assert len(store.list_parts(sender.new.path, row(sender).handle)) == acknowledged + 1
    check_stored(world, process.complete(Call(), sender.upload_id), DATA[: acknowledged * PART])


def test_recorded_parts_that_do_not_add_up_are_never_made_a_file(world_on):
    world = world_on()
    process = world.process()
    sender = Sender(world, DATA[: 3 * PART], new(), (PART,), part_bytes=PART)
    status = sender.begin(process)
    for number in range(3):
        body = BytesReader(DATA[number * PART :][:PART])
        status = process.append(Call(), sender.upload_id, status.offset, body, finish=False)
    UploadPart(sender.upload_id, 3).delete()
    with pytest.raises(UploadLost):
        process.complete(Call(), sender.upload_id)
    assert process.status(Call(), sender.upload_id).state == "LOST"
    assert list(world.stores["submissions"].list_files()) == []


@pytest.mark.parametrize("when", ["before the bytes", "between two chunks", "before completing"])
def test_an_upload_that_was_aborted_behind_our_back_is_lost_and_never_a_file(world_on, when):
    world = world_on()
    process = world.process()
    sender = Sender(world, DATA[: 3 * PART], new(), (PART,), part_bytes=PART)
    status = sender.begin(process)
    chunks = {"before the bytes": 0, "between two chunks": 1, "before completing": 3}[when]
    for number in range(chunks):
        body = BytesReader(sender.data[number * PART :][:PART])
        status = process.append(Call(), sender.upload_id, status.offset, body, finish=False)
    world.stores["submissions"].abort_parts(sender.new.path, row(sender).handle)
    for attempt in (process, world.process()):
        with pytest.raises(DepotError) as caught:
            if chunks == 3:
                attempt.complete(Call(), sender.upload_id)
            else:
                attempt.append(Call(), sender.upload_id, status.offset, BytesReader(sender.data[status.offset :]))
        assert caught.value.code in ("upload_lost", "upload_ended")
        found = attempt.status(Call(), sender.upload_id)
        assert found.receipt is None
        assert found.offset >= status.offset
    assert list(world.stores["submissions"].list_files()) == []
    if chunks == 3:
        assert found.state == "LOST"
    else:
        process.abort(Call(), sender.upload_id)


# --- tails ------------------------------------------------------------------------------------------------------------


def test_a_tail_that_is_gone_or_damaged_never_becomes_a_file(world_on):
    for damage, error in (("gone", UploadLost), ("changed", ObjectCorrupt)):
        world = world_on()
        store = world.stores["submissions"]
        sender = Sender(world, DATA[: 2 * PART], new(), (40 * KIB,), part_bytes=PART)
        process = world.process()
        sender.step(process, sender.begin(process))
        ((name, (about, data)),) = store._tails.items()
        if damage == "gone":
            del store._tails[name]
        else:
            store._tails[name] = (about, b"?" + data[1:])
        with pytest.raises(error):  # by another process: this one still has the bytes
            sender.step(world.process(), sender.status)
        assert list(store.list_files()) == []
        assert world.process().status(Call(), sender.upload_id).offset == 40 * KIB
        with suppress(DepotError):
            process.abort(Call(), sender.upload_id)


def test_a_session_that_takes_no_bytes_is_not_held_by_who_sends_some(world_on):
    process = world_on().process()
    upload_id = process.create(Call(), new(size=10)).upload_id
    row(upload_id).update([UploadSession.kind.set(Kind.FINAL)])
    with pytest.raises(UploadStateConflict):
        process.append(Call(), upload_id, 0, BytesReader(b"x"))
    assert row(upload_id).lease_until == 0
    process.abort(Call(), upload_id)


# --- the row ----------------------------------------------------------------------------------------------------------


def test_an_acknowledgement_from_another_offset_than_the_rows_is_refused(world_on):
    """One holder an epoch makes it impossible. It is refused all the same."""
    world = world_on()
    process = world.process()
    upload_id = process.create(Call(), new()).upload_id
    session = process.take(Call(), upload_id, ("OPEN",))
    row(upload_id).update([UploadSession.offset.set(7)])
    with pytest.raises(LeaseLost):
        rows.advance(session, offset=5, clock=world.clock, lease=60)
    assert row(upload_id).offset == 7


# --- what the web tier forwarded was altered on the way ---------------------------------------------------------------


class Unabortable(MemoryStorage):
    """A store that cannot be reached when an upload is to be discarded."""

    down = True

    def abort_parts(self, path, handle):
        if self.down:
            raise StorageUnavailable
        super().abort_parts(path, handle)


def altered(data):
    """A sealed body of which one bit changed behind the first part."""
    wire = bytearray(b"".join(SealedBody.of(BytesReader(data), len(data))))
    wire[PART + 1] ^= 1
    return unsealed(BytesReader(bytes(wire)), str(len(data)), lambda: None)


def test_nobody_goes_on_with_a_session_that_was_given_altered_bytes_even_if_it_cannot_be_discarded(world_on):
    """Parts of that very body may have been acknowledged, so what is left must not become a file."""
    store = Unabortable("submissions", **RULES["s3"])
    world, where = world_on(store=store), new()
    process = world.process()
    sender = Sender(world, DATA[: 4 * PART], where, (4 * PART,), part_bytes=PART)
    sender.begin(process)
    with pytest.raises((StorageUnavailable, ForwardedDiffers)):
        process.append(Call(), sender.upload_id, 0, altered(sender.data))
    store.down = False
    offset = int(row(sender).offset)
    assert 0 < offset < len(sender.data), "the test is about parts that were acknowledged before the seal was seen"
    for attempt in (offset, 0):
        with pytest.raises((UploadEnded, OffsetConflict)):
            process.append(Call(), sender.upload_id, attempt, BytesReader(sender.data[attempt:]))
    with pytest.raises(UploadEnded):
        process.complete(Call(), sender.upload_id)
    assert not store.exists(where.path)
