"""The integrity check on a real store: what is damaged there is found, and nothing else; a presigned file gets its digest."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
import requests

from chalicelib.limits import MIB
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.s3 import S3Storage
from nas_gateway.files.access import Call
from nas_gateway.files.tables import State
from nas_gateway.uploads.direct import Direct
from tests.support.crash import World, faults
from tests.support.stored import Countdown, check_of, damage, events, in_parts, only, planted, row

__all__ = ["faults"]

pytestmark = pytest.mark.nas


@pytest.fixture
def world(faults, nas_disk):
    disk = replace(nas_disk, name="submissions", prefix="integrity", public_endpoint=nas_disk.endpoint)
    return World({"submissions": S3Storage(disk)}, faults)


@pytest.fixture(autouse=True)
def _emptied(world):
    yield
    store = world.stores["submissions"]
    for info in list(store.list_files()):
        store.delete(info.path)


def test_16_of_40_objects(world, nas_disk, nas_client):
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    chance, store = random.Random(seed), world.stores["submissions"]
    files = planted(world, store, 40, chance)

    def write(path: str, data: bytes | None) -> None:
        where = {"Bucket": nas_disk.bucket, "Key": f"integrity/{path}"}
        nas_client.delete_object(**where) if data is None else nas_client.put_object(**where, Body=data)

    wrong = damage(files, 16, chance, write)
    assert len(wrong) == 16
    assert only(check_of(world).job(Countdown(10**9))) == {"checked": 40, "failed": 16}
    assert {file_id for file_id in files if row(file_id).state == State.CORRUPT} == wrong


def test_an_upload_in_pieces_gets_its_digest_and_goes_on_in_later_calls(world):
    data = random.Random(3).randbytes(17 * MIB)
    file_id = in_parts(world, "p.csv", data, 5 * MIB)
    world.later(2 * 86400)
    assert only(check_of(world).job(Countdown(10**9))) == {"checked": 1, "digests": 1}
    assert row(file_id).sha256 == hashlib.sha256(data).hexdigest()
    world.later(30 * 86400)
    assert only(check_of(world).job(Countdown(8))) == {"left": 1}
    assert row(file_id).check_offset == 5 * MIB
    assert only(check_of(world).job(Countdown(10**9))) == {"checked": 1}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_presigned_upload_is_compared_with_what_the_store_said_of_its_parts(world, damaged):
    """Ceph's ETags of parts are MD5s, so the first check is proof, though the bytes never passed through us."""
    data = random.Random(4).randbytes(12 * MIB)
    uploads, store = world.process(), world.stores["submissions"]
    new = NewUpload(
        disk="submissions",
        path="submissions/VACS/2024/patient/d.csv",
        size=len(data),
        part_bytes=5 * MIB,
        direct=True,
    )
    upload_id = uploads.create(Call(), new).upload_id
    direct = Direct(uploads, ["submissions"])
    for number, offset in enumerate(range(0, len(data), 5 * MIB), start=1):
        signed = direct.sign_part(Call(), upload_id, number, size=None, sha256=None)
        requests.put(
            signed.url, data=data[offset : offset + 5 * MIB], headers=signed.headers, timeout=60
        ).raise_for_status()
    uploads.complete(Call(), upload_id)
    assert (row(upload_id).state, row(upload_id).sha256) == (State.AVAILABLE, None)
    if damaged:
        store.save(new.path, data[:-1] + bytes([data[-1] ^ 1]))
    world.later(2 * 86400)
    counts = only(check_of(world).job(Countdown(10**9)))
    if damaged:
        assert counts == {"checked": 1, "failed": 1}
        assert [event.metadata["reason"] for event in events(upload_id, "integrity_failed")] == ["parts"]
    else:
        assert counts == {"checked": 1, "digests": 1}
        assert row(upload_id).sha256 == hashlib.sha256(data).hexdigest()
        assert events(upload_id, "digest_recorded")[0].metadata == {"basis": "store_digests"}
