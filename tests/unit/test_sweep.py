"""The sweep, row by row of its table: each state is made by the real use-cases, stopped where a crash would stop them."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from datetime import UTC, datetime

import pytest

from chalicelib.errors import StorageUnavailable, UploadEnded, UploadInProgress, UploadLost
from chalicelib.limits import KIB, SWEEP_GRACE_SECONDS
from chalicelib.storage.base import StagedTail
from chalicelib.storage.streams import BytesReader, IteratorReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.tables import PathClaim, TrackedFile
from nas_gateway.ledger.tables import OpenOperation
from nas_gateway.uploads import rows
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.left_open import LONG_SECONDS
from nas_gateway.uploads.sweep import Sweep
from nas_gateway.uploads.tables import UploadSession
from nas_gateway.uploads.tails import name as tail_name
from tests.support.crash import LEASE, Crash, Faults, Way, World, counted_dynamodb
from tests.support.gateway import outcomes
from tests.support.ledger_env import all_events
from tests.support.sender import Sender, check_ledger, check_no_residue

pytestmark = pytest.mark.slow

PART, LEAST = 80 * KIB, 50 * KIB
DATA = random.Random(5).randbytes(600 * KIB)
PATH = "submissions/VACS/2024/patient/file.csv"
# What a sweep no longer leaves alone. The stores and the ledger tell real time, which goes on meanwhile: ten minutes more.
STALE = LEASE + SWEEP_GRACE_SECONDS + 600
EXPIRED = rows.SESSION_SECONDS + 3600


@pytest.fixture
def faults(gateway):
    faults = Faults()
    with counted_dynamodb(faults):
        yield faults


@pytest.fixture
def world(faults):
    return World({name: s3_rules(name) for name in ("submissions", "scratch")}, faults)


def s3_rules(name):
    return MemoryStorage(name, min_part_bytes=LEAST, renumber_after_loss=False)


def sweeper(world):
    """A sweep in a process of its own."""
    uploads = world.process()
    return Sweep(uploads, Concatenation(uploads), list(world.stores))


def swept(world):
    """What one sweep repaired; it must not have failed at anything."""
    report = sweeper(world).run()
    assert report.failed == {}
    return dict(report.repaired)


def new(**values):
    return NewUpload(**{"disk": "submissions", "path": PATH, "size": len(DATA), **values})


def sender(world, size=None, pieces=(PART,), **values):
    return Sender(world, DATA[:size], new(size=None, **values), pieces, part_bytes=PART)


def crash_at(world, call, way, act):
    """Do something in a process that dies at its first call of this name."""
    world.faults.revive()
    uploads = world.process()
    real = world.faults.call

    def armed(name, *args, **kwargs):
        if name == call and not world.faults.dead:
            world.faults._at, world.faults._way = world.faults.count + 1, way
        return real(name, *args, **kwargs)

    world.faults.call = armed
    try:
        with pytest.raises(Crash):
            act(uploads)
    finally:
        del world.faults.call
        world.faults.revive()


def session(upload_id):
    return UploadSession.get(upload_id, consistent_read=True)


def only_session():
    (found,) = UploadSession.scan()
    return found


def nothing_left(world):
    """Everything has ended, nothing is left over, and another sweep finds nothing to do."""
    check_no_residue(world)
    check_ledger()
    assert [row.upload_id for row in UploadSession.scan() if row.live] == []
    report = sweeper(world).run()
    assert (report.found, report.repaired, report.skipped) == ({}, {}, 0)


# --- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [Way.BEFORE, Way.AFTER])
def test_an_announced_upload_that_never_opened_is_failed_and_what_the_store_began_is_aborted(world, way):
    crash_at(world, "store create_parts", way, lambda uploads: uploads.create(Call(), new()))
    assert only_session().state == "INTENT"
    assert swept(world) == {}, "a creation may still be under way"
    world.later(STALE)
    assert swept(world) == {"abandoned_intent": 1, **({"orphan_upload": 1} if way is Way.AFTER else {})}
    assert only_session().state == "FAILED"
    assert outcomes(cohort="VACS")[-1] == ("file_uploaded_via_stream", "failed")
    assert way is Way.BEFORE or outcomes(action="orphan_upload_aborted") == [
        ("orphan_upload_aborted", "intent"),
        ("orphan_upload_aborted", "completed"),
    ]
    nothing_left(world)
    world.process().create(Call(), new())  # the path is free


def test_an_expired_session_is_ended_with_its_parts_and_tails(world):
    client = sender(world, pieces=(PART + 20 * KIB,))
    client.step(world.process(), client.begin(world.process()))
    assert (len(rows.parts(client.upload_id)), len(rows.tails(session(client.upload_id)))) == (1, 1)
    world.later(STALE)
    assert swept(world) == {}, "it has not expired"
    world.later(EXPIRED)
    assert swept(world) == {"expired_session": 1}
    with pytest.raises(UploadEnded):
        world.process().append(Call(), client.upload_id, client.told, BytesReader(b"x"))
    (failed,) = [event for event in all_events() if event["outcome"] == "failed"]
    assert failed["error_code"] == "upload_ended"
    assert failed["bytes_transferred"] == client.told
    nothing_left(world)


@pytest.mark.parametrize("way", [Way.BEFORE, Way.AFTER])
def test_a_session_that_was_completing_is_completed(world, way):
    client = sender(world)
    crash_at(world, "store complete_parts", way, client.go)
    assert session(client.upload_id).state == "COMPLETING"
    assert swept(world) == {}, "its lease is not over"
    world.later()
    assert swept(world) == {"completed_again": 1}
    status = world.process().status(Call(), client.upload_id)
    assert status.state == "AVAILABLE"
    assert world.stores["submissions"].get_file(status.receipt.path) == DATA
    nothing_left(world)


def test_completing_is_gone_on_with_even_where_the_session_has_expired_meanwhile(world):
    """Every byte was acknowledged: a server that was down for days must not throw them away."""
    client = sender(world)
    crash_at(world, "store complete_parts", Way.BEFORE, client.go)
    world.later(10 * EXPIRED)
    assert swept(world) == {"completed_again": 1}
    assert world.stores["submissions"].get_file(PATH) == DATA
    nothing_left(world)


def test_completing_without_upload_or_file_is_lost_and_never_success(world, capsys):
    client = sender(world)
    crash_at(world, "store complete_parts", Way.BEFORE, client.go)
    world.stores["submissions"].abort_parts(PATH, session(client.upload_id).handle)
    world.later()
    assert swept(world) == {"lost": 1}
    assert session(client.upload_id).state == "LOST"
    assert outcomes(cohort="VACS")[-1][1] == "failed"
    alarm = capsys.readouterr().err
    assert '"upload_lost"' in alarm
    assert '"ERROR"' in alarm
    assert PATH not in alarm
    nothing_left(world)


def test_a_store_that_is_down_is_no_lost_upload(world):
    class Down(MemoryStorage):
        down = True

        def complete_parts(self, *args, **kwargs):
            if self.down:
                raise StorageUnavailable
            return super().complete_parts(*args, **kwargs)

    store = world.stores["submissions"] = Down("submissions")
    client = sender(world)
    with pytest.raises(StorageUnavailable):
        client.go(world.process())
    world.later(10 * EXPIRED)
    report = sweeper(world).run()
    assert report.failed == {"completed_again": {"storage_unavailable": 1}}
    assert session(client.upload_id).state == "COMPLETING"
    store.down = False
    assert swept(world) == {"completed_again": 1}
    nothing_left(world)


def test_a_file_that_took_the_path_meanwhile_is_not_overwritten(world):
    client = sender(world)
    crash_at(world, "store complete_parts", Way.BEFORE, client.go)
    world.later(3600)
    world.process().transfers.upload(Call(), place("submissions", PATH), BytesReader(b"the newer file"))
    assert swept(world) == {"path_taken_over": 1}
    assert world.stores["submissions"].get_file(PATH) == b"the newer file"
    assert session(client.upload_id).state == "FAILED"
    nothing_left(world)


def test_a_question_does_not_overwrite_it_either(world):
    client = sender(world)
    crash_at(world, "store complete_parts", Way.BEFORE, client.go)
    world.later(3600)
    world.process().transfers.upload(Call(), place("submissions", PATH), BytesReader(b"the newer file"))
    with pytest.raises(Exception, match="took this upload over"):
        world.process().status(Call(), client.upload_id, settle=True)
    assert world.stores["submissions"].get_file(PATH) == b"the newer file"


@pytest.mark.parametrize("call", ["store copy_part", "store complete_parts"])
def test_a_concatenation_is_gone_on_with_although_nobody_asks_again(world, call):
    pieces = [Sender(world, DATA[:PART], new(size=None, partial=True, path=""), (PART,)) for _ in range(3)]
    for piece in pieces:
        piece.go(world.process())

    def act(uploads):
        Concatenation(uploads).concatenate(Call(), new(size=None), [piece.upload_id for piece in pieces])

    crash_at(world, call, Way.AFTER, act)
    assert swept(world) == {}
    world.later(STALE)
    assert swept(world) == {("concatenation_finished" if "copy" in call else "completed_again"): 1}
    assert world.stores["submissions"].get_file(PATH) == 3 * DATA[:PART]
    assert list(world.stores["scratch"].list_files()) == [], "the pieces are in the file now"
    nothing_left(world)


def test_a_session_whose_operation_has_ended_is_closed(world):
    """The lease was lost while it was being ended: the ledger has the outcome, the session does not know."""
    client = sender(world)
    client.step(world.process(), client.begin(world.process()))
    uploads = world.process()
    found = session(client.upload_id)
    file, intent = uploads.finisher.announced(found)
    uploads.transfers.withdraw(file, intent, UploadLost(), 0, also=rows.ended(found, "FAILED"))  # with an old epoch
    found.update([UploadSession.epoch.add(1)])
    fenced = session(client.upload_id)
    fenced.update([UploadSession.state.set("OPEN"), UploadSession.live.set("live")])
    world.later(EXPIRED)
    assert swept(world) == {"session_closed": 1}
    assert session(client.upload_id).live is None
    nothing_left(world)


# --- who is alive -----------------------------------------------------------------------------------------------------


def test_a_session_that_is_being_written_is_never_touched(world):
    """Sweeps run in the middle of a body that takes longer than everything; each finds nothing."""
    client = sender(world)
    status = client.begin(world.process())
    uploads, seen = world.process(), []
    uploads.lease = 10 * EXPIRED

    def body():
        for at in range(0, len(DATA), 30 * KIB):
            world.later(STALE)
            report = sweeper(world).run()
            seen.append((dict(report.found), dict(report.repaired)))
            yield DATA[at : at + 30 * KIB]

    done = uploads.append(Call(), status.upload_id, 0, IteratorReader(body()))
    if done.state != "AVAILABLE":
        done = uploads.complete(Call(), status.upload_id)
    assert set(map(str, seen)) == {"({}, {})"}
    assert len(seen) > 10
    assert world.stores["submissions"].get_file(PATH) == DATA
    nothing_left(world)


def test_sweeps_between_any_two_chunks_harm_nobody(world):
    client = Sender(world, DATA, new(size=None), (7 * KIB, 100 * KIB, 33 * KIB), part_bytes=PART)
    status = client.begin(world.process())
    while status.state != "AVAILABLE":
        world.later(STALE)
        assert swept(world) == {}
        status = client.step(world.process(), status)
    assert world.stores["submissions"].get_file(PATH) == DATA
    nothing_left(world)


def test_a_single_upload_under_way_keeps_its_multipart_upload_and_its_path(world):
    """No session names it: what protects it is its open operation, however old and whatever the clocks say."""
    store = world.stores["submissions"]

    class Slow(MemoryStorage):
        def save(self, path, content, content_type=None, metadata=None, **options):
            handle = store.create_parts(path)  # as S3 does for a large file
            world.later(STALE)
            PathClaim.get(next(PathClaim.scan()).key).update([PathClaim.pending_until.set(world.now)])
            world.later(LEASE + SWEEP_GRACE_SECONDS - 2)
            assert swept(world) == {}
            assert [upload.handle for upload in store.open_uploads()] == [handle]
            store.abort_parts(path, handle)
            return store.save(path, content, content_type, metadata, **options)

    uploads = world.process()
    uploads.transfers.disk = lambda _: Slow("submissions")
    uploads.transfers.upload(Call(), place("submissions", PATH), BytesReader(DATA))
    assert store.get_file(PATH) == DATA
    nothing_left(world)


def test_a_session_that_the_index_does_not_show_yet_is_not_an_orphan(world, monkeypatch):
    client = sender(world)
    client.step(world.process(), client.begin(world.process()))
    world.later(STALE)
    monkeypatch.setattr(rows, "live", list)
    assert swept(world) == {}
    assert len(list(world.stores["submissions"].open_uploads())) == 1


def test_a_live_session_keeps_what_it_stored_even_where_its_path_is_anothers_now(world):
    client = sender(world)
    client.step(world.process(), client.begin(world.process()))
    world.later(3600)
    world.process().transfers.upload(Call(), place("submissions", PATH), BytesReader(b"the newer file"))
    assert swept(world) == {}
    assert len(list(world.stores["submissions"].open_uploads())) == 1
    world.later(EXPIRED)
    assert swept(world) == {"expired_session": 1}
    assert world.stores["submissions"].get_file(PATH) == b"the newer file"
    nothing_left(world)


def test_overlapping_disks_do_not_orphan_each_others_uploads(world):
    """The same folder under two names: through one of them nobody holds the path."""
    world.stores["scratch"] = world.stores["submissions"]
    client = sender(world, pieces=(PART + 20 * KIB,))
    status = client.step(world.process(), client.begin(world.process()))
    world.later(STALE)
    assert swept(world) == {}
    while status.state != "AVAILABLE":
        status = client.step(world.process(), status)
    assert world.stores["submissions"].get_file(PATH) == DATA


# --- what lies on the NAS ---------------------------------------------------------------------------------------------


def test_uploads_in_parts_that_nobody_names_are_aborted(world):
    store = world.stores["submissions"]
    handle = store.create_parts(PATH)
    store.write_part(PATH, handle, 1, 0, b"whose")
    assert swept(world) == {}, "it is young"
    world.later(STALE)
    assert swept(world) == {"orphan_upload": 1}
    (event,) = [event for event in all_events() if event["outcome"] == "completed"]
    assert (event["action"], event.get("user"), event["file_path"]) == ("orphan_upload_aborted", None, PATH)
    nothing_left(world)


def test_an_abort_that_was_cut_short_is_done_again(world):
    world.stores["submissions"].create_parts(PATH)
    world.later(STALE)

    def run(uploads):
        Sweep(uploads, Concatenation(uploads), list(world.stores)).run()

    crash_at(world, "store abort_parts", Way.BEFORE, run)
    world.later(STALE)
    assert swept(world) == {"orphan_upload": 1}
    assert outcomes(action="orphan_upload_aborted")[-1][1] == "completed"
    nothing_left(world)


@pytest.mark.parametrize("way", [Way.BEFORE, Way.AFTER])
def test_a_tail_that_was_merged_or_never_named_is_deleted(world, way):
    """Crashed between the tail and the row that names it; then, between the part and the deletion of its tails."""
    client = sender(world, pieces=(20 * KIB,))
    client.begin(world.process())
    crash_at(world, "store put_tail", way, client.go)
    world.later(STALE)
    assert swept(world) == ({"stray_tail": 1} if way is Way.AFTER else {})
    assert session(client.upload_id).live
    crash_at(world, "store delete_tail", way, client.go)
    world.later(STALE)
    assert swept(world) == {"stray_tail": 1}
    client.go(world.process())
    assert world.stores["submissions"].get_file(PATH) == DATA
    nothing_left(world)


def test_a_tail_that_a_live_session_names_stays_and_one_beside_it_goes(world):
    store = world.stores["submissions"]
    client = sender(world, pieces=(20 * KIB,))
    status = client.step(world.process(), client.begin(world.process()))
    stray = f"{client.upload_id}/0-{hashlib.sha256(b'stray').hexdigest()}"
    store.put_tail(stray, b"stray")
    world.later(STALE)
    assert swept(world) == {"stray_tail": 1}
    assert [tail.name for tail in store.list_tails()] != [stray]
    assert client.step(world.process(), status).offset == 40 * KIB


def test_a_tail_that_its_writer_names_while_the_sweep_looks_is_kept(world):
    """Seen without a name, named by the time the lease is taken: the row is read again under it."""
    store = world.stores["submissions"]
    client = sender(world, pieces=(20 * KIB,))
    status = client.begin(world.process())

    class Racing(MemoryStorage):
        def list_tails(self):
            name = f"{client.upload_id}/0-{hashlib.sha256(DATA[: 20 * KIB]).hexdigest()}"
            yield StagedTail(name, 20 * KIB, _long_ago(world))

    look = world.process()
    sweep = Sweep(look, Concatenation(look), ["submissions"])
    racing = Racing("submissions")
    racing.delete_tail = store.delete_tail
    look.transfers.disk = lambda _: racing
    find = sweep._strays.tails

    def found(report):
        for finding in find(report):
            client.step(world.process(), status)  # now it is named
            yield finding

    sweep._strays.tails = found
    assert dict(sweep.run().repaired) == {}
    assert len(list(store.list_tails())) == 1
    assert client.go(world.process()).state == "AVAILABLE"


def _long_ago(world):
    return datetime.fromtimestamp(world.now - 10 * STALE, UTC)


def test_tails_of_sessions_that_have_ended_or_never_were_are_deleted(world):
    store = world.stores["submissions"]
    client = sender(world, size=10 * KIB, pieces=(10 * KIB,))
    client.go(world.process())
    for upload_id in (client.upload_id, "0" * 32):
        store.put_tail(f"{upload_id}/0-{hashlib.sha256(b'late').hexdigest()}", b"late")
    assert swept(world) == {}, "they are young"
    world.later(STALE)
    assert swept(world) == {"stray_tail": 2}
    nothing_left(world)


def test_one_that_fails_does_not_stop_the_others(world):
    class Stubborn(MemoryStorage):
        def abort_parts(self, path, handle):
            raise RuntimeError("a bug")

        def list_tails(self):
            raise StorageUnavailable

    world.stores["submissions"] = Stubborn("submissions")
    for store in world.stores.values():
        store.create_parts(PATH)
    world.later(STALE)
    report = sweeper(world).run()
    assert report.failed == {"orphan_upload": {"internal_error": 1}, "stray_tail": {"storage_unavailable": 1}}
    assert report.repaired == {"orphan_upload": 1}


def test_staged_files_and_half_begun_uploads_in_a_folder(world, tmp_path):
    world.stores = {"submissions": LocalFileSystemStorage("submissions", str(tmp_path))}
    store = world.stores["submissions"]
    store.create_parts(PATH)
    stage = tmp_path / ".depot-stage"
    (stage / "tmp-dead").write_bytes(b"a save that died")
    half = stage / f"up-{'a' * 32}"
    half.mkdir()
    (half / "about").write_bytes(b'{"pa')
    assert swept(world) == {}
    world.later(STALE)
    assert swept(world) == {"orphan_upload": 2, "staged_file": 1}
    assert sorted(path.name for path in stage.iterdir()) == ["meta"]
    assert swept(world) == {}
    check_ledger()


# --- operations -------------------------------------------------------------------------------------------------------


class Dies(MemoryStorage):
    """Stores the file or not, and dies."""

    stores = True

    def save(self, *args, **kwargs):
        if self.stores:
            super().save(*args, **kwargs)
        raise Crash


@pytest.mark.parametrize("stored", [False, True], ids=["nothing there", "object there"])
def test_a_single_upload_that_died_is_failed_or_unknown_and_its_path_let_go(world, stored, capsys, monkeypatch):
    store = world.stores["submissions"] = Dies("submissions")
    store.stores = stored
    uploads = world.process()
    monkeypatch.setattr(uploads.transfers, "withdraw", lambda *_, **__: None)  # the process is gone
    with pytest.raises(Crash):
        uploads.transfers.upload(Call(), place("submissions", PATH), BytesReader(b"body"), if_absent=True)
    world.later(LEASE + 2)
    assert swept(world) == {}, "it may be held up"
    world.later(STALE)
    assert swept(world) == {"outcome_unknown" if stored else "upload_failed": 1}
    assert outcomes(cohort="VACS")[-1][1] == ("unknown" if stored else "failed")
    assert ("object_that_no_row_knows" in capsys.readouterr().err) == stored
    assert [file.state for file in TrackedFile.scan()] == ["FAILED"]
    assert [claim.pending for claim in PathClaim.scan()] == [None]
    nothing_left(world)


@pytest.mark.parametrize("stored", [False, True], ids=["old there", "new there"])
def test_a_single_upload_that_died_replacing_a_file(world, stored, monkeypatch):
    store = world.stores["submissions"] = Dies("submissions")
    uploads = world.process()
    uploads.transfers.disk = lambda _: working(store)
    uploads.transfers.upload(Call(), place("submissions", PATH), BytesReader(b"old"))
    store.stores = stored
    uploads = world.process()
    monkeypatch.setattr(uploads.transfers, "withdraw", lambda *_, **__: None)
    with pytest.raises(Crash):
        uploads.transfers.upload(Call(), place("submissions", PATH), BytesReader(b"new"))
    world.later(2 * STALE)
    assert swept(world) == {"outcome_unknown" if stored else "upload_failed": 1}
    assert sorted(file.state for file in TrackedFile.scan()) == ["AVAILABLE", "FAILED"]
    nothing_left(world)


def working(store):
    """The same files through a driver that works."""
    same = MemoryStorage(store.disk)
    same._files, same._uploads, same._tails = store._files, store._uploads, store._tails
    return same


@pytest.mark.parametrize("way", [Way.BEFORE, Way.AFTER])
def test_a_deletion_that_was_cut_short_is_done_again(world, way):
    world.process().transfers.upload(Call(), place("submissions", PATH), BytesReader(b"x"))
    crash_at(world, "store erase", way, lambda uploads: uploads.transfers.delete(Call(), "submissions", PATH))
    assert swept(world) == {}
    world.later(STALE)
    assert swept(world) == {"deleted_again": 1}
    assert not world.stores["submissions"].exists(PATH)
    assert outcomes(action="file_deleted_via_api")[-1][1] == "completed"
    nothing_left(world)
    world.process().create(Call(), new())  # the path is free


@pytest.mark.parametrize("way", [Way.BEFORE, Way.AFTER])
def test_nothing_can_take_the_place_of_a_file_while_its_deletion_has_not_ended(world, way):
    world.process().transfers.upload(Call(), place("submissions", PATH), BytesReader(b"old"))
    crash_at(world, "store erase", way, lambda uploads: uploads.transfers.delete(Call(), "submissions", PATH))
    world.later(STALE)  # nobody holds the path any more
    for if_absent in (True, False):
        with pytest.raises(UploadInProgress, match="being deleted"):
            world.process().create(Call(), new(size=3, if_absent=if_absent))
    assert swept(world) == {"deleted_again": 1}
    world.process().transfers.upload(Call(), place("submissions", PATH), BytesReader(b"new"))
    assert swept(world) == {}
    assert world.stores["submissions"].get_file(PATH) == b"new"
    nothing_left(world)


def test_a_deletion_waits_for_an_upload_to_the_same_path(world):
    world.process().transfers.upload(Call(), place("submissions", PATH), BytesReader(b"old"))
    status = world.process().create(Call(), new(size=3, if_absent=False))
    with pytest.raises(UploadInProgress):
        world.process().transfers.delete(Call(), "submissions", PATH)
    assert world.stores["submissions"].get_file(PATH) == b"old"
    world.process().append(Call(), status.upload_id, 0, BytesReader(b"new"))
    assert world.stores["submissions"].get_file(PATH) == b"new"
    nothing_left(world)


def test_a_download_left_open_is_unknown_after_a_day(world):
    transfers = world.process().transfers
    transfers.upload(Call(), place("submissions", PATH), BytesReader(b"x"))
    transfers.download(Call(), "submissions", PATH)  # never closed
    world.later(STALE)
    assert swept(world) == {}, "downloads may be long"
    world.later(LONG_SECONDS)
    assert swept(world) == {"outcome_unknown": 1}
    assert outcomes(action="file_downloaded_via_stream")[-1][1] == "unknown"
    nothing_left(world)


# --- all of it --------------------------------------------------------------------------------------------------------


def test_a_dry_run_finds_the_same_and_changes_nothing(world):
    client = sender(world)
    crash_at(world, "store complete_parts", Way.BEFORE, client.go)
    world.stores["scratch"].create_parts(PATH)
    world.stores["scratch"].put_tail(f"{'0' * 32}/0-{hashlib.sha256(b'').hexdigest()}", b"")
    world.later(STALE)
    before = (len(list(all_events())), session(client.upload_id).epoch)
    report = sweeper(world).run(dry_run=True)
    assert (len(list(all_events())), session(client.upload_id).epoch) == before
    assert report.repaired == {}
    assert {item["rule"] for item in report.to_json()["items"]} == set(report.found)
    assert PATH not in str(report.to_json())
    assert dict(report.found) == swept(world) == {"completed_again": 1, "orphan_upload": 1, "stray_tail": 1}
    nothing_left(world)


def test_sweeps_at_once_repair_everything_once(world):
    clients = []
    for number in range(6):
        client = sender(world, path=f"submissions/VACS/2024/patient/{number}.csv")
        crash_at(world, "store complete_parts", (Way.BEFORE, Way.AFTER)[number % 2], client.go)
        clients.append(client)
    for name in ("a", "b", "c"):
        crash_at(
            world,
            "store create_parts",
            Way.AFTER,
            lambda uploads, name=name: uploads.create(Call(), new(path=f"scratch/{name}", disk="scratch")),
        )
    world.later(STALE)
    sweepers, reports = [sweeper(world) for _ in range(4)], []
    start = threading.Barrier(len(sweepers))

    def run(one):
        start.wait()
        reports.append(one.run())

    threads = [threading.Thread(target=run, args=(one,)) for one in sweepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.failed for report in reports] == [{}] * len(sweepers)
    assert sum(report.repaired["completed_again"] for report in reports) == 6
    assert sum(report.repaired["abandoned_intent"] for report in reports) == 3
    for client in clients:
        assert session(client.upload_id).state == "AVAILABLE"
    swept(world)
    nothing_left(world)


@pytest.mark.slow
def test_a_sender_that_crashes_anywhere_and_never_comes_back(world):
    """After every call in turn: at most two sweeps later nothing is left over but sessions that may yet go on."""

    def client(name):
        path = f"submissions/VACS/2024/patient/{name}.csv"
        return sender(world, size=200 * KIB, pieces=(40 * KIB, 110 * KIB), path=path)

    client("whole").go(world.process())
    world.faults.revive()
    client("counted").go(world.process())
    total, ends = world.faults.count, set()
    assert total > 15
    for at in range(1, total + 1):
        for way in (Way.BEFORE, Way.AFTER):
            one = client(f"{at}-{way.name}")
            world.faults.arm(at, way)
            with pytest.raises(Crash):
                one.go(world.process())
            world.faults.revive()
            world.later(STALE)
            swept(world)
            swept(world)
            kept = [row for row in UploadSession.scan() if row.live]
            tails = {tail_name(row.upload_id, tail) for row in kept for tail in rows.tails(row)}
            for store in world.stores.values():
                assert {upload.handle for upload in store.open_uploads()} <= {row.handle for row in kept}
                assert {tail.name for tail in store.list_tails()} <= tails
            world.later(EXPIRED)
            swept(world)
            check_no_residue(world)
            ends |= {row.state for row in UploadSession.scan()}
    assert ends == {"AVAILABLE", "ABORTED", "FAILED"}
    check_ledger()
    nothing_left(world)


@pytest.mark.slow
def test_a_sweep_that_crashes_anywhere_is_finished_by_the_next(world):
    def mess(number):
        client = sender(world, path=f"submissions/VACS/2024/patient/{number}.csv", pieces=(100 * KIB,))
        crash_at(world, "store complete_parts", Way.BEFORE, client.go)
        gone = sender(world, path=f"submissions/VACS/2024/patient/{number}-gone.csv", pieces=(100 * KIB,))
        gone.step(world.process(), gone.begin(world.process()))
        world.stores["scratch"].create_parts(f"scratch/{number}")
        world.later(EXPIRED)
        return client

    mess(0)
    world.faults.revive()
    swept(world)
    total = world.faults.count
    assert total > 20
    for at in range(1, total + 1):
        client = mess(at)
        world.faults.arm(at, (Way.BEFORE, Way.AFTER)[at % 2])
        one = sweeper(world)
        with pytest.raises(Crash):
            one.run()
        world.faults.revive()
        world.later(STALE)
        swept(world)
        swept(world)
        assert session(client.upload_id).state == "AVAILABLE"
        check_no_residue(world)
    check_ledger()
    assert list(OpenOperation.scan()) == []
    nothing_left(world)


def test_a_lease_is_kept_while_the_store_assembles(world):
    """Longer than a lease, and nobody else gets the session meanwhile."""
    seen = []

    class Slow(MemoryStorage):
        def complete_parts(self, path, handle, parts, *, sha256=None):
            assert not seen, "somebody else completes it too"
            begun = session(client.upload_id).lease_until
            world.later(LEASE - 1)
            deadline = time.monotonic() + 30
            while session(client.upload_id).lease_until == begun and time.monotonic() < deadline:
                pass
            seen.append(session(client.upload_id).lease_until - begun)
            world.later(2)
            assert swept(world) == {}
            return super().complete_parts(path, handle, parts, sha256=sha256)

    world.stores["submissions"] = Slow("submissions")
    uploads = world.process()
    uploads.finisher._every = 0.02
    client = sender(world)
    assert client.go(uploads).state == "AVAILABLE"
    assert seen == [LEASE - 1]
