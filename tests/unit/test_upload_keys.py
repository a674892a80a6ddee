"""Idempotency keys: the same creation, sent again, finds what the first one opened, wherever that came to its end."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from chalicelib.errors import FileExists, IdempotencyMismatch, InvalidRequest, LeaseLost, UploadInProgress
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.uploads.tables import UploadKey, UploadSession
from tests.support.crash import Crash, Way, World, faults
from tests.support.gateway import user
from tests.support.sender import check_ledger, check_stored

__all__ = ["faults"]

ANA, BEN = user("uploader", "VACS"), user("uploader", "VACS", "NEER")


@pytest.fixture
def world(faults):
    return World({name: MemoryStorage(name) for name in ("submissions", "scratch")}, faults)


def new(**values):
    ident = uuid.uuid4().hex
    path = f"submissions/VACS/2024/patient/{ident}.csv"
    return NewUpload(**{"disk": "submissions", "path": path, "idempotency_key": ident, "size": 5, **values})


def test_the_same_creation_gives_the_same_upload_in_any_process_and_any_state(world):
    asked = new()
    first = world.process().create(ANA, asked)
    assert world.process().create(ANA, asked).upload_id == first.upload_id
    done = world.process().append(ANA, first.upload_id, 0, BytesReader(b"hello"))
    again = world.process().create(ANA, asked)
    assert (again.upload_id, again.state, again.offset) == (first.upload_id, "AVAILABLE", 5)
    assert again.receipt == done.receipt


@pytest.mark.parametrize(
    "other",
    [{"size": 6}, {"path": "submissions/VACS/2024/patient/other.csv"}, {"sha256": "0" * 64}, {"note": {"a": "b"}}],
    ids=lambda other: next(iter(other)),
)
def test_another_payload_under_a_known_key_is_refused(world, other):
    asked, process = new(), world.process()
    opened = process.create(ANA, asked)
    with pytest.raises(IdempotencyMismatch):
        process.create(ANA, replace(asked, **other))
    process.abort(ANA, opened.upload_id)


def test_a_key_is_its_owners(world):
    asked, process = new(), world.process()
    mine = process.create(ANA, asked)
    with pytest.raises(UploadInProgress):  # the path is taken, and the key says nothing to anybody else
        process.create(BEN, asked)
    theirs = process.create(BEN, replace(new(), idempotency_key=asked.idempotency_key))
    assert theirs.upload_id != mine.upload_id
    for call, opened in ((ANA, mine), (BEN, theirs)):
        process.abort(call, opened.upload_id)


def test_a_key_whose_upload_is_over_without_a_file_opens_another(world):
    asked, process = new(), world.process()
    first = process.create(ANA, asked)
    process.abort(ANA, first.upload_id)
    second = process.create(ANA, asked)
    assert second.upload_id != first.upload_id
    assert process.create(ANA, asked).upload_id == second.upload_id
    process.abort(ANA, second.upload_id)
    world.later(2 * 24 * 3600)
    third = process.create(ANA, replace(asked, size=6))  # nor does what it asked for bind anybody any more
    assert third.size == 6
    process.abort(ANA, third.upload_id)


def test_a_refused_creation_binds_no_key(world):
    asked, process = new(), world.process()
    world.stores["submissions"].save(asked.path, b"x")
    there = process.create(Call(), replace(asked, idempotency_key=None, if_absent=False))
    process.append(Call(), there.upload_id, 0, BytesReader(b"there"))
    with pytest.raises(FileExists):
        process.create(ANA, asked)
    elsewhere = process.create(ANA, replace(asked, path=new().path))
    assert elsewhere.state == "OPEN"
    process.abort(ANA, elsewhere.upload_id)


@pytest.mark.parametrize("key", ["", "k" * 256, "new\nline", "schlüssel"])
def test_a_bad_key_is_refused(world, key):
    with pytest.raises(InvalidRequest):
        world.process().create(ANA, new(idempotency_key=key))


@pytest.mark.parametrize("way", [Way.BEFORE, Way.AFTER])
@pytest.mark.parametrize("partial", [False, True])
def test_a_crash_before_it_was_open_is_made_good_by_asking_again(world, faults, way, partial):
    asked = new(partial=True, path="") if partial else new()
    faults.arm(1, way, "store create_parts")
    with pytest.raises(Crash):
        world.process().create(ANA, asked)
    faults.revive()
    with pytest.raises(UploadInProgress):  # the first call may still be at it
        world.process().create(ANA, asked)
    world.later()
    process = world.process()
    opened = process.create(ANA, asked)
    assert (opened.state, opened.offset) == ("OPEN", 0)
    disk = "scratch" if partial else "submissions"
    check_stored(world, process.append(ANA, opened.upload_id, 0, BytesReader(b"hello")), b"hello", disk)
    check_ledger()


def test_one_that_opens_it_too_late_does_not_get_in_the_way(world, faults):
    """The first call sleeps before it says that the store has begun; the second has begun by then, and is being used."""
    asked, process, second = new(), world.process(), []

    def meanwhile():
        faults.revive()
        world.later()
        second.append(world.process().create(ANA, asked))

    faults.arm_sleep(1, meanwhile, "dynamodb UpdateItem")
    with pytest.raises(LeaseLost):
        process.create(ANA, asked)
    store = world.stores["submissions"]
    assert [upload.handle for upload in store.open_uploads()] == [UploadSession.get(second[0].upload_id).handle]
    check_stored(world, process.append(ANA, second[0].upload_id, 0, BytesReader(b"hello")), b"hello")
    check_ledger()


@pytest.mark.parametrize("partial", [False, True])
def test_of_two_creations_at_once_the_second_to_be_recorded_finds_the_first(world, faults, partial):
    """Both looked before either was recorded. (The path of a partial upload is its own, so only the key tells.)"""
    asked, process, other = (new(partial=True, path="") if partial else new()), world.process(), []

    def meanwhile():
        faults.revive()
        other.append(world.process().create(ANA, asked))

    faults.arm_sleep(1, meanwhile, "dynamodb TransactWriteItems")
    assert process.create(ANA, asked).upload_id == other[0].upload_id
    assert len(list(world.stores["scratch" if partial else "submissions"].open_uploads())) == 1
    process.abort(ANA, other[0].upload_id)
    check_ledger()


def test_an_empty_file_that_nobody_saw_finished_is_finished_by_asking_again(world, faults):
    """Its sender has nothing to send, so the answer to the creation is all that it will ever ask for."""
    asked = new(size=0)
    faults.arm(1, Way.BEFORE, "store complete_parts")
    with pytest.raises(Crash):
        world.process().create(ANA, asked)
    faults.revive()
    world.later()
    check_stored(world, world.process().create(ANA, asked), b"")


def test_the_key_is_kept_as_a_digest(world):
    asked, process = new(idempotency_key="patient-0815"), world.process()
    opened = process.create(ANA, asked)
    (kept,) = [row for row in UploadKey.scan() if row.upload_id == opened.upload_id]
    assert "0815" not in str(kept.attribute_values)
    process.abort(ANA, opened.upload_id)
