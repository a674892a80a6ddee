"""Rows of upload sessions that ended long ago go, with their parts and keys; whatever may still be asked for stays."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import pytest
from botocore.client import BaseClient

from chalicelib.errors import UploadEnded, UploadMissing
from chalicelib.limits import KIB
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.files.registry import Registry
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.uploads import rows
from nas_gateway.uploads.purge import LATER_SECONDS, Purge
from nas_gateway.uploads.tables import UploadKey, UploadPart, UploadSession
from tests.support.crash import World, faults
from tests.support.sender import Sender, check_ledger

__all__ = ["faults"]

PART = 80 * KIB
FORGOTTEN = rows.SESSION_SECONDS + rows.KEEP_SECONDS + 3600 + 1  # an end is moved when that gains an hour


@pytest.fixture
def world(faults):
    return World({name: MemoryStorage(name) for name in ("submissions", "scratch")}, faults)


def new(**values):
    ident = uuid.uuid4().hex
    path = f"submissions/VACS/2024/patient/{ident}.csv"
    return NewUpload(**{"disk": "submissions", "path": path, "idempotency_key": ident, "size": 5, **values})


def purged(world, over=lambda: False):
    return Purge(Registry(world.clock), world.clock).run(over)


def uploaded(world, data=b"hello"):
    """A file that was sent in one chunk: its session."""
    uploads = world.process()
    opened = uploads.create(Call(), new(size=len(data)))
    uploads.append(Call(), opened.upload_id, 0, BytesReader(data))
    return UploadSession.get(opened.upload_id)


def checked(world, session):
    """An integrity check has read the file."""
    TrackedFile(session.file_id).update([TrackedFile.checked_at.set(world.clock())])


def left():
    return {model.__name__: len(list(model.scan())) for model in (UploadSession, UploadPart, UploadKey)}


def test_everything_of_a_session_goes_when_nobody_will_ask_again(world):
    session = uploaded(world)
    checked(world, session)
    assert left() == {"UploadSession": 1, "UploadPart": 1, "UploadKey": 1}
    world.later(rows.SESSION_SECONDS + rows.KEEP_SECONDS - 60)
    assert purged(world) == {"sessions": 0, "parts": 0, "kept": 0}
    world.later(3600 + 61)
    assert purged(world) == {"sessions": 1, "parts": 1, "kept": 0}
    assert left() == {"UploadSession": 0, "UploadPart": 0, "UploadKey": 0}
    assert purged(world) == {"sessions": 0, "parts": 0, "kept": 0}
    assert TrackedFile.get(session.file_id).state == "AVAILABLE"
    check_ledger()
    with pytest.raises(UploadMissing):
        world.process().status(Call(), session.upload_id)


@pytest.mark.parametrize("end", ["abort", "condemned"])
def test_a_session_that_was_given_up_goes_as_late(world, end):
    uploads = world.process()
    opened = uploads.create(Call(), new())
    session = uploads.take(Call(), opened.upload_id, (State.OPEN,))
    with rows.released(session):
        if end == "condemned":
            rows.condemn(session)
        uploads.discard(session, State.ABORTED, UploadEnded())
    world.later(rows.KEEP_SECONDS)
    assert purged(world)["sessions"] == 0
    world.later(FORGOTTEN - rows.KEEP_SECONDS)
    assert purged(world)["sessions"] == 1


def test_a_session_that_has_not_ended_is_never_touched(world):
    world.process().create(Call(), new())
    world.later(100 * FORGOTTEN)
    assert purged(world) == {"sessions": 0, "parts": 0, "kept": 0}
    assert left()["UploadSession"] == 1


def test_parts_stay_until_the_file_was_checked_since_its_check_goes_by_them(world):
    session = uploaded(world)
    world.later(FORGOTTEN)
    assert purged(world) == {"sessions": 0, "parts": 0, "kept": 1}
    assert purged(world) == {"sessions": 0, "parts": 0, "kept": 0}, "it is not looked at again before its check is due"
    checked(world, session)
    due = TrackedFile.get(session.file_id).check_due
    world.now = max(world.now, due) + LATER_SECONDS + 1
    assert purged(world) == {"sessions": 1, "parts": 1, "kept": 0}


def test_of_a_file_that_is_deleted_nothing_needs_to_stay(world):
    session = uploaded(world)
    world.process().transfers.delete(Call(), session.disk, session.path)
    world.later(FORGOTTEN)
    assert purged(world)["sessions"] == 1


def test_a_key_that_has_opened_another_upload_since_stays(world):
    uploads, asked = world.process(), new()
    first = uploads.create(Call(), asked)
    uploads.abort(Call(), first.upload_id)
    world.later(rows.SESSION_SECONDS)
    second = uploads.create(Call(), asked)
    assert second.upload_id != first.upload_id
    world.later(FORGOTTEN - rows.SESSION_SECONDS)
    assert purged(world)["sessions"] == 1
    assert [key.upload_id for key in UploadKey.scan()] == [second.upload_id]


def test_a_purge_that_is_cut_off_goes_on_the_next_time(world):
    for _ in range(3):
        uploads = world.process()
        uploads.abort(Call(), uploads.create(Call(), new()).upload_id)
    world.later(FORGOTTEN)
    asked = iter([False, True])
    assert purged(world, lambda: next(asked))["sessions"] == 1
    assert purged(world)["sessions"] == 2


def test_more_parts_than_a_transaction_takes(world):
    data = b"x" * (104 * KIB)
    sender = Sender(world, data, new(), (PART,), part_bytes=KIB)
    sender.go(world.process())
    session = UploadSession.get(sender.upload_id)
    assert left()["UploadPart"] == session.parts == 104
    checked(world, session)
    world.later(FORGOTTEN)
    assert purged(world)["parts"] == 104
    assert left()["UploadPart"] == 0


def test_the_cost_grows_with_what_is_due_and_not_with_what_there_is(world, monkeypatch):
    real, asked = BaseClient._make_api_call, Counter[str]()

    def noting(client: Any, operation: str, values: dict[str, Any]) -> Any:
        asked[operation] += 1
        return real(client, operation, values)

    for _ in range(20):
        uploaded(world)
    monkeypatch.setattr(BaseClient, "_make_api_call", noting)
    assert purged(world)["sessions"] == 0
    assert asked == {"Query": 1}
