"""Without NAS_PUBLIC_ENDPOINT nothing is presigned, and every address of it says so."""

import pytest

from tests.support.client import Client, code, fresh_name

ID = "0123456789abcdef" * 2
ADDRESSES = [
    ("GET", "/s3/params?filename=a.csv&type=text/csv"),
    ("POST", "/s3/multipart"),
    ("GET", f"/s3/multipart/{ID}?key={ID}"),
    ("GET", f"/s3/multipart/{ID}/1?key={ID}"),
    ("POST", f"/s3/multipart/{ID}/complete?key={ID}"),
    ("DELETE", f"/s3/multipart/{ID}?key={ID}"),
    ("GET", f"/files/{ID}/url"),
]


@pytest.mark.parametrize(("method", "address"), ADDRESSES)
def test_it_is_404_with_a_code_that_says_so(web, method, address):
    answer = web.call(method, address, json={} if method == "POST" else None)
    assert (answer.status_code, code(answer)) == (404, "presigning_off")


@pytest.mark.parametrize(("method", "address"), ADDRESSES)
def test_who_is_not_signed_in_learns_nothing(tiers, method, address):
    answer = Client(tiers.document["web_url"]).call(method, address, json={} if method == "POST" else None)
    assert (answer.status_code, code(answer)) == (401, "not_signed_in")


def test_the_services_tier_opens_no_direct_session_either(services):
    asked = {"disk": "submissions", "path": "submissions/VACS/2024/patient/x.csv", "size": 5, "direct": True}
    answer = services.post("/internal/storage/upload_chunked?phase=init", json=asked)
    assert (answer.status_code, code(answer)) == (404, "presigning_off")


def test_an_uploads_answer_carries_the_etag_that_the_content_has(web):
    sent = web.upload(b"some bytes", fresh_name())
    assert sent.status_code == 201
    got = web.content(sent.json()["file_id"])
    assert sent.headers["ETag"] == got.headers["ETag"] == f'"{sent.json()["sha256"]}"'
