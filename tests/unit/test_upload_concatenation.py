"""Partial uploads become one file: their bytes in order, copied part by part, and nothing of them left."""

from __future__ import annotations

import os
import random
import secrets
import uuid
from dataclasses import replace

import pytest

from chalicelib.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    ObjectCorrupt,
    UploadMissing,
    UploadStateConflict,
)
from chalicelib.limits import KIB
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.tables import UploadPart, UploadSession
from tests.support.crash import World, faults
from tests.support.gateway import user
from tests.support.sender import Sender, check_ledger, check_no_residue, check_stored

pytestmark = pytest.mark.slow

__all__ = ["faults"]

PART, LEAST = 80 * KIB, 50 * KIB
DATA = random.Random(11).randbytes(900 * KIB)


@pytest.fixture
def world_on(faults, tmp_path):
    def make(kind="s3"):
        def store(name):
            if kind == "folder":
                return LocalFileSystemStorage(name, str(tmp_path / name))
            return MemoryStorage(name, min_part_bytes=LEAST, renumber_after_loss=False)

        return World({name: store(name) for name in ("submissions", "scratch")}, faults)

    return make


def new(**values):
    path = "" if values.get("partial") else f"submissions/VACS/2024/patient/{uuid.uuid4().hex}.csv"
    return NewUpload(**{"disk": "submissions", "path": path, **values})


def pieces(world, *sizes, piece=PART):
    """Finished partial uploads of these sizes: their ids, and their bytes together."""
    ids, start = [], 0
    for size in sizes:
        sender = Sender(world, DATA[start : start + size], new(partial=True), (piece,), part_bytes=PART)
        sender.go(world.process())
        ids.append(sender.upload_id)
        start += size
    return ids, DATA[:start]


def concatenate(world, asked, ids, call=None):
    return Concatenation(world.process()).concatenate(call or Call(), asked, ids)


@pytest.mark.parametrize(
    "sizes",
    [
        (PART,),
        (1, 1, 1),
        (PART, 1, PART),
        (PART + 1, 2 * PART + 1, 1),
        (0, PART, 0),
        (0, 0),
        (30 * KIB, 30 * KIB, 30 * KIB, 300 * KIB, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_pieces_of_any_size_become_one_file(world_on, kind, sizes):
    world = world_on(kind)
    ids, data = pieces(world, *sizes)
    check_stored(world, concatenate(world, new(), ids), data)
    check_no_residue(world)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_random_pieces(world_on, kind):
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance, world = random.Random(seed), world_on(kind)
    for _ in range(int(os.environ.get("RANDOM_ROUNDS", "12"))):
        sizes = [
            chance.choice([chance.randint(0, PART), chance.randint(0, 3 * PART)]) for _ in range(chance.randint(1, 5))
        ]
        sizes = [size for size in sizes if sum(sizes) <= len(DATA)] or [1]
        ids, data = pieces(world, *sizes, piece=chance.randint(20 * KIB, 2 * PART))
        check_stored(world, concatenate(world, new(), ids), data)
    check_no_residue(world)
    check_ledger()


def test_asking_again_gives_the_same_file_though_the_pieces_are_gone(world_on):
    world = world_on()
    ids, data = pieces(world, PART, 10)
    asked = new()
    first = concatenate(world, asked, ids)
    again = concatenate(world, asked, ids)
    assert again.receipt == first.receipt
    check_stored(world, again, data)
    with pytest.raises(IdempotencyMismatch):
        concatenate(world, replace(asked, path=new().path), ids)


def test_other_peoples_unfinished_and_ordinary_uploads_are_refused(world_on):
    world = world_on()
    process, ana = world.process(), user("uploader", "VACS")
    (theirs,), _ = pieces(world, 10)
    unfinished = process.create(ana, new(partial=True, size=10)).upload_id
    ordinary = process.create(ana, new(size=0)).upload_id
    for ids in ([theirs], [unfinished], [ordinary], ["0" * 32], [], [unfinished] * 2):
        with pytest.raises(InvalidRequest):
            concatenate(world, new(), ids, call=ana)
    process.abort(ana, unfinished)
    process.abort(Call(), theirs)


def test_a_piece_that_was_damaged_on_the_nas_does_not_get_in(world_on):
    """At a seam the bytes pass through here and are compared; elsewhere the store copies them and they are compared too."""
    for sizes in ((10, 10), (PART, 10)):
        world = world_on()
        ids, _ = pieces(world, *sizes)
        scratch = world.stores["scratch"]
        path = UploadSession.get(ids[0]).path
        scratch.save(path, b"?" + scratch.get_file(path)[1:])
        with pytest.raises(ObjectCorrupt):
            concatenate(world, new(), ids)
        assert list(world.stores["submissions"].list_files()) == []


def test_a_piece_that_has_been_cleaned_up_is_named(world_on):
    world = world_on()
    ids, _ = pieces(world, PART, PART)
    process = world.process()
    process.transfers.delete(Call(), "scratch", UploadSession.get(ids[1]).path)
    with pytest.raises(UploadStateConflict, match="cleaned up"):
        concatenate(world, new(), ids)


def test_a_final_upload_takes_no_bytes_and_goes_on_where_it_was(world_on):
    """As a crash after the first copied part leaves it."""
    world = world_on()
    ids, data = pieces(world, 2 * PART, PART)
    asked = new()
    uploads = world.process()
    session, _ = uploads.opener.open(
        Call(), replace(asked, size=len(data), idempotency_key="crashed"), "final", sources=ids
    )
    with pytest.raises(UploadStateConflict):
        uploads.append(Call(), session.upload_id, 0, BytesReader(data))
    check_stored(world, concatenate(world, replace(asked, idempotency_key="crashed"), ids), data)
    assert [int(part.number) for part in UploadPart.query(session.upload_id)] == [1, 2, 3]


def test_a_final_upload_that_was_aborted_can_be_asked_for_again(world_on):
    world = world_on()
    ids, data = pieces(world, PART, PART)
    asked, uploads = new(), world.process()
    keyed = replace(asked, size=len(data), idempotency_key="aborted")
    session, _ = uploads.opener.open(Call(), keyed, "final", sources=ids)
    uploads.abort(Call(), session.upload_id)
    with pytest.raises(UploadMissing):
        Concatenation(uploads).go_on(Call(), session.upload_id)
    check_stored(world, concatenate(world, replace(asked, idempotency_key="aborted"), ids), data)
