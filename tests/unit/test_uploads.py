"""The session behind the three-phase call: offsets, leases, endings, and no file from anything unfinished."""

import hashlib
from dataclasses import replace

import pytest

from chalicelib.errors import (
    DigestMismatch,
    FileExists,
    LeaseLost,
    LengthMismatch,
    OffsetConflict,
    PayloadTooLarge,
    TruncatedBody,
    UploadEnded,
    UploadInProgress,
    UploadLost,
    UploadMissing,
)
from chalicelib.limits import LEASE_SECONDS, MIB
from chalicelib.storage.streams import BytesReader, IteratorReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.ledger import queries
from nas_gateway.ledger.tables import OpenOperation
from nas_gateway.uploads import rows
from nas_gateway.uploads.hashes import RunningHashes, parts_sha256
from nas_gateway.uploads.service import Uploads
from nas_gateway.uploads.tables import UploadSession
from tests.support.gateway import outcomes, user

PATH = "submissions/VACS/2024/patient/big.csv"
BODY = bytes(range(256)) * 4096 * 12  # 12 MiB: two parts, more than the 10 MB of the chunked action


@pytest.fixture
def uploads(gateway) -> Uploads:
    gateway.uploads.wait = 0  # who finds it held is told at once
    return gateway.uploads


def init(uploads, path=PATH, *, call=None, if_absent=False, **values):
    """A session of the three-phase call."""
    return uploads.create(call or Call(), NewUpload(disk="submissions", path=path, if_absent=if_absent, **values))


def chunk(uploads, upload_id, offset, body):
    return uploads.append(Call(), upload_id, offset, body, finish=False)


def complete(uploads, upload_id, **values):
    return uploads.complete(Call(), upload_id, **values).receipt


def send(uploads, upload_id, body=BODY, step=8 * MIB):
    for offset in range(0, len(body), step):
        chunk(uploads, upload_id, offset, BytesReader(body[offset : offset + step]))


def stored(gateway):
    return [info.path for info in gateway.transfers.disk("submissions").list_files()]


def test_init_chunks_complete(gateway, uploads):
    begun = init(uploads, size=len(BODY))
    assert (begun.offset, begun.chunk_bytes, begun.state) == (0, 8 * MIB, "OPEN")
    assert outcomes(cohort="VACS") == [("file_uploaded_chunked", "intent")]
    send(uploads, begun.upload_id)
    assert uploads.status(Call(), begun.upload_id).offset == len(BODY)
    assert stored(gateway) == []
    saved = complete(uploads, begun.upload_id)
    assert saved.sha256 == hashlib.sha256(BODY).hexdigest()
    assert gateway.transfers.disk("submissions").get_file(PATH) == BODY
    assert outcomes(saved.file_id) == [("file_uploaded_chunked", "intent"), ("file_uploaded_chunked", "completed")]
    assert queries.query(file_id=saved.file_id).events[-1].bytes_transferred == len(BODY)


def test_small_files_keep_the_plain_action_even_when_their_size_was_not_announced(gateway, uploads):
    begun = init(uploads)
    chunk(uploads, begun.upload_id, 0, BytesReader(b"small"))
    saved = complete(uploads, begun.upload_id)
    assert outcomes(saved.file_id)[-1] == ("file_uploaded_via_stream", "completed")


def test_a_large_file_of_unknown_size_ends_with_the_chunked_action(uploads):
    begun = init(uploads)
    send(uploads, begun.upload_id)
    assert outcomes(complete(uploads, begun.upload_id).file_id)[-1] == ("file_uploaded_chunked", "completed")


def test_an_empty_file(gateway, uploads):
    begun = init(uploads, size=0)
    saved = complete(uploads, begun.upload_id)
    assert (saved.size, saved.sha256) == (0, hashlib.sha256(b"").hexdigest())
    assert gateway.transfers.disk("submissions").get_file(PATH) == b""


