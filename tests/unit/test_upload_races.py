"""Writers that meet: a sleeper that wakes up past its lease, two chunks or two creations at once, an abort in between."""

from __future__ import annotations

import random
import secrets
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from chalicelib.errors import (
    DepotError,
    LeaseLost,
    OffsetConflict,
    TruncatedBody,
    UploadInProgress,
    UploadMissing,
)
from chalicelib.limits import KIB
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.uploads import service
from nas_gateway.uploads.writer import PARTS_IN_FLIGHT
from tests.support.crash import World, faults
from tests.support.sender import Sender, check_ledger, check_stored, chunked, until_done

pytestmark = pytest.mark.slow

__all__ = ["faults"]

PART, LEAST = 80 * KIB, 50 * KIB
DATA = random.Random(5).randbytes(400 * KIB)


@pytest.fixture
def world_on(faults, tmp_path):
    def make(kind="s3"):
        if kind == "folder":
            store = LocalFileSystemStorage("submissions", str(tmp_path / "nas"))
        else:
            store = MemoryStorage("submissions", min_part_bytes=LEAST, renumber_after_loss=False)
        return World({"submissions": store}, faults)

    return make


def new(**values):
    path = f"submissions/VACS/2024/patient/{uuid.uuid4().hex}.csv"
    return NewUpload(**{"disk": "submissions", "path": path, **values})


def caught(act):
    """What a call came to: its value or its error."""
    try:
        return act()
    except BaseException as error:
        return error


class Asleep:
    """A call on a thread of its own that falls asleep at one of its external calls, until it is woken.

    `at` 0: in as many calls as there are `sleepers`, each on a thread of its own.
    """

    def __init__(self, world, act, at, only="", *, sleepers=1):
        self._reached, self._wake, self._done = threading.Semaphore(0), threading.Event(), threading.Event()
        self.result = None
        world.faults.arm_sleep(at, self._sleep, only)

        def run():
            self.result = caught(act)
            self._done.set()
            self._reached.release(sleepers)

        self._thread = threading.Thread(target=run)
        self._thread.start()
        for _ in range(sleepers):
            assert self._reached.acquire(timeout=60)
        world.faults.revive()
        assert not self._done.is_set(), f"it never came to call {at} {only}: {self.result!r}"

    def _sleep(self):
        self._reached.release()
        assert self._wake.wait(60)

    def woken(self):
        self._wake.set()
        self._thread.join(60)
        assert self._done.is_set()
        return self.result


# --- a sleeper --------------------------------------------------------------------------------------------------------


def sleeper_trial(world, at, only, *, pieces, finish_first):
    """One writer sleeps at a call; another goes on in its place; the first wakes. What the first was told."""
    first = Sender(world, DATA, new(), (len(DATA),), part_bytes=PART)
    process = world.process()
    status = first.begin(process)
    asleep = Asleep(world, lambda: first.step(process, status), at, only)
    world.later()
    second = Sender(world, DATA, first.new, pieces, part_bytes=PART, body=chunked, upload_id=first.upload_id)
    try:
        if not finish_first:
            until_done(world, lambda uploads: second.step(uploads, second.begin(uploads)))
            asleep.woken()
        done = until_done(world, second.go)
    finally:
        told = asleep.woken()
    assert not isinstance(told, BaseException) or isinstance(told, DepotError), repr(told)
    check_stored(world, second.check(world.process().status(Call(), first.upload_id)), DATA)
    assert done.receipt.file_id == second.status.receipt.file_id
    return told


def calls_of_one_append(world):
    sender = Sender(world, DATA, new(), (len(DATA),), part_bytes=PART)
    process = world.process()
    status = sender.begin(process)
    world.faults.revive()
    sender.step(process, status)
    seen = world.faults.seen
    # How many transactions acknowledge the parts depends on how fast they were stored; there are two at least.
    return {name: min(count, 2) if "Transact" in name else count for name, count in Counter(seen).items()}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["first", "every"])
@pytest.mark.parametrize("finish_first", [True, False], ids=["to the end", "for a chunk"])
@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_a_sleeper_that_wakes_in_any_step_changes_nothing(world_on, kind, finish_first, every):
    """Its successor sends the same bytes; on a folder, where a late part must not harm, in another split."""
    world = world_on(kind)
    pieces = (110 * KIB, 60 * KIB) if kind == "folder" else (len(DATA),)
    fenced = 0
    for name, count in sorted(calls_of_one_append(world).items()):
        for at in range(1, count + 1) if every else [1]:
            told = sleeper_trial(world, at, name, pieces=pieces, finish_first=finish_first)
            fenced += isinstance(told, BaseException)
    assert fenced >= (8 if every else 3)
    check_ledger()


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("between", ["nothing", "declare_size", "a chunk that broke at once"])
def test_a_late_part_on_a_folder_harms_nobody_however_many_have_held_the_session_since(world_on, between, chunks):
    """The sleeper's three parts land in the very end, after those of a successor that cut the file elsewhere."""
    world = world_on("folder")
    process = world.process()
    first = Sender(world, DATA, new(), (len(DATA),), part_bytes=PART)
    status = first.begin(process)
    asleep = Asleep(world, lambda: first.step(process, status), 0, "store write_part", sleepers=PARTS_IN_FLIGHT)
    world.later()
    other, offset = world.process(), 0
    if between == "declare_size":
        other.declare_size(Call(), first.upload_id, len(DATA))
    elif between == "a chunk that broke at once":
        with pytest.raises(TruncatedBody):
            other.append(Call(), first.upload_id, offset, Broken(b""))
    second = Sender(world, DATA, first.new, (110 * KIB, 30 * KIB), part_bytes=PART, upload_id=first.upload_id)
    for _ in range(chunks):
        second.step(other, other.status(Call(), first.upload_id))
    asleep.woken()
    check_stored(world, second.go(other), DATA)


