"""tus 1.0.0, POST: creation, creation with upload, deferred length; what the metadata decides, and what is refused."""

import base64
import hashlib
import random
from email.utils import parsedate_to_datetime

import pytest

from chalicelib.limits import MAX_OBJECT_BYTES, MIB
from tests.support.client import code, fresh_name
from tests.support.tus_client import CHUNK, Tus, about, metadata


@pytest.fixture(scope="module")
def tus(web) -> Tus:
    return Tus(web)


def test_a_creation_answers_where_the_upload_is_and_until_when(tus):
    answer = tus.create(100)
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert answer.headers["Location"].startswith("/uploads/")
    assert "Upload-Offset" not in answer.headers
    expires = parsedate_to_datetime(answer.headers["Upload-Expires"])
    assert expires > parsedate_to_datetime(answer.headers["Date"])
    assert answer.headers["Upload-Expires"].endswith(" GMT")
    head = tus.head(answer.headers["Location"])
    assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == ("0", "100")


def test_the_file_lands_where_the_metadata_says(tus, web):
    name = f"ünïcode {fresh_name()}"
    raw = about(filename=name, filetype="text/x-depot", cohort="SITE-1", file_type="diagnosis", protocol_year="2023")
    done = tus.create(3, b"a,b", upload_metadata=raw)
    assert done.status_code == 201, done.text
    told = web.get(f"/files/{done.headers['X-Depot-File-Id']}").json()
    assert told["path"] == f"submissions/SITE-1/2023/diagnosis/{name}"
    assert (told["cohort"], told["file_type"], told["protocol_year"]) == ("SITE-1", "diagnosis", "2023")
    assert (told["purpose"], told["content_type"]) == ("submission", "text/x-depot")


def test_uppys_names_for_name_and_type_are_understood(tus, web):
    name = fresh_name()
    usual = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient"}
    raw = metadata(name=name, type="text/tab-separated-values", relativePath="null", **usual)
    done = tus.create(1, b"x", upload_metadata=raw)
    told = web.get(f"/files/{done.headers['X-Depot-File-Id']}").json()
    assert (told["filename"], told["content_type"]) == (name, "text/tab-separated-values")


@pytest.mark.parametrize(
    ("purpose", "extra", "path"),
    [
        ("precheck", {"precheck_id": "42"}, "upload_prechecks/42/"),
        ("precheck", {}, "upload_prechecks/"),
        ("scratch", {"audit_id": "7"}, "scratch/audit_7/"),
        ("scratch", {}, "scratch/audit_"),
    ],
)
def test_temporary_files_need_no_year_and_type(tus, web, purpose, extra, path):
    raw = metadata(purpose=purpose, cohort="VACS", filename=fresh_name(), **extra)
    done = tus.create(1, b"x", upload_metadata=raw)
    told = web.get(f"/files/{done.headers['X-Depot-File-Id']}").json()
    assert told["path"].startswith(path)
    assert told["cleanup_due"] is not None


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("", "filename is missing"),
        (about(filename=""), "filename is missing"),
        (about(cohort=""), "cohort is missing"),
        (about(file_type=""), "file_type is missing"),
        (about(protocol_year=""), "protocol_year is missing"),
        (about(purpose="fun"), "purpose must be one of"),
        (about(filename="../../etc/passwd"), "filename must not contain"),
        (about(filename="a\\b"), "filename: Backslashes"),
        (about(filename="a\r\nX-Evil: 1"), "filename: Control"),
        (about(filename="a" * 256), "longer than 255"),
        (about(cohort=".."), "cohort: The path climbs"),
        (about(filetype="patient"), "media type"),
        (about(sha256="short"), "sha256 must be 64"),
        (about() + ",cohort QQ==", "twice"),
        ("cohort not-base64!", "not base64"),
        (about() + ",x " + "A" * 4096, "at most 4096 bytes"),
    ],
    ids=range(16),  # the values hold fresh names, and an id must be the same in every process
)
def test_bad_or_missing_metadata_is_refused_at_creation_and_says_which(tus, raw, says):
    answer = tus.create(1, upload_metadata=raw)
    assert answer.status_code == 400
    assert code(answer) in ("invalid_request", "invalid_path")
    assert says in answer.json()["error"]["message"]
    assert "Location" not in answer.headers


def test_no_metadata_header_at_all_is_refused_too(tus):
    assert "filename is missing" in tus.create(1, upload_metadata=None).text


@pytest.mark.parametrize(
    "told",
    [
        {"upload_length": None},
        {"upload_length": "-1"},
        {"upload_length": "1.0"},
        {"upload_length": "abc"},
        {"upload_defer_length": "1"},
        {"upload_length": None, "upload_defer_length": "2"},
        {"upload_concat": "most"},
        {"idempotency_key": "two words"},
    ],
)
def test_malformed_headers_are_400(tus, told):
    answer = tus.create(100, **told)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