def test_one_chunk_may_hold_many_parts(gateway, uploads):
    begun = init(uploads)
    assert chunk(uploads, begun.upload_id, 0, IteratorReader([BODY[:7], BODY[7:]])).offset == len(BODY)
    assert complete(uploads, begun.upload_id).size == len(BODY)


def test_another_process_goes_on_where_the_first_stopped(gateway, uploads):
    begun = init(uploads, size=len(BODY))
    chunk(uploads, begun.upload_id, 0, BytesReader(BODY[: 8 * MIB]))
    other = Uploads(gateway.transfers)
    chunk(other, begun.upload_id, 8 * MIB, BytesReader(BODY[8 * MIB :]))
    saved = complete(other, begun.upload_id)
    assert gateway.transfers.disk("submissions").get_file(PATH) == BODY
    assert saved.sha256 is None, "nobody saw the whole file, so nobody may claim its hash"
    assert queries.query(file_id=saved.file_id).events[-1].file_hash.endswith("-2")


def test_a_promised_digest_is_checked_by_reading_back_when_nobody_saw_the_whole(gateway, uploads):
    for digest, good in ((hashlib.sha256(BODY).hexdigest(), True), ("0" * 64, False)):
        path = f"submissions/VACS/2024/patient/{good}.csv"
        begun = init(uploads, path, size=len(BODY), sha256=digest)
        send(uploads, begun.upload_id)
        other = Uploads(gateway.transfers)
        if good:
            assert complete(other, begun.upload_id).sha256 == digest
        else:
            with pytest.raises(DigestMismatch):
                complete(other, begun.upload_id)
    assert stored(gateway) == ["submissions/VACS/2024/patient/True.csv"]


def test_a_wrong_digest_is_refused_before_the_file_is_visible(gateway, uploads):
    begun = init(uploads, size=len(BODY), sha256="0" * 64)
    send(uploads, begun.upload_id)
    with pytest.raises(DigestMismatch):
        complete(uploads, begun.upload_id)
    assert stored(gateway) == []
    assert outcomes(cohort="VACS")[-1] == ("file_uploaded_chunked", "failed")
    assert list(OpenOperation.scan()) == []


def test_a_chunk_elsewhere_than_at_the_offset_is_refused(uploads):
    begun = init(uploads, size=len(BODY))
    chunk(uploads, begun.upload_id, 0, BytesReader(BODY[: 8 * MIB]))
    for offset in (0, 8 * MIB - 1, 8 * MIB + 1):
        with pytest.raises(OffsetConflict):
            chunk(uploads, begun.upload_id, offset, BytesReader(b"x"))
    assert uploads.status(Call(), begun.upload_id).offset == 8 * MIB


def test_a_body_that_breaks_keeps_every_byte_that_arrived(gateway, uploads):
    def source():
        yield BODY[: 9 * MIB]
        raise TruncatedBody

    begun = init(uploads, size=len(BODY))
    with pytest.raises(TruncatedBody):
        chunk(uploads, begun.upload_id, 0, IteratorReader(source()))
    assert uploads.status(Call(), begun.upload_id).offset == 9 * MIB
    chunk(uploads, begun.upload_id, 9 * MIB, BytesReader(BODY[9 * MIB :]))
    assert complete(uploads, begun.upload_id).size == len(BODY)
    assert gateway.transfers.disk("submissions").get_file(PATH) == BODY


def test_completing_early_or_sending_too_much_is_refused(uploads):
    begun = init(uploads, size=len(BODY) - 1)
    with pytest.raises(LengthMismatch):
        complete(uploads, begun.upload_id)
    chunk(uploads, begun.upload_id, 0, BytesReader(BODY[: 8 * MIB]))
    with pytest.raises(LengthMismatch):
        chunk(uploads, begun.upload_id, 8 * MIB, BytesReader(BODY[8 * MIB :]))
    with pytest.raises(LengthMismatch):
        complete(uploads, begun.upload_id)