class Broken(BytesReader):
    """Bytes, and then the connection is gone."""

    def __len__(self):
        return len(DATA)

    def read(self, size=-1, /):
        block = super().read(size)
        if not block:
            raise TruncatedBody
        return block


def test_a_finisher_asleep_before_the_store_completes_does_not_undo_what_its_successor_finished(world_on):
    """It finds no upload in the store when it wakes: that is not for it to call lost."""
    world = world_on()
    process, other = world.process(), world.process()
    sender = Sender(world, DATA[:PART], new(), (PART,))
    status = sender.begin(process)
    first = Asleep(world, lambda: sender.step(process, status), 1, "store complete_parts")
    world.later()
    # The successor is asleep, too: the store is done, the ledger has not heard of it.
    second = Asleep(
        world, lambda: other.status(Call(), sender.upload_id, settle=True), 1, "dynamodb TransactWriteItems"
    )
    assert isinstance(first.woken(), DepotError)
    assert second.woken().state == "AVAILABLE"
    check_stored(world, other.status(Call(), sender.upload_id), DATA[:PART])
    check_ledger()


@pytest.mark.parametrize("wakes_first", [True, False])
def test_a_writer_asleep_before_it_acknowledges_cannot_give_its_digest_to_another_ones_bytes(world_on, wakes_first):
    """The sender's file changed between two attempts: what the second sent is what counts, and what is vouched for."""
    world = world_on()
    process = world.process()
    sender = Sender(world, DATA[: 2 * PART], new(), (2 * PART,), part_bytes=PART)
    status, changed = sender.begin(process), DATA[-2 * PART :]
    asleep = Asleep(world, lambda: sender.step(process, status), 1, "dynamodb TransactWriteItems")
    world.later()
    world.process().append(Call(), sender.upload_id, 0, BytesReader(changed), finish=False)
    told = asleep.woken() if wakes_first else None
    done = process.complete(Call(), sender.upload_id)
    assert isinstance(told or asleep.woken(), LeaseLost)
    check_stored(world, done, changed)


# --- at once ----------------------------------------------------------------------------------------------------------


def at_once(*acts):
    """What each came to; all begin together."""
    barrier = threading.Barrier(len(acts))

    def run(act):
        barrier.wait(30)
        return caught(act)

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


