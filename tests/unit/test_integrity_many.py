"""Must hold: of many stored files, some of which were flipped, truncated, swapped or deleted, those are found and no other."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.s3 import S3Storage
from nas_gateway.files.tables import State
from tests.support.crash import World, faults
from tests.support.gateway import outcomes
from tests.support.stored import Countdown, check_of, damage, only, planted, row
from tests.unit.test_driver_s3 import CONFIG, a_client

__all__ = ["faults"]


def found(world, files):
    """One run; the files that it found."""
    counts = check_of(world).job(Countdown(10**9))
    corrupt = {file_id for file_id in files if row(file_id).state == State.CORRUPT}
    assert only(counts) == {"checked": len(files), "failed": len(corrupt)}
    assert len(outcomes(action="integrity_failed")) == len(corrupt)
    return corrupt


def seeded():
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.slow
def test_200_of_1000_in_a_folder(faults, tmp_path):
    chance, store = seeded(), LocalFileSystemStorage("submissions", str(tmp_path))
    world = World({"submissions": store}, faults)
    files = planted(world, store, 1000, chance)

    def write(path: str, data: bytes | None) -> None:
        """As a disk rots: the time of change stays, and what the driver keeps beside the file is believed."""
        name = Path(tmp_path, path)
        before = name.stat()
        if data is None:
            name.unlink()
            return
        name.write_bytes(data)
        os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns))

    wrong = damage(files, 200, chance, write)
    assert len(wrong) == 200
    assert found(world, files) == wrong


def test_8_of_24_in_a_bucket(faults):
    chance, client = seeded(), a_client()
    client.create_bucket(Bucket="nas")
    store = S3Storage(CONFIG, client)
    store.disk = "submissions"
    world = World({"submissions": store}, faults)
    files = planted(world, store, 24, chance)

    def write(path: str, data: bytes | None) -> None:
        store.delete(path) if data is None else client.put_object(Bucket="nas", Key=path, Body=data)

    wrong = damage(files, 8, chance, write)
    assert len(wrong) == 8
    assert found(world, files) == wrong