def test_a_size_over_the_limit_is_refused_at_init_and_while_chunks_come(gateway, uploads):
    gateway.transfers.max_bytes = 8 * MIB
    with pytest.raises(PayloadTooLarge):
        init(uploads, size=8 * MIB + 1)
    begun = init(uploads)
    chunk(uploads, begun.upload_id, 0, BytesReader(BODY[: 8 * MIB]))
    with pytest.raises(PayloadTooLarge):
        chunk(uploads, begun.upload_id, 8 * MIB, BytesReader(b"x"))


def test_only_one_writer_at_a_time(uploads):
    begun = init(uploads)

    def source():
        with pytest.raises(UploadInProgress):
            chunk(uploads, begun.upload_id, 0, BytesReader(b"other"))
        yield b"mine"

    chunk(uploads, begun.upload_id, 0, IteratorReader(source()))
    assert complete(uploads, begun.upload_id).sha256 == hashlib.sha256(b"mine").hexdigest()


def test_a_writer_that_slept_past_its_lease_is_fenced(gateway, uploads):
    begun = init(uploads)
    now = gateway.transfers.clock()

    def source():
        yield b"slow"
        gateway.transfers.clock = lambda: now + LEASE_SECONDS + 1
        chunk(uploads, begun.upload_id, 0, BytesReader(b"fast"))

    with pytest.raises(LeaseLost):
        chunk(uploads, begun.upload_id, 0, IteratorReader(source()))
    assert uploads.status(Call(), begun.upload_id).offset == 4
    saved = complete(uploads, begun.upload_id)
    assert gateway.transfers.disk("submissions").get_file(PATH) == b"fast"
    assert saved.sha256 in (None, hashlib.sha256(b"fast").hexdigest())


def test_a_writer_that_was_taken_over_is_fenced_even_where_the_offset_has_not_moved(gateway, uploads):
    begun = init(uploads)
    now = gateway.transfers.clock()

    def source():
        yield b"slow"
        gateway.transfers.clock = lambda: now + LEASE_SECONDS + 1
        with rows.released(uploads.take(Call(), begun.upload_id, ("OPEN",))):
            pass  # the new holder has stored nothing yet

    with pytest.raises(LeaseLost):
        chunk(uploads, begun.upload_id, 0, IteratorReader(source()))
    assert uploads.status(Call(), begun.upload_id).offset == 0


def test_what_the_storage_assembled_must_have_the_size_that_was_sent(gateway, uploads):
    class Forgetful(MemoryStorage):
        def complete_parts(self, path, handle, parts, *, sha256=None):
            return replace(super().complete_parts(path, handle, parts, sha256=sha256), size=0)

    store = Forgetful("submissions")
    gateway.transfers.disk = lambda _: store
    begun = init(uploads)
    chunk(uploads, begun.upload_id, 0, BytesReader(b"hello"))
    with pytest.raises(UploadLost):
        complete(uploads, begun.upload_id)
    assert outcomes(cohort="VACS")[-1][1] == "failed"
    assert uploads.status(Call(), begun.upload_id).state == "LOST"


@pytest.mark.parametrize("renumber", [True, False], ids=["folder", "s3"])
def test_a_crash_between_a_part_and_its_row_costs_nothing(gateway, uploads, renumber):
    """The part is on the NAS, nobody acknowledged it, the lease runs out: the next process goes on and completes."""
    storage = gateway.transfers.disk("submissions")
    storage.renumber_after_loss = renumber
    begun = init(uploads)
    session = UploadSession.get(begun.upload_id)
    past = int(gateway.transfers.clock()) - 1
    session.update([UploadSession.lease_until.set(past), UploadSession.epoch.set(1)])
    storage.write_part(PATH, session.handle, 1, 0, b"never acknowledged")
    chunk(uploads, begun.upload_id, 0, BytesReader(b"sent again"))
    held = [number for number, _ in storage.list_parts(PATH, session.handle)]
    assert held == ([1, 4] if renumber else [1]), "a store that counts parts must not hold one that nobody names"
    assert complete(uploads, begun.upload_id).size == len(b"sent again")
    assert storage.get_file(PATH) == b"sent again"


