"""Upload sessions on a real store: faults of the session's core where Ceph has rules of its own (ADR 5)."""

from __future__ import annotations

import random
import secrets
import uuid
from dataclasses import replace

import pytest

from chalicelib.errors import DepotError, UploadLost
from chalicelib.limits import MIB
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.s3 import S3Storage
from nas_gateway.files.access import Call
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.tables import UploadPart, UploadSession
from tests.support.crash import Way, World, faults
from tests.support.sender import Sender, check_ledger, check_no_residue, check_stored, chunked, sweep, until_done

__all__ = ["faults"]

pytestmark = pytest.mark.nas

DATA = random.Random(17).randbytes(33 * MIB)


@pytest.fixture
def world(faults, nas_disk):
    stores = {name: S3Storage(replace(nas_disk, name=name, prefix=name)) for name in ("submissions", "scratch")}
    return World(stores, faults)


def sender_of(world, size, piece, **values):
    new = NewUpload(
        disk="submissions",
        path=f"submissions/VACS/2024/patient/{uuid.uuid4().hex}.csv",
        idempotency_key=uuid.uuid4().hex,
    )
    return Sender(world, DATA[:size], new, (piece,), **values)


def finished(world, sender, process=None):
    status = until_done(world, sender.go, process=process)
    check_stored(world, status, sender.data)
    world.stores["submissions"].delete(status.receipt.path)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("size", [0, 1, 5 * MIB - 1, 5 * MIB, 8 * MIB, 8 * MIB + 1, 17 * MIB - 1])
def test_sizes_in_chunks_of_4_mib(world, size, deferred):
    finished(world, sender_of(world, size, 4 * MIB, deferred=deferred))
    check_no_residue(world)


WRITES = [
    ("store write_part", 1),
    ("store write_part", 3),
    ("store complete_parts", 1),
    ("dynamodb TransactWriteItems", 2),
    ("dynamodb TransactWriteItems", 3),
]


@pytest.mark.parametrize("way", [Way.BEFORE, Way.AFTER, Way.LOST])
@pytest.mark.parametrize(("call", "at"), WRITES)
@pytest.mark.parametrize("deferred", [False, True], ids=["announced", "deferred"])
def test_a_fault_at_a_write_never_makes_an_upload_unfinishable(world, faults, call, at, way, deferred):
    """Parts in flight that nobody acknowledged are on the store; the sender goes on in other pieces."""
    sender = sender_of(world, 33 * MIB, 33 * MIB, deferred=deferred, body=chunked if deferred else BytesReader)
    sender.begin(world.process())
    faults.arm(at, way, call)
    sender.pieces = (33 * MIB, 7 * MIB)
    finished(world, sender)
    faults.revive()
    sweep(world)
    check_no_residue(world)
    check_ledger()


def test_a_last_part_that_nobody_acknowledged_does_not_stand_in_the_way_of_a_shorter_file(world, faults):
    """The length was not known: it ends before the part that a crash left."""
    sender = sender_of(world, 8 * MIB, 8 * MIB, deferred=True)
    process = world.process()
    sender.step(process, sender.begin(process))
    handle = UploadSession.get(sender.upload_id).handle
    world.stores["submissions"].write_part(sender.new.path, handle, 2, 8 * MIB, b"never acknowledged")
    finished(world, sender, process)


def test_the_upload_aborted_behind_our_back_is_lost(world):
    sender = sender_of(world, 9 * MIB, 8 * MIB)
    process = world.process()
    status = sender.step(process, sender.begin(process))
    process.append(Call(), sender.upload_id, status.offset, BytesReader(DATA[8 * MIB : 9 * MIB]), finish=False)
    world.stores["submissions"].abort_parts(sender.new.path, UploadSession.get(sender.upload_id).handle)
    with pytest.raises(UploadLost):
        process.complete(Call(), sender.upload_id)
    assert process.status(Call(), sender.upload_id).state == "LOST"
    assert not world.stores["submissions"].exists(sender.new.path)
    with pytest.raises(DepotError):
        world.process().complete(Call(), sender.upload_id)


def test_partial_uploads_are_copied_by_the_store_and_merged_at_their_seams(world):
    sizes, ids, start = (9 * MIB, 3 * MIB, 17 * MIB), [], 0
    for size in sizes:
        new = NewUpload(disk="submissions", partial=True)
        sender = Sender(world, DATA[start : start + size], new, (8 * MIB,))
        sender.go(world.process())
        ids.append(sender.upload_id)
        start += size
    asked = sender_of(world, 0, 1).new
    status = Concatenation(world.process()).concatenate(Call(), asked, ids)
    check_stored(world, status, DATA[:start])
    assert all(int(part.size) >= 5 * MIB for part in list(UploadPart.query(status.upload_id))[:-1])
    check_no_residue(world)


def test_random_splits_with_faults(world, faults):
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(5):
        size = chance.randint(1, 24 * MIB)
        pieces = tuple(chance.randint(1, 12 * MIB) for _ in range(12))
        sender = sender_of(world, size, 1, deferred=chance.random() < 0.5)
        sender.pieces = pieces
        faults.arm(chance.randint(1, 40), chance.choice(list(Way)))
        finished(world, sender)
        faults.revive()
    sweep(world)
    check_no_residue(world)
    check_ledger()
