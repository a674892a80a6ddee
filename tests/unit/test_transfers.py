"""The use-cases around a file: an intent before the first byte, an outcome after the last, and nothing kept on failure."""

import hashlib

import pytest

from chalicelib.errors import (
    DigestMismatch,
    FileExists,
    FileMissing,
    Forbidden,
    InvalidRequest,
    LeaseLost,
    LedgerUnavailable,
    PayloadTooLarge,
    StorageFull,
    TruncatedBody,
    UploadInProgress,
)
from chalicelib.storage.base import ByteRange
from chalicelib.storage.streams import BytesReader, IteratorReader
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.registry import claim_key
from nas_gateway.files.tables import PathClaim, State, TrackedFile
from nas_gateway.ledger import queries
from nas_gateway.ledger.tables import OpenOperation
from tests.support.gateway import outcomes, user

PATH = "submissions/VACS/2024/patient/p.csv"
UPLOADED = "file_uploaded_via_stream"


def upload(gateway, content=b"hello", call=None, path=PATH, **kwargs):
    where = place("submissions", path)
    return gateway.transfers.upload(call or Call(), where, BytesReader(content), **kwargs)


def breaking(*blocks: bytes, error: Exception):
    def source():
        yield from blocks
        raise error

    return IteratorReader(source())


def only_file(gateway):
    return [info.path for info in gateway.transfers.disk("submissions").list_files()]


def test_an_upload_leaves_an_intent_an_outcome_and_an_available_file(gateway):
    saved = upload(gateway)
    assert saved == PATH
    assert saved.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert outcomes(saved.file_id) == [(UPLOADED, "intent"), (UPLOADED, "completed")]
    row = TrackedFile.get(saved.file_id)
    assert (row.state, row.size, row.cohort, row.file_type, row.protocol_year) == (
        State.AVAILABLE, 5, "VACS", "patient", "2024",
    )  # fmt: skip
    completed = queries.query(file_id=saved.file_id).events[-1]
    assert (completed.bytes_transferred, completed.file_size, completed.file_hash) == (5, 5, saved.sha256)
    assert completed.stream_start <= completed.stream_complete
    assert completed.tracking_id == saved.tracking_id
    assert list(OpenOperation.scan()) == []


def test_the_intent_is_recorded_before_the_first_byte_is_read(gateway):
    seen = []

    def source():
        seen.extend(queries.query(cohort="VACS").events)
        yield b"hello"

    gateway.transfers.upload(Call(), place("submissions", PATH), IteratorReader(source()))
    assert [event.outcome for event in seen] == ["intent"]


def test_no_byte_is_read_when_the_ledger_cannot_be_written(gateway):
    OpenOperation.delete_table()
    reads = []

    def source():
        reads.append(1)
        yield b"hello"

    with pytest.raises(LedgerUnavailable):
        gateway.transfers.upload(Call(), place("submissions", PATH), IteratorReader(source()))
    assert reads == []
    assert only_file(gateway) == []


def test_a_source_that_breaks_leaves_no_file_and_a_failed_event_with_the_bytes_that_moved(gateway):
    with pytest.raises(TruncatedBody):
        gateway.transfers.upload(
            Call(), place("submissions", PATH), breaking(b"x" * 1000, error=TruncatedBody()), if_absent=True
        )
    assert only_file(gateway) == []
    events = queries.query(cohort="VACS").events
    assert [event.outcome for event in events] == ["intent", "failed"]
    assert (events[1].bytes_transferred, events[1].error_code) == (1000, "body_truncated")
    assert TrackedFile.get(events[0].file_id).state == State.FAILED
    # and the path is free again at once
    assert upload(gateway, if_absent=True)


def test_a_full_store_is_told_as_such(gateway):
    with pytest.raises(StorageFull):
        gateway.transfers.upload(Call(), place("submissions", PATH), breaking(b"x", error=StorageFull()))
    assert queries.query(cohort="VACS").events[-1].error_code == "storage_full"


def test_a_wrong_digest_keeps_nothing(gateway):
    with pytest.raises(DigestMismatch):
        upload(gateway, sha256="0" * 64)
    assert only_file(gateway) == []
    assert queries.query(cohort="VACS").events[-1].error_code == "digest_mismatch"


def test_if_absent_refuses_a_taken_path_without_reading_a_byte(gateway):
    first = upload(gateway, b"first")
    with pytest.raises(FileExists):
        gateway.transfers.upload(
            Call(), place("submissions", PATH), breaking(error=AssertionError("was read")), if_absent=True
        )
    assert gateway.transfers.disk("submissions").get_file(PATH) == b"first"
    assert outcomes(first.file_id)[-1] == (UPLOADED, "completed")