def test_completing_again_gives_the_same_answer(uploads):
    begun = init(uploads)
    chunk(uploads, begun.upload_id, 0, BytesReader(b"x"))
    first = complete(uploads, begun.upload_id)
    again = complete(uploads, begun.upload_id)
    assert (first.file_id, first.tracking_id, first.sha256) == (again.file_id, again.tracking_id, again.sha256)
    assert outcomes(first.file_id) == [
        ("file_uploaded_via_stream", "intent"),
        ("file_uploaded_via_stream", "completed"),
    ]


def test_completing_goes_on_after_a_crash_in_the_middle(gateway, uploads):
    begun = init(uploads)
    chunk(uploads, begun.upload_id, 0, BytesReader(b"x"))
    session = UploadSession.get(begun.upload_id)
    session.update([UploadSession.state.set("COMPLETING")])
    assert complete(uploads, begun.upload_id).size == 1


@pytest.mark.parametrize("there", ["same", "other", "longer", "nothing"])
def test_a_crash_after_the_store_completed_is_finished_only_if_the_bytes_are_the_ones_sent(gateway, uploads, there):
    """COMPLETING, the upload gone from the store: success if that very file stands there, otherwise LOST."""
    begun = init(uploads, size=len(BODY))
    send(uploads, begun.upload_id)
    session = UploadSession.get(begun.upload_id)
    session.update([UploadSession.state.set("COMPLETING")])
    store = gateway.transfers.disk("submissions")
    store.complete_parts(PATH, session.handle, rows.parts(begun.upload_id))
    if there == "nothing":
        store.delete(PATH)
    elif there != "same":
        store.save(PATH, BODY[:-1] + b"!" if there == "other" else BODY + b"!")
    retried = Uploads(gateway.transfers)
    if there == "same":
        saved = complete(retried, begun.upload_id)
        assert outcomes(saved.file_id)[-1][1] == "completed"
        assert gateway.transfers.file(Call(), saved.file_id).size == len(BODY)
    else:
        with pytest.raises(UploadLost):
            complete(retried, begun.upload_id)
        assert uploads.status(Call(), begun.upload_id).state == "LOST"
        assert outcomes(cohort="VACS")[-1][1] == "failed"


def test_a_file_that_was_there_before_is_not_taken_for_a_lost_upload(gateway, uploads):
    """The same bytes stand at the path, but this upload never came to completing: it is lost."""
    gateway.transfers.upload(Call(), place("submissions", PATH), BytesReader(b"x"))
    begun = init(uploads)
    chunk(uploads, begun.upload_id, 0, BytesReader(b"x"))
    gateway.transfers.disk("submissions").abort_parts(PATH, UploadSession.get(begun.upload_id).handle)
    with pytest.raises(UploadLost):
        complete(uploads, begun.upload_id)


def test_completing_twice_at_once_never_loses_the_file(gateway, uploads):
    """The second call comes when the store is done and the ledger is not: it is told to wait."""
    begun = init(uploads)
    chunk(uploads, begun.upload_id, 0, BytesReader(b"x"))
    finish, met = gateway.transfers.complete, []

    def slow(*args, **kwargs):
        with pytest.raises(UploadInProgress):
            complete(Uploads(gateway.transfers), begun.upload_id)
        met.append(True)
        return finish(*args, **kwargs)

    gateway.transfers.complete = slow
    assert complete(uploads, begun.upload_id).size == 1
    assert met
    assert outcomes(cohort="VACS")[-1][1] == "completed"


