"""`/s3/*` and `/files/{id}/url`: shapes, checks and whose they are. What a store refuses is in tests/integration."""

import hashlib

import pytest
import requests

from chalicelib.limits import MIB
from chalicelib.web.presigned import uppy_part_bytes
from tests.support.client import fresh_name
from tests.support.lambda_events import content
from tests.support.presigned_app import LambdaApp, code, presigned_app, told

__all__ = ["presigned_app"]

PLACE = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient"}
MULTIPART, ONE = "/s3/multipart", "/s3/multipart/{upload_id}"
PART, COMPLETE = "/s3/multipart/{upload_id}/{number}", "/s3/multipart/{upload_id}/complete"


@pytest.fixture
def depot(presigned_app: LambdaApp) -> LambdaApp:
    return presigned_app


def create(depot: LambdaApp, name: str | None = None, headers=None, /, **metadata):
    """Uppy's creation. A value of None leaves the metadata's field out."""
    about = {name: value for name, value in {**PLACE, "size": 3, **metadata}.items() if value is not None}
    body = {"filename": name or fresh_name(), "type": "text/csv", "metadata": about}
    return depot.call("POST", MULTIPART, json=body, headers=headers or {})


def at(made: dict[str, str], number: int | str | None = None, **query: str):
    """Where an upload's calls go."""
    path = {"upload_id": made["uploadId"], **({} if number is None else {"number": str(number)})}
    return {"path": path, "query": {"key": made["key"], **query}}


def test_a_whole_upload_in_uppys_shapes(depot):
    name = fresh_name()
    made = told(create(depot, name, name=name, relativePath="null", nothing=None))
    assert set(made) == {"key", "uploadId", "bucket", "part_bytes"}
    assert made["bucket"] == "depot"
    assert told(depot.call("GET", ONE, **at(made))) == []
    signed = told(depot.call("GET", PART, **at(made, 1)))
    assert (signed["method"], signed["expires"], signed["headers"]) == ("PUT", 900, {"Content-Length": "3"})
    sent = requests.put(signed["url"], data=b"abc", timeout=30)
    assert sent.status_code == 200
    parts = told(depot.call("GET", ONE, **at(made)))
    assert parts == [{"PartNumber": 1, "Size": 3, "ETag": sent.headers["ETag"]}]
    done = told(depot.call("POST", COMPLETE, json={"parts": []}, **at(made)))
    assert set(done) == {"location", "key", "bucket", "receipt"}
    receipt = done["receipt"]
    assert done["location"] == f"http://depot.example/api/files/{receipt['file_id']}"
    assert (receipt["size"], receipt["path"]) == (3, f"submissions/VACS/2024/patient/{name}")
    assert told(depot.call("POST", COMPLETE, json={}, **at(made)))["receipt"] == receipt
    got = depot.call("GET", "/files/{file_id}/content", path={"file_id": receipt["file_id"]})
    assert content(got) == b"abc"


def test_aborting_answers_an_empty_object_and_ends_it(depot):
    made = told(create(depot))
    assert told(depot.call("DELETE", ONE, **at(made))) == {}
    assert code(depot.call("GET", PART, **at(made, 1))) == (410, "upload_ended")
    assert code(depot.call("POST", COMPLETE, json={}, **at(made)))[0] in (404, 410)


# --- creation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, "", 0, -1, 1.5, "3.0", "three", True, 6 * 2**40, "9" * 30, [3]])
def test_a_size_that_is_none_is_refused_with_a_word_on_what_to_do(depot, size):
    answer = create(depot, size=size)
    assert code(answer) == (400, "invalid_request")
    assert "metadata.size" in told(answer, 400)["error"]["message"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"cohort": None},
        {"protocol_year": None},
        {"file_type": None},
        {"cohort": "../MACS"},
        {"purpose": "other"},
        {"part_bytes": 1, "size": 3},
        {"part_bytes": 5 * MIB - 1, "size": 6 * MIB},
        {"sha256": "abc"},
    ],
)
def test_bad_or_missing_metadata_is_refused_at_creation(depot, metadata):
    assert create(depot, **metadata)["statusCode"] == 400


