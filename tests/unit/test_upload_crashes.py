"""A crash before, after and in place of the reply of each external call of an upload: nothing acknowledged is ever lost.

Each scenario is run clean to count its calls, then once for every call and way. After each fault the client does what a tus
client does. Then: the offset never went back, the file is the sender's, the ledger is whole, and the sweep leaves nothing.
"""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from dataclasses import dataclass
from functools import partial

import pytest

from chalicelib.limits import KIB
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.uploads.concatenation import Concatenation
from tests.support.crash import Way, World, faults, tally
from tests.support.sender import Sender, check_ledger, check_no_residue, check_stored, sweep, until_done

pytestmark = pytest.mark.slow

__all__ = ["faults"]

# S3's rules in small: parts of 80, at least 50 but for the last.
PART, LEAST = 80 * KIB, 50 * KIB
DATA = random.Random(3).randbytes(600 * KIB)


def new(**values):
    ident = uuid.uuid4().hex
    path = "" if values.get("partial") else f"submissions/VACS/2024/patient/{ident}.csv"
    return NewUpload(disk="submissions", path=path, idempotency_key=ident, **values)


@dataclass
class OneFile:
    """A file sent as `Sender` does."""

    world: World
    size: int
    pieces: tuple[int, ...]
    deferred: bool = False

    def __post_init__(self):
        data = DATA[: self.size]
        self.sender = Sender(self.world, data, new(), self.pieces, deferred=self.deferred, part_bytes=PART)

    def __call__(self, uploads):
        return self.sender.go(uploads)

    def check(self, status):
        check_stored(self.world, status, self.sender.data)


@dataclass
class Concatenated:
    """Three partial uploads with small ends, put together."""

    world: World
    sizes: tuple[int, ...] = (90 * KIB, 20 * KIB, 130 * KIB)

    def __post_init__(self):
        self.final, self.senders, start = new(), [], 0
        for size in self.sizes:
            data = DATA[start : start + size]
            self.senders.append(Sender(self.world, data, new(partial=True), (PART,), part_bytes=PART))
            start += size

    def __call__(self, uploads):
        for sender in self.senders:
            if sender.status is None or sender.status.state != "AVAILABLE":
                sender.go(uploads)
        return Concatenation(uploads).concatenate(Call(), self.final, [sender.upload_id for sender in self.senders])

    def check(self, status):
        check_stored(self.world, status, DATA[: sum(self.sizes)])


@dataclass
class Aborted:
    """Two parts and a tail, then the sender gives up."""

    world: World
    size: int = 500 * KIB

    def __post_init__(self):
        self.sender = Sender(self.world, DATA[: self.size], new(), (100 * KIB,), part_bytes=PART)

    def __call__(self, uploads):
        status = self.sender.begin(uploads)
        while status.offset < 200 * KIB and status.state == "OPEN":
            status = self.sender.step(uploads, status)
        uploads.abort(Call(), self.sender.upload_id)
        return uploads.status(Call(), self.sender.upload_id)

    def check(self, status):
        assert status.state == "ABORTED"
        assert not self.world.stores["submissions"].exists(self.sender.new.path)


@dataclass
class GivenUp(OneFile):
    """A file whose sender gives up after the first fault, wherever that left it: it is there and recorded, or gone."""

    tried: bool = False

    def __call__(self, uploads):
        if not self.tried:
            self.tried = True
            return self.sender.go(uploads)
        self.sender.upload_id = self.sender.upload_id or uploads.create(Call(), self.sender.announced).upload_id
        uploads.abort(Call(), self.sender.upload_id)
        return uploads.status(Call(), self.sender.upload_id)

    def check(self, status):
        if status.state == "AVAILABLE":
            super().check(status)
        else:
            assert status.state == "ABORTED"
            assert not self.world.stores["submissions"].exists(self.sender.new.path)


SCENARIOS = {
    "one chunk that is one part": partial(OneFile, size=70 * KIB, pieces=(70 * KIB,)),
    "chunks merged from tails": partial(OneFile, size=250 * KIB, pieces=(40 * KIB,)),
    "a body of several parts": partial(OneFile, size=500 * KIB, pieces=(500 * KIB,)),
    "bodies of several parts and a tail each": partial(OneFile, size=450 * KIB, pieces=(270 * KIB,)),
    "deferred length": partial(OneFile, size=190 * KIB, pieces=(40 * KIB, 110 * KIB, 40 * KIB), deferred=True),
    "deferred length, the last bytes a part": partial(OneFile, size=160 * KIB, pieces=(80 * KIB,), deferred=True),
    "many tails": partial(OneFile, size=18 * KIB, pieces=(KIB,), deferred=True),
    "empty": partial(OneFile, size=0, pieces=(1,)),
    "concatenation": Concatenated,
    "abort": Aborted,
    "given up": partial(GivenUp, size=70 * KIB, pieces=(70 * KIB,)),
}
# Where calls are made one after another, before a call is after the one before it.
PARALLEL = ("a body of several parts", "bodies of several parts and a tail each")