def test_abort_discards_everything_and_is_repeatable(gateway, uploads):
    begun = init(uploads, size=len(BODY))
    chunk(uploads, begun.upload_id, 0, BytesReader(BODY[: 8 * MIB]))
    uploads.abort(Call(), begun.upload_id)
    uploads.abort(Call(), begun.upload_id)
    assert stored(gateway) == []
    assert outcomes(cohort="VACS")[-1] == ("file_uploaded_chunked", "failed")
    for attempt in (
        lambda: chunk(uploads, begun.upload_id, 8 * MIB, BytesReader(b"x")),
        lambda: complete(uploads, begun.upload_id),
    ):
        with pytest.raises(UploadMissing):
            attempt()
    assert init(uploads, if_absent=True), "the path is free again at once"


def test_a_path_under_upload_is_taken_until_it_ends(uploads):
    begun = init(uploads, if_absent=True)
    with pytest.raises(UploadInProgress):
        init(uploads, if_absent=True)
    chunk(uploads, begun.upload_id, 0, BytesReader(b"x"))
    complete(uploads, begun.upload_id)
    with pytest.raises(FileExists):
        init(uploads, if_absent=True)


def test_an_expired_session_takes_no_more_chunks(gateway, uploads):
    begun = init(uploads)
    gateway.transfers.clock = lambda: begun.expires_at + 1
    with pytest.raises(UploadEnded):
        chunk(uploads, begun.upload_id, 0, BytesReader(b"x"))


def test_a_session_is_its_owners(uploads):
    begun = init(uploads, call=user("uploader", "VACS"), if_absent=True)
    for stranger in (user("uploader", "OTHER"), user("superuser")):
        with pytest.raises(UploadMissing):
            uploads.status(stranger, begun.upload_id)
    assert uploads.status(Call(), begun.upload_id).offset == 0
    with pytest.raises(UploadMissing):
        uploads.status(Call(), "0" * 32)


def test_running_hashes_say_nothing_when_a_chunk_was_missed():
    hashes = RunningHashes(limit=2)
    hashes.put("a", 3, hashlib.sha256(b"one"))
    assert hashes.at("a", 3) == hashlib.sha256(b"one").hexdigest()
    assert hashes.take("a", 5) is None
    assert hashes.at("a", 3) is None, "and nobody else goes on with it"
    for name in (b"b", b"c", b"d"):
        hashes.put(name.decode(), 1, hashlib.sha256(name))
    assert hashes.at("b", 1) is None, "only the last two are kept"
    assert hashes.at("d", 1) == hashlib.sha256(b"d").hexdigest()
    assert hashes.at("never", 0) == hashlib.sha256(b"").hexdigest()


def test_the_parts_hash_says_how_many_parts_there_were():
    assert parts_sha256([]).endswith("-0")


def test_an_upload_that_never_got_a_byte_makes_way_for_its_senders_next_attempt(gateway, uploads):
    """Its creation was answered into a broken connection: nobody knows its address."""
    sender = user("uploader", "VACS")
    first = init(uploads, call=sender, if_absent=True, note={"tus_metadata": "x"})
    second = init(uploads, call=sender, if_absent=True, note={"tus_metadata": "x"})
    assert second.upload_id != first.upload_id
    assert uploads.status(sender, first.upload_id).state == "ABORTED"
    with pytest.raises(UploadEnded):
        uploads.append(sender, first.upload_id, 0, BytesReader(b"x"))
    uploads.append(sender, second.upload_id, 0, BytesReader(b"x"))
    with pytest.raises(UploadInProgress):
        init(uploads, call=sender, if_absent=True, note={"tus_metadata": "x"})
    assert uploads.status(sender, second.upload_id).offset == 1, "what has bytes is nobody's to replace"


def test_nobody_elses_upload_makes_way(gateway, uploads):
    first = init(uploads, call=user("uploader", "VACS"), if_absent=True, note={"tus_metadata": "x"})
    with pytest.raises(UploadInProgress):
        init(uploads, call=user("cohort_manager", "VACS"), if_absent=True, note={"tus_metadata": "x"})
    with pytest.raises(UploadInProgress):
        init(uploads, if_absent=True, note={"tus_metadata": "x"})
    assert uploads.status(Call(), first.upload_id).state == "OPEN"