@pytest.mark.parametrize("body", [{}, {"filename": "x.csv"}, {"metadata": []}, {"metadata": "x"}, {"filename": 7}])
def test_bodies_of_another_shape_are_refused(depot, body):
    assert depot.call("POST", MULTIPART, json=body)["statusCode"] == 400


def test_numbers_and_names_count_however_the_page_writes_them(depot):
    name = fresh_name()
    made = told(create(depot, "other.csv", filename=name, size="12582912", part_bytes=6 * MIB, protocol_year=2024))
    assert made["part_bytes"] == 6 * MIB
    assert told(depot.call("GET", PART, **at(made, 2)))["headers"] == {"Content-Length": str(6 * MIB)}
    assert f"/submissions/VACS/2024/patient/{name}?" in told(depot.call("GET", PART, **at(made, 1)))["url"]


def test_without_a_part_size_the_lengths_are_those_of_uppy(depot):
    assert [uppy_part_bytes(size) for size in (1, 5 * MIB, 5 * MIB * 10_000, 5 * MIB * 10_000 + 1)] == [
        5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB + 1,
    ]  # fmt: skip
    made = told(create(depot, size=5 * MIB + 1))
    lengths = [told(depot.call("GET", PART, **at(made, number)))["headers"]["Content-Length"] for number in (1, 2)]
    assert lengths == [str(5 * MIB), "1"]


def test_the_same_key_opens_the_same_upload_also_in_a_temporary_folder(depot):
    name, headers = fresh_name(), {"idempotency-key": fresh_name()}
    first = told(create(depot, name, headers, purpose="precheck"))
    assert told(create(depot, name, headers, purpose="precheck")) == first
    assert code(create(depot, name, headers, purpose="precheck", size=4)) == (422, "idempotency_mismatch")


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(depot):
    name = fresh_name()
    made = told(create(depot, name))
    assert code(create(depot, name)) == (409, "upload_in_progress")
    requests.put(told(depot.call("GET", PART, **at(made, 1)))["url"], data=b"abc", timeout=30)
    told(depot.call("POST", COMPLETE, json={}, **at(made)))
    assert code(create(depot, name)) == (409, "file_exists")
    assert create(depot, name, overwrite="true")["statusCode"] == 200


# --- whose ------------------------------------------------------------------------------------------------------------


def test_only_who_may_upload_to_the_cohort_opens_an_upload(depot):
    query = {"filename": "a.csv", **{f"metadata[{name}]": value for name, value in PLACE.items()}}
    for role, cohort in (("reader", "VACS"), ("uploader", "MACS"), ("auditor", "VACS")):
        user = depot.signed_in(role, cohort)
        assert code(create(user)) == (403, "forbidden")
        assert code(user.call("GET", "/s3/params", query=query)) == (403, "forbidden")


CALLS = [("GET", PART, 1), ("GET", ONE, None), ("POST", COMPLETE, None), ("DELETE", ONE, None)]


@pytest.mark.parametrize(("method", "resource", "number"), CALLS)
def test_another_users_upload_is_not_there(depot, method, resource, number):
    made = told(create(depot.signed_in("uploader", "VACS")))
    other = depot.signed_in("cohort_manager", "VACS")
    assert code(other.call(method, resource, **at(made, number))) == (404, "upload_not_found")


@pytest.mark.parametrize(("method", "resource", "number"), CALLS)
def test_a_key_or_an_id_that_is_not_the_uploads_is_not_there(depot, method, resource, number):
    made, other = told(create(depot)), told(create(depot))
    for wrong in (
        {**made, "key": other["key"]},
        {**made, "key": ""},
        {**made, "uploadId": other["uploadId"]},
        {"key": "..", "uploadId": ".."},
        {"key": "0" * 32, "uploadId": "0" * 32},
    ):
        assert code(depot.call(method, resource, **at(wrong, number))) == (404, "upload_not_found")
    assert told(depot.call("GET", ONE, **at(made))) == []