def test_replacing_makes_the_old_row_replaced_and_the_new_one_available(gateway):
    old, new = upload(gateway, b"old"), upload(gateway, b"new")
    assert old.file_id != new.file_id
    assert TrackedFile.get(old.file_id).state == State.REPLACED
    assert TrackedFile.get(new.file_id).state == State.AVAILABLE
    rows, _ = gateway.transfers.registry.listed("VACS", None, 10)
    assert [row.file_id for row in rows] == [new.file_id]


def test_two_uploads_to_one_path_do_not_run_at_once(gateway):
    def source():
        with pytest.raises(UploadInProgress):
            upload(gateway, b"second")
        yield b"first"

    gateway.transfers.upload(Call(), place("submissions", PATH), IteratorReader(source()))
    assert gateway.transfers.disk("submissions").get_file(PATH) == b"first"


def test_an_upload_that_slept_past_its_lease_and_lost_the_path_is_not_recorded(gateway):
    def source():
        yield b"slow"
        claim = PathClaim.get(claim_key("submissions", PATH))
        claim.update([PathClaim.pending_until.set(0)])
        upload(gateway, b"faster")

    with pytest.raises(LeaseLost):
        gateway.transfers.upload(Call(), place("submissions", PATH), IteratorReader(source()))
    events = queries.query(cohort="VACS").events
    assert sorted(event.outcome for event in events) == ["completed", "failed", "intent", "intent"]
    assert list(OpenOperation.scan()) == []


def test_a_file_over_the_limit_is_refused_before_or_while_it_is_read(gateway):
    gateway.transfers.max_bytes = 10
    with pytest.raises(PayloadTooLarge):
        upload(gateway, b"x" * 11)
    with pytest.raises(PayloadTooLarge):
        gateway.transfers.upload(Call(), place("submissions", PATH), IteratorReader([b"x" * 6, b"x" * 6]))
    assert only_file(gateway) == []
    assert upload(gateway, b"x" * 10).size == 10


def test_a_download_is_tracked_with_the_bytes_that_moved(gateway):
    saved = upload(gateway, b"0123456789")
    with gateway.transfers.download(Call(), "submissions", PATH, ByteRange(2, 5)) as download:
        assert b"".join(download) == b"2345"
    event = queries.query(file_id=saved.file_id).events[-1]
    assert (event.action, event.outcome, event.bytes_transferred) == ("file_downloaded_via_stream", "completed", 4)


def test_a_reader_who_goes_away_leaves_a_failed_download(gateway):
    saved = upload(gateway, b"0123456789")
    download = gateway.transfers.download(Call(), "submissions", PATH)
    download.read(3)
    download.close()
    download.close()
    events = queries.query(file_id=saved.file_id).events
    assert [event.outcome for event in events] == ["intent", "completed", "intent", "failed"]
    assert (events[-1].bytes_transferred, events[-1].error_code) == (3, "client_disconnected")


def test_nothing_is_read_when_a_download_cannot_be_recorded(gateway):
    upload(gateway)
    OpenOperation.delete_table()
    with pytest.raises(LedgerUnavailable):
        gateway.transfers.download(Call(), "submissions", PATH)


def test_a_missing_file_is_missing_and_the_attempt_has_an_end(gateway):
    with pytest.raises(FileMissing):
        gateway.transfers.download(Call(), "submissions", PATH)
    assert list(OpenOperation.scan()) == []


def test_delete_removes_file_and_listing_and_leaves_its_trace(gateway):
    saved = upload(gateway)
    gateway.transfers.delete(Call(), "submissions", PATH)
    assert only_file(gateway) == []
    assert TrackedFile.get(saved.file_id).state == State.DELETED
    assert gateway.transfers.registry.listed("VACS", None, 10) == ([], None)
    assert outcomes(saved.file_id)[-1] == ("file_deleted_via_api", "completed")
    with pytest.raises(FileMissing):
        gateway.transfers.delete(Call(), "submissions", PATH)


def test_a_file_deleted_behind_our_back_is_closed_with_that_fact(gateway):
    saved = upload(gateway)
    gateway.transfers.disk("submissions").delete(PATH)
    gateway.transfers.delete(Call(), "submissions", PATH)
    event = queries.query(file_id=saved.file_id).events[-1]
    assert (event.outcome, dict(event.metadata)) == ("completed", {"already_gone": "true"})
    assert TrackedFile.get(saved.file_id).state == State.DELETED


