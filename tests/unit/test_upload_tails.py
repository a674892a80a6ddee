"""Tails: however small the chunks are, a session's row and this process's memory stay small, and no byte is held only once."""

from __future__ import annotations

import random
import uuid

import pytest

from chalicelib.limits import KIB
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.uploads.tables import UploadPart, UploadSession
from nas_gateway.uploads.tails import Recent
from nas_gateway.uploads.writer import MAX_TAILS
from tests.support.crash import World, faults
from tests.support.sender import Sender, check_no_residue, check_stored

__all__ = ["faults"]

PART, LEAST = 80 * KIB, 50 * KIB
DATA = random.Random(13).randbytes(200 * KIB)


class Strict(MemoryStorage):
    """Looks, whenever a tail is deleted, whether its bytes are recorded elsewhere by then."""

    deleted = 0

    def delete_tail(self, name):
        upload_id, _, rest = name.partition("/")
        offset = int(rest.partition("-")[0])
        size = len(self._tails[name][1])
        session = UploadSession.get(upload_id, consistent_read=True)
        parts = UploadPart.query(upload_id, consistent_read=True)
        spans = [(int(part.offset), int(part.size)) for part in parts if int(part.number) <= session.parts]
        spans += [(int(at), int(count)) for at, count, _ in session.tails or () if (at, count) != (offset, size)]
        elsewhere = [(at, count) for at, count in spans if at <= offset and offset + size <= at + count]
        assert session.state == "ABORTED" or elsewhere, "an acknowledged byte was held nowhere else"
        self.deleted += 1
        super().delete_tail(name)


@pytest.fixture
def world(faults):
    return World({"submissions": Strict("submissions", min_part_bytes=LEAST, renumber_after_loss=False)}, faults)


def sender_of(world, size, piece, **values):
    new = NewUpload(disk="submissions", path=f"submissions/VACS/2024/patient/{uuid.uuid4().hex}.csv")
    return Sender(world, DATA[:size], new, (piece,), part_bytes=PART, **values)


def test_chunks_of_1_kib_keep_the_row_small(world):
    sender, process = sender_of(world, 100 * KIB, KIB), world.process()
    status, most = sender.begin(process), 0
    while status.state != "AVAILABLE":
        status = sender.step(process, status)
        most = max(most, len(UploadSession.get(sender.upload_id, consistent_read=True).tails or ()))
        assert len(list(world.stores["submissions"].list_tails())) <= MAX_TAILS
    assert most == MAX_TAILS
    check_stored(world, status, sender.data)
    assert world.stores["submissions"].deleted > 40
    check_no_residue(world)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("piece", [30 * KIB, 49 * KIB, 60 * KIB, 81 * KIB])
def test_no_tail_is_deleted_before_its_bytes_are_recorded_elsewhere(world, piece, processes):
    sender = sender_of(world, 190 * KIB, piece, deferred=piece % 2 == 0)
    turns = [world.process() for _ in range(processes)]
    status = sender.begin(turns[0])
    while status.state != "AVAILABLE":
        status = sender.step(turns[sender.sent % processes], status)
    check_stored(world, status, sender.data)
    check_no_residue(world)


def test_a_process_need_not_read_back_what_it_wrote_a_moment_ago(world, faults):
    sender, process = sender_of(world, 160 * KIB, 40 * KIB), world.process()
    sender.begin(process)
    faults.revive()
    sender.go(process)
    assert "store put_tail" in faults.seen
    assert "store get_tail" not in faults.seen


def test_an_abort_takes_the_tails_along(world):
    sender, process = sender_of(world, 160 * KIB, 20 * KIB), world.process()
    status = sender.begin(process)
    for _ in range(2):
        status = sender.step(process, status)
    process.abort(Call(), sender.upload_id)
    check_no_residue(world)


def test_a_chunk_that_completes_a_part_leaves_its_tails_nowhere(world):
    sender, process = sender_of(world, 160 * KIB, 40 * KIB), world.process()
    status = sender.step(process, sender.begin(process))
    process.append(Call(), sender.upload_id, status.offset, BytesReader(DATA[40 * KIB : 80 * KIB]))
    assert list(world.stores["submissions"].list_tails()) == []
    assert UploadSession.get(sender.upload_id).tails is None
    process.abort(Call(), sender.upload_id)


def test_recent_tails_are_at_most_as_many_bytes_as_it_may_keep():
    recent = Recent(limit=10)
    recent.keep("a", b"12345")
    recent.keep("b", b"12345")
    recent.keep("b", b"54321")
    recent.keep("c", b"1")
    assert recent.take("a") is None, "the oldest went"
    assert recent.take("b") == b"54321"
    assert recent.take("b") is None
    recent.keep("large", b"x" * 11)
    assert recent.take("large") is None
    assert recent.take("c") is None, "and everything before it"
    recent.keep("d", b"1234567890")
    assert recent.take("d") == b"1234567890"