def test_more_than_the_maximum_is_413(tus):
    answer = tus.create(MAX_OBJECT_BYTES + 1)
    assert (answer.status_code, code(answer)) == (413, "payload_too_large")
    assert tus.delete(tus.opened(MAX_OBJECT_BYTES)).status_code == 204


def test_an_empty_file_is_finished_by_its_creation(tus):
    answer = tus.create(0)
    assert answer.status_code == 201
    assert "Upload-Expires" not in answer.headers
    assert tus.content(answer) == b""
    head = tus.head(answer.headers["Location"])
    assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == ("0", "0")


# --- creation with upload -------------------------------------------------------------------------------------


def test_first_bytes_may_come_with_the_creation(tus):
    answer = tus.create(11, b"hello")
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, "5")
    assert "Upload-Expires" in answer.headers
    done = tus.patch(answer.headers["Location"], 5, b" world")
    assert (done.status_code, tus.content(done)) == (204, b"hello world")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_whole_file_in_its_creation_is_answered_with_the_receipt(tus, web, chunked):
    body = random.Random(3).randbytes(9 * MIB + 1)
    answer = tus.create(len(body), iter([body[:MIB], body[MIB:]]) if chunked else body)
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, str(len(body)))
    assert answer.headers["X-Depot-SHA256"] == hashlib.sha256(body).hexdigest()
    assert tus.content(answer) == body
    assert answer.headers["X-Depot-Tracking-Id"]
    assert answer.headers["X-Depot-Ledger"]
    assert "T" in answer.headers["X-Depot-Completed-At"]


def test_first_bytes_of_another_content_type_are_415_and_no_upload_is_made(tus):
    raw = about()
    for kind in (None, "text/csv", "application/octet-stream"):
        answer = tus.create(5, b"hello", content_type=kind, upload_metadata=raw)
        assert (answer.status_code, code(answer)) == (415, "unsupported_media_type")
    assert tus.create(5, b"hello", upload_metadata=raw).status_code == 201


def test_more_first_bytes_than_the_length_are_refused_and_leave_the_name_free(tus):
    raw = about()
    answer = tus.create(4, b"hello", upload_metadata=raw)
    assert (answer.status_code, code(answer)) == (400, "length_mismatch")
    answer = tus.create(4, iter([b"hello"]), upload_metadata=raw)
    assert (answer.status_code, code(answer)) == (400, "length_mismatch")
    assert tus.create(5, b"hello", upload_metadata=raw).status_code == 201


def test_first_bytes_with_a_wrong_checksum_are_460_and_leave_the_name_free(tus):
    raw, digest = about(), base64.b64encode(hashlib.sha1(b"other").digest()).decode()
    answer = tus.create(5, b"hello", upload_metadata=raw, upload_checksum=f"sha1 {digest}")
    assert (answer.status_code, code(answer)) == (460, "checksum_mismatch")
    assert tus.create(5, b"hello", upload_metadata=raw).status_code == 201


def test_first_bytes_that_failed_under_a_key_are_sent_again_to_the_same_upload(tus):
    wrong = f"sha1 {base64.b64encode(hashlib.sha1(b'other').digest()).decode()}"
    asked = {"upload_metadata": about(), "idempotency_key": fresh_name("")}
    path = tus.opened(5, **asked)
    assert tus.create(5, b"hello", upload_checksum=wrong, **asked).status_code == 460
    assert tus.head(path).headers["Upload-Offset"] == "0"
    again = tus.create(5, b"hello", **asked)
    assert (again.status_code, again.headers["Location"], again.headers["Upload-Offset"]) == (201, path, "5")
    assert tus.content(again) == b"hello"


def test_a_digest_of_the_whole_file_in_the_metadata_is_compared(tus):
    right = hashlib.sha256(b"hello").hexdigest()
    assert tus.create(5, b"hello", upload_metadata=about(sha256=right)).headers["X-Depot-SHA256"] == right
    answer = tus.create(5, b"jello", upload_metadata=about(sha256=right))
    assert (answer.status_code, code(answer)) == (422, "digest_mismatch")


# --- deferred length ------------------------------------------------------------------------------------------


def test_the_length_may_come_later_and_head_says_so_until_then(tus):
    path = tus.opened(None, upload_defer_length=1)
    assert tus.head(path).headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in tus.head(path).headers
    assert tus.patch(path, 0, b"hello").headers["Upload-Offset"] == "5"
    done = tus.patch(path, 5, b" world", upload_length=11)
    assert (done.status_code, tus.content(done)) == (204, b"hello world")
    head = tus.head(path)
    assert head.headers["Upload-Length"] == head.headers["Upload-Offset"] == "11"
    assert "Upload-Defer-Length" not in head.headers