@pytest.fixture
def stores(request, tmp_path):
    """Makes stores with the rules that a test is given."""
    if request.param == "s3":
        return lambda name: MemoryStorage(name, min_part_bytes=LEAST, renumber_after_loss=False)
    return lambda name: LocalFileSystemStorage(name, str(tmp_path / uuid.uuid4().hex))


def trial(make, stores, faults, at=0, way=Way.BEFORE, only=""):
    """One run with one fault; the name of the call that was hit, and all that were made."""
    world = World({name: stores(name) for name in ("submissions", "scratch")}, faults)
    act = make(world)
    faults.arm(at, way, only)
    try:
        done = until_done(world, act)
    except BaseException as error:
        raise AssertionError(f"{way} {at} {only}: {faults.seen[max(0, at - 4) : at + 4]}") from error
    hit, seen = faults.hit, list(faults.seen)
    faults.revive()
    act.check(done)
    if at:
        sweep(world)
        act.check(done)
    check_no_residue(world)
    check_ledger()
    return hit, seen


def several(name, stores, faults, chosen):
    _, clean = trial(SCENARIOS[name], stores, faults)
    hits = [trial(SCENARIOS[name], stores, faults, *one)[0] for one in chosen(clean)]
    print(f"{len(clean)} calls; hit {tally(hits)}")
    assert hits


@pytest.mark.slow
@pytest.mark.parametrize("stores", ["s3", "folder"], indirect=True)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_call_in_every_way(name, stores, faults, request):
    """One in CRASH_STRIDE of them, beginning anywhere (all take a quarter of an hour): CRASH_STRIDE=1 has them all."""
    kind, stride = request.node.callspec.params["stores"], int(os.environ.get("CRASH_STRIDE", "6"))
    first = random.SystemRandom().randrange(stride)
    print(f"CRASH_STRIDE={stride}, from {first}")

    def chosen(clean):
        return list(every(clean))[first::stride] or list(every(clean))[:1]

    def every(clean):
        for at, call in enumerate(clean, 1):
            for way in Way:
                if way is Way.BEFORE and at > 1 and name not in PARALLEL:
                    continue
                if way is Way.TWICE and not call.startswith("dynamodb"):
                    continue
                if way is not Way.AFTER and kind == "folder":
                    continue  # what differs there is what a crash leaves on the store
                yield at, way

    several(name, stores, faults, chosen)


@pytest.mark.parametrize("stores", ["s3"], indirect=True)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_few_calls(name, stores, faults):
    """The same for two calls of each scenario, all kinds taking turns; `slow` has them all."""

    def chosen(clean):
        writes = ("TransactWriteItems", "UpdateItem", "write_part", "put_tail", "complete_parts", "abort_parts")
        counts = Counter(call for call in clean if call.endswith(writes))
        turn = list(SCENARIOS).index(name)
        kinds = sorted(counts.items()) * 2
        for way, (call, count) in zip((Way.AFTER, Way.LOST), kinds[turn % len(counts) :], strict=False):
            yield count, way, call

    several(name, stores, faults, chosen)


@pytest.mark.parametrize("stores", ["s3"], indirect=True)
def test_a_request_that_botocore_repeats_is_never_taken_for_a_refusal(stores, faults):
    """The first reply got lost on the way and the second says that the condition no longer holds: nobody hears of it."""

    def sent(at, only):
        world = World({"submissions": stores("submissions")}, faults)
        act = OneFile(world, 130 * KIB, (30 * KIB, 60 * KIB), deferred=True)
        faults.arm(at, Way.TWICE, only)
        done = act(world.process())
        seen = Counter(faults.seen)
        act.check(done)
        check_ledger()
        return seen

    for call, count in sent(0, "").items():
        if call in ("dynamodb UpdateItem", "dynamodb TransactWriteItems"):
            for at in range(1, count + 1):
                sent(at, call)