@pytest.mark.parametrize("number", ["0", "10001", "-1", "1.5", "x", "99999999999999999999", "٣"])
def test_part_numbers_go_from_1_to_10_000(depot, number):
    made = told(create(depot))
    assert code(depot.call("GET", PART, **at(made, number))) == (400, "invalid_request")


@pytest.mark.parametrize("query", [{"size": "0"}, {"size": "4"}, {"size": "x"}, {"sha256": "abc"}])
def test_lengths_and_digests_that_cannot_be_are_not_signed(depot, query):
    made = told(create(depot))
    assert depot.call("GET", PART, **at(made, 1, **query))["statusCode"] == 400


def test_a_digest_that_is_given_is_signed(depot):
    made, digest = told(create(depot)), hashlib.sha256(b"abc").hexdigest()
    signed = told(depot.call("GET", PART, **at(made, 1, size="3", sha256=digest)))
    assert signed["headers"] == {"Content-Length": "3", "x-amz-content-sha256": digest}
    assert "x-amz-content-sha256" in signed["url"].split("SignedHeaders=")[1].split("&")[0]


# --- small files, downloads -------------------------------------------------------------------------------------------


def test_the_small_way_is_a_form_to_us_where_the_file_is_tracked(depot):
    name = fresh_name()
    told_as = {**PLACE, "name": name, "type": "text/csv"}
    query = {"filename": name, "type": "text/csv", **{f"metadata[{key}]": value for key, value in told_as.items()}}
    answer = told(depot.call("GET", "/s3/params", query=query, headers={"x-forwarded-proto": "https"}))
    assert (answer["method"], answer["url"]) == ("POST", "https://depot.example/api/files")
    assert answer["fields"] == {**PLACE, "filename": name, "key": answer["fields"]["key"]}
    assert name not in answer["url"]
    form = requests.Request(
        "POST", "http://x/", data=answer["fields"], files={"file": ("blob", b"abc", "text/csv")}
    ).prepare()
    sent = depot.call("POST", "/files", headers={"content-type": form.headers["Content-Type"]}, body=form.body)
    stored = told(sent, 201)
    assert stored["path"] == f"submissions/VACS/2024/patient/{name}"
    assert sent["headers"]["ETag"] == f'"{hashlib.sha256(b"abc").hexdigest()}"'


def test_the_scheme_is_believed_only_if_it_is_one_of_ours(depot):
    query = {"filename": "a.csv", **{f"metadata[{name}]": value for name, value in PLACE.items()}}
    answer = depot.call("GET", "/s3/params", query=query, headers={"x-forwarded-proto": "javascript"})
    assert told(answer)["url"] == "http://depot.example/api/files"


def test_a_download_url_lives_as_long_as_it_is_asked_for(depot):
    form = {**PLACE, "filename": fresh_name()}
    file_id = told(depot.call("PUT", "/files", query=form, body=b"abc"), 201)["file_id"]
    where = {"path": {"file_id": file_id}}
    usual = told(depot.call("GET", "/files/{file_id}/url", **where))
    assert (usual["method"], usual["expires_in"]) == ("GET", 900)
    short = told(depot.call("GET", "/files/{file_id}/url", **where, query={"expires_in": "60"}))
    assert (short["expires_in"], "X-Amz-Expires=60" in short["url"]) == (60, True)
    assert requests.get(short["url"], timeout=30).content == b"abc"
    for wrong in ("0", "901", "-1", "x"):
        asked = depot.call("GET", "/files/{file_id}/url", **where, query={"expires_in": wrong})
        assert code(asked) == (400, "invalid_request")
    assert code(depot.signed_in("uploader", "VACS").call("GET", "/files/{file_id}/url", **where)) == (403, "forbidden")
    assert code(depot.signed_in("reader", "MACS").call("GET", "/files/{file_id}/url", **where)) == (
        404,
        "file_not_found",
    )
    strange = depot.call("GET", "/files/{file_id}/url", path={"file_id": "../x"})
    assert code(strange) == (404, "file_not_found")