def test_the_length_may_come_last_and_alone(tus):
    path = tus.opened(None, upload_defer_length=1)
    tus.patch(path, 0, b"hello")
    done = tus.patch(path, 5, b"", upload_length=5)
    assert (done.status_code, tus.content(done)) == (204, b"hello")


def test_a_length_once_said_is_not_changed(tus):
    path = tus.opened(None, upload_defer_length=1)
    tus.patch(path, 0, b"hello", upload_length=11)
    answer = tus.patch(path, 5, b" world!", upload_length=12)
    assert (answer.status_code, code(answer)) == (409, "upload_state")
    assert tus.head(path).headers["Upload-Length"] == "11"
    assert tus.patch(path, 5, b" world", upload_length=11).status_code == 204


def test_a_length_below_what_has_arrived_or_over_the_maximum_is_refused(tus):
    path = tus.opened(None, upload_defer_length=1)
    tus.patch(path, 0, b"hello")
    answer = tus.patch(path, 5, b"", upload_length=4)
    assert (answer.status_code, code(answer)) == (400, "length_mismatch")
    assert tus.patch(path, 5, b"", upload_length=MAX_OBJECT_BYTES + 1).status_code == 413
    assert tus.head(path).headers["Upload-Defer-Length"] == "1"


def test_a_length_that_comes_with_a_wrong_offset_is_not_taken(tus):
    path = tus.opened(None, upload_defer_length=1)
    answer = tus.patch(path, 3, b"x", upload_length=4)
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (409, "0")
    assert tus.head(path).headers["Upload-Defer-Length"] == "1"


# --- who, and how often ---------------------------------------------------------------------------------------


def test_only_who_may_upload_for_the_cohort_may_create(as_user):
    raw = about(cohort="SITE-2")
    for role, cohort in (("uploader", "SITE-9"), ("reader", "SITE-2"), ("auditor", "SITE-2"), ("operator", "SITE-2")):
        answer = Tus(as_user(role, cohort)).create(1, upload_metadata=raw)
        assert (answer.status_code, code(answer)) == (403, "forbidden"), role
    assert Tus(as_user("uploader", "SITE-2")).create(1, upload_metadata=raw).status_code == 201


def test_a_creation_repeated_under_its_key_is_the_same_upload(tus):
    asked = {"upload_metadata": about(), "idempotency_key": fresh_name("")}
    first, again = tus.create(11, **asked), tus.create(11, **asked)
    assert first.headers["Location"] == again.headers["Location"]
    other = tus.create(12, **asked)
    assert (other.status_code, code(other)) == (422, "idempotency_mismatch")


def test_a_creation_with_bytes_repeated_under_its_key_is_told_how_far_the_first_came(tus):
    asked = {"upload_metadata": about(), "idempotency_key": fresh_name("")}
    first = tus.create(11, b"hello", **asked)
    again = tus.create(11, b"hello", **asked)
    assert (again.status_code, again.headers["Upload-Offset"]) == (201, "5")
    done = tus.patch(again.headers["Location"], 5, b" world")
    assert tus.content(done) == b"hello world"
    finished = tus.create(11, b"hello", **asked)
    assert (finished.status_code, finished.headers["Upload-Offset"]) == (201, "11")
    assert finished.headers["Location"] == first.headers["Location"]
    assert finished.headers["X-Depot-File-Id"] == done.headers["X-Depot-File-Id"]


def test_a_key_holds_for_a_temporary_file_whose_folder_we_choose(tus):
    raw = metadata(purpose="precheck", cohort="VACS", filename=fresh_name())
    asked = {"upload_metadata": raw, "idempotency_key": fresh_name("")}
    assert tus.create(1, **asked).headers["Location"] == tus.create(1, **asked).headers["Location"]


def test_a_name_that_is_taken_is_refused_while_it_uploads_and_after(tus):
    raw = about()
    path = tus.opened(2, upload_metadata=raw)
    assert tus.patch(path, 0, b"x").status_code == 204
    answer = tus.create(2, upload_metadata=raw)
    assert (answer.status_code, code(answer)) == (409, "upload_in_progress")
    assert tus.patch(path, 1, b"x").status_code == 204
    answer = tus.create(2, upload_metadata=raw)
    assert (answer.status_code, code(answer)) == (409, "file_exists")


def test_a_creation_whose_answer_was_lost_can_be_sent_again(tus):
    raw = about()
    first = tus.opened(1, upload_metadata=raw)
    second = tus.opened(1, upload_metadata=raw)
    assert tus.patch(first, 0, b"x").status_code == 410
    assert tus.patch(second, 0, b"x").status_code == 204


def test_a_body_without_a_type_but_without_bytes_is_an_ordinary_creation(tus):
    assert tus.create(1, content_type="application/json").status_code == 201
    assert tus.create(1, b"", content_type=CHUNK).status_code == 201