@pytest.mark.parametrize("pairs", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_of_two_chunks_at_one_offset_one_is_stored(world_on, kind, pairs):
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance, world = random.Random(seed), world_on(kind)
    processes = [world.process(), world.process()]
    data, sent = b"", 0
    announced = new()
    upload_id = processes[0].create(Call(), announced).upload_id
    while sent < pairs:
        sent += 1
        bodies = [chance.randbytes(chance.randint(1, 3000)) for _ in range(2)]
        same = chance.random() < 0.3
        using = processes[:1] * 2 if same else processes
        told = at_once(
            *(
                partial(uploads.append, Call(), upload_id, len(data), BytesReader(body))
                for uploads, body in zip(using, bodies, strict=True)
            )
        )
        stored = [body for body, result in zip(bodies, told, strict=True) if not isinstance(result, BaseException)]
        refused = [result for result in told if isinstance(result, BaseException)]
        assert len(stored) == 1, told
        assert isinstance(refused[0], (OffsetConflict, UploadInProgress, LeaseLost)), told
        data += stored[0]
        assert processes[0].status(Call(), upload_id).offset == len(data)
    processes[1].complete(Call(), upload_id)
    check_stored(world, processes[0].status(Call(), upload_id), data)


def test_completing_twice_at_once_gives_one_file_and_one_outcome(world_on):
    world = world_on()
    for _ in range(5):
        processes = [world.process(), world.process()]
        sender = Sender(world, DATA[:PART], new(), (PART,), deferred=True)
        status = sender.step(processes[0], sender.begin(processes[0]))
        assert status.offset == PART
        told = at_once(*(partial(uploads.complete, Call(), sender.upload_id) for uploads in processes))
        done = [result for result in told if not isinstance(result, BaseException)]
        assert done, told
        assert all(isinstance(result, UploadInProgress) for result in told if isinstance(result, BaseException)), told
        assert len({result.receipt.tracking_id for result in done}) == 1
        check_stored(world, done[0], DATA[:PART])
    check_ledger()


def test_completing_what_another_call_completes_in_the_meantime_gives_the_same_receipt(world_on):
    """The length was never said, and both are about to say it."""
    world = world_on()
    process, other = world.process(), world.process()
    sender = Sender(world, DATA[:PART], new(), (PART,), deferred=True)
    sender.step(process, sender.begin(process))
    asleep = Asleep(world, lambda: process.complete(Call(), sender.upload_id), 1, "dynamodb UpdateItem")
    done = other.complete(Call(), sender.upload_id)
    assert asleep.woken() == done
    check_stored(world, done, DATA[:PART])


def test_creating_twice_at_once_with_one_key_opens_one_session(world_on):
    world = world_on()
    for number in range(5):
        asked = new(idempotency_key=f"at once {uuid.uuid4().hex}", size=10, partial=bool(number % 2))
        if asked.partial:
            asked = replace(asked, path="")
            world.stores["scratch"] = MemoryStorage("scratch")
        processes = [world.process() for _ in range(3)]
        told = at_once(*(partial(uploads.create, Call(), asked) for uploads in processes))
        # Who finds it held by the one that opens it is told to come again.
        assert all(isinstance(result, UploadInProgress) for result in told if isinstance(result, BaseException)), told
        opened = {result.upload_id for result in told if not isinstance(result, BaseException)}
        known = world.process().create(Call(), asked).upload_id
        assert opened <= {known}
        assert len(list(world.stores["scratch" if asked.partial else "submissions"].open_uploads())) == 1
        world.process().abort(Call(), known)


def test_an_abort_while_a_part_is_under_way_is_told_to_wait_and_past_the_lease_nothing_is_left(world_on):
    world = world_on()
    process, other = world.process(), world.process()
    sender = Sender(world, DATA, new(), (len(DATA),), part_bytes=PART)
    status = sender.begin(process)
    asleep = Asleep(world, lambda: sender.step(process, status), 0, "store write_part", sleepers=PARTS_IN_FLIGHT)
    with pytest.raises(UploadInProgress):
        other.abort(Call(), sender.upload_id)
    world.later()
    other.abort(Call(), sender.upload_id)
    assert isinstance(asleep.woken(), DepotError)
    assert other.status(Call(), sender.upload_id).state == "ABORTED"
    assert list(world.stores["submissions"].open_uploads()) == []
    assert list(world.stores["submissions"].list_files()) == []
    with pytest.raises(UploadMissing):
        other.complete(Call(), sender.upload_id)
    check_ledger()


class Silent:
    """A body that stops in the middle. `interrupt` is how its connection is known to be dead."""

    def __init__(self, data):
        self._data, self._over, self.waiting = data, threading.Event(), threading.Event()

    def read(self, size=-1, /):
        block, self._data = self._data[:size], self._data[size:]
        if block:
            return block
        self.waiting.set()
        assert self._over.wait(60), "nobody interrupted it"
        raise TruncatedBody

    def interrupt(self):
        self._over.set()


def test_a_writer_that_fell_silent_makes_way_for_a_client_that_comes_back(world_on, monkeypatch):
    """It is the same client: its old connection is dead, and nobody has told us. What had arrived is kept."""
    monkeypatch.setattr(service, "_SILENT_SECONDS", 0.05)
    world = world_on()
    process = world.process()
    process.wait = 30
    sender = Sender(world, DATA, new(), (len(DATA),), part_bytes=PART)
    sender.begin(process)
    body = Silent(DATA[: 2 * PART + 5])
    with ThreadPoolExecutor(1) as pool:
        silent = pool.submit(caught, lambda: process.append(Call(), sender.upload_id, 0, body))
        assert body.waiting.wait(60)
        offset = process.status(Call(), sender.upload_id).offset
        with pytest.raises(OffsetConflict):  # it waited for the lease, and then saw that there is more
            process.append(Call(), sender.upload_id, offset, BytesReader(DATA[offset:]))
        assert isinstance(silent.result(60), TruncatedBody)
    check_stored(world, sender.go(process), DATA)


def test_a_busy_writer_is_not_interrupted(world_on):
    """The body is not waited for: the storage is slow, and whoever comes is told to wait."""
    world = world_on()
    process = world.process()
    process.wait = 0.2
    sender = Sender(world, DATA, new(), (len(DATA),), part_bytes=PART)
    status = sender.begin(process)
    asleep = Asleep(world, lambda: sender.step(process, status), 0, "store write_part", sleepers=PARTS_IN_FLIGHT)
    with pytest.raises(UploadInProgress):
        process.append(Call(), sender.upload_id, 0, BytesReader(DATA))
    assert asleep.woken().state == "AVAILABLE"