def test_delete_prefix_leaves_an_event_a_file_and_one_for_the_whole(gateway):
    for name in ("a/1", "a/2", "ab/3"):
        gateway.transfers.upload(Call(), place("scratch", f"scratch/{name}"), BytesReader(b"x"))
    would, _, _ = gateway.transfers.delete_prefix(Call(), "scratch", "scratch/a", dry_run=True)
    assert would == ["scratch/a/1", "scratch/a/2"]
    deleted, failed, _ = gateway.transfers.delete_prefix(Call(), "scratch", "scratch/a", dry_run=False)
    assert (deleted, failed) == (would, {})
    assert [info.path for info in gateway.transfers.disk("scratch").list_files()] == ["scratch/ab/3"]
    assert outcomes(action="file_deleted_via_api").count(("file_deleted_via_api", "completed")) == 2
    assert outcomes(action="prefix_deleted_via_api")[-1][1] == "completed"


# --- who may -----------------------------------------------------------------------------------------------------


def test_a_user_uploads_only_for_own_cohorts_and_a_denial_is_recorded(gateway):
    upload(gateway, call=user("uploader", "VACS"), if_absent=True)
    with pytest.raises(Forbidden):
        upload(gateway, call=user("uploader", "OTHER"), path="submissions/VACS/2024/patient/q.csv", if_absent=True)
    assert outcomes(action="access_denied") == [("access_denied", "failed")]


def test_a_file_of_another_cohort_is_not_there(gateway):
    saved = upload(gateway)
    stranger = user("cohort_manager", "OTHER")
    for attempt in (gateway.transfers.download, gateway.transfers.delete, gateway.transfers.describe):
        with pytest.raises(FileMissing):
            attempt(stranger, "submissions", PATH)
    with pytest.raises(FileMissing):
        gateway.transfers.file(stranger, saved.file_id)
    assert not gateway.transfers.exists(stranger, "submissions", PATH)
    assert only_file(gateway) == [PATH]


def test_an_own_file_that_the_role_may_not_read_is_forbidden(gateway):
    upload(gateway)
    with pytest.raises(Forbidden):
        gateway.transfers.download(user("uploader", "VACS"), "submissions", PATH)
    with pytest.raises(Forbidden):
        gateway.transfers.download(user("auditor"), "submissions", PATH)


def test_replacing_needs_the_right_to_delete_what_is_there(gateway):
    upload(gateway, b"first")
    with pytest.raises(Forbidden):
        upload(gateway, b"second", call=user("uploader", "VACS"))
    assert gateway.transfers.disk("submissions").get_file(PATH) == b"first"
    upload(gateway, b"second", call=user("cohort_manager", "VACS"))


def test_a_working_copy_of_another_cohort_cannot_be_replaced(gateway):
    where = place("workspace", "upload_prechecks/1/p.csv", metadata={"cohort": "VACS"})
    gateway.transfers.upload(Call(), where, BytesReader(b"theirs"))
    mine = place("workspace", "upload_prechecks/1/p.csv", metadata={"cohort": "MINE"})
    with pytest.raises(Forbidden):
        gateway.transfers.upload(user("cohort_manager", "MINE"), mine, BytesReader(b"mine"))
    assert gateway.transfers.disk("workspace").get_file(where.path) == b"theirs"


def test_metadata_that_names_another_cohort_than_the_path_is_refused():
    with pytest.raises(InvalidRequest, match="cohort"):
        place("submissions", PATH, metadata={"cohort": "MINE"})
    with pytest.raises(InvalidRequest, match="purpose"):
        place("submissions", PATH, metadata={"purpose": "scratch"})
    with pytest.raises(InvalidRequest, match="submission's path"):
        place("submissions", "submissions/VACS/p.csv")


def test_temporary_files_have_a_deadline_and_submissions_have_none(gateway):
    upload(gateway)
    copy = gateway.transfers.upload(Call(), place("scratch", "scratch/audit_1/x"), BytesReader(b"x"))
    assert gateway.transfers.temporary_files(created_before=gateway.transfers.clock() - 60, limit=10) == []
    due = gateway.transfers.temporary_files(created_before=gateway.transfers.clock() + 1, limit=10)
    assert [file.file_id for file in due] == [copy.file_id]
    event = queries.query(file_id=copy.file_id).events[0]
    assert event.cleanup_required
    assert event.expected_cleanup_by is not None
