"""Presigned requests against a real store (Ceph RGW): what it takes, and all that it must refuse."""

from __future__ import annotations

import hashlib
import http.client
import time
import uuid
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from chalicelib.limits import MIB
from chalicelib.storage.base import Part
from chalicelib.storage.uploads import SignedRequest, StoredPart
from nas_gateway.drivers.s3 import S3Storage

pytestmark = pytest.mark.nas

BODY = b"signed, sealed, delivered"
SHA = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
# 501: Ceph 16 takes no signed digest with methods that have no body, whatever the signature.
REFUSED = (400, 403, 404, 405, 501)


@pytest.fixture(scope="module")
def storage(nas_disk):
    return S3Storage(replace(nas_disk, public_endpoint=nas_disk.endpoint))


@pytest.fixture
def path():
    return f"direct/{uuid.uuid4().hex}/a b+c é.csv"


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()


def send(request: SignedRequest, body: Any = b"", *, to: str = "", **changed: Any) -> Answer:
    """What a client sends that holds a signed request; `changed` is method, url or headers (None: left out)."""
    url = urlsplit(changed.get("url", request.url))
    headers = {**request.headers, **changed.get("headers", {})}
    connection = http.client.HTTPConnection(to or url.netloc, timeout=30)
    try:
        connection.request(
            changed.get("method", request.method),
            f"{url.path}?{url.query}",
            body or None,
            {name: value for name, value in headers.items() if value is not None},
            encode_chunked="Transfer-Encoding" in headers,
        )
        return Answer(connection.getresponse())
    finally:
        connection.close()


def signed_headers(request: SignedRequest) -> list[str]:
    return parse_qs(urlsplit(request.url).query)["X-Amz-SignedHeaders"][0].split(";")


def until_refused(request: SignedRequest, body: bytes = b"") -> Answer:
    give_up = time.monotonic() + 60
    while (answer := send(request, body)).status == 200:
        assert time.monotonic() < give_up, "a request signed for one second still works after a minute"
    return answer


class Open:
    """An upload whose part 1 was sent by its presigned request (of `BODY`)."""

    def __init__(self, storage: S3Storage, path: str, sha256: str | None) -> None:
        self.storage, self.path, self.handle = storage, path, storage.create_parts(path)
        self.request = self.sign(sha256=sha256)
        assert send(self.request, BODY).status == 200

    def sign(self, number: int = 1, sha256: str | None = None, expires_in: int = 300) -> SignedRequest:
        return self.storage.presign_part(
            self.path, self.handle, number, size=len(BODY), sha256=sha256, expires_in=expires_in
        )

    def assert_unchanged(self) -> None:
        assert self.storage.stored_parts(self.path, self.handle) == [StoredPart(1, len(BODY), MD5)]
        assert not self.storage.exists(self.path)

    def complete(self) -> None:
        self.storage.complete_parts(self.path, self.handle, [Part(1, 0, len(BODY), MD5, SHA)])


@pytest.fixture(params=[None, SHA], ids=["without digest", "with digest"])
def sent(request, storage, path):
    upload = Open(storage, path, request.param)
    yield upload
    storage.abort_parts(upload.path, upload.handle)


class TestPart:
    def test_it_is_stored_and_listed_and_becomes_a_file(self, storage, sent):
        sent.assert_unchanged()
        sent.complete()
        assert storage.get_file(sent.path) == BODY

    def test_the_answer_has_the_etag(self, sent):
        assert send(sent.request, BODY).headers["ETag"] == f'"{MD5}"'

    def test_length_and_digest_are_signed(self, sent):
        bound = {"host", "content-length"}
        with_digest = "x-amz-content-sha256" in sent.request.headers
        assert set(signed_headers(sent.request)) == bound | ({"x-amz-content-sha256"} if with_digest else set())
        assert sent.request.method == "PUT"

    def test_parts_of_full_size(self, storage, path):
        handle, bodies = storage.create_parts(path), [bytes(5 * MIB), b"the end"]
        parts = []
        for number, body in enumerate(bodies, 1):
            digest = hashlib.sha256(body).hexdigest()
            request = storage.presign_part(path, handle, number, size=len(body), sha256=digest, expires_in=300)
            etag = send(request, body).headers["ETag"].strip('"')
            parts.append(Part(number, (number - 1) * 5 * MIB, len(body), etag, digest))
        assert storage.stored_parts(path, handle) == [StoredPart(p.number, p.size, p.etag) for p in parts]
        assert storage.complete_parts(path, handle, parts).size == 5 * MIB + 7

    def test_expired(self, sent):
        request = sent.sign(expires_in=1)
        assert until_refused(request, BODY).status == 403
        sent.assert_unchanged()

    @pytest.mark.parametrize(
        "body", [BODY + b"!", BODY[:-1], b"", BODY * 1000], ids=["longer", "shorter", "empty", "long"]
    )
    def test_another_length(self, sent, body):
        assert send(sent.request, body, headers={"Content-Length": str(len(body))}).status in REFUSED
        sent.assert_unchanged()

    def test_no_length(self, sent):
        chunked = {"Content-Length": None, "Transfer-Encoding": "chunked"}
        assert send(sent.request, iter([BODY]), headers=chunked).status in REFUSED
        sent.assert_unchanged()

    def test_another_key(self, storage, sent):
        url = sent.request.url.replace(quote("é.csv"), "other.csv")
        assert url != sent.request.url
        assert send(sent.request, BODY, url=url).status in REFUSED
        sent.assert_unchanged()
        assert [info.path for info in storage.list_files(sent.path.rpartition("/")[0])] == []

    @pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "DELETE"])
    def test_another_method(self, sent, method):
        assert send(sent.request, BODY, method=method).status in REFUSED
        sent.assert_unchanged()

    def test_another_part_number(self, sent):
        assert (
            send(sent.request, BODY, url=sent.request.url.replace("partNumber=1&", "partNumber=2&")).status in REFUSED
        )
        sent.assert_unchanged()

    def test_another_upload_and_none(self, storage, sent):
        other = storage.create_parts(sent.path)
        url = sent.request.url
        assert (
            send(sent.request, BODY, url=url.replace(quote(sent.handle, safe="~"), quote(other, safe="~"))).status
            in REFUSED
        )
        assert send(sent.request, BODY, url=url.replace(f"partNumber=1&uploadId={sent.handle}&", "")).status in REFUSED
        assert storage.stored_parts(sent.path, other) == []
        storage.abort_parts(sent.path, other)
        sent.assert_unchanged()

    @pytest.mark.parametrize("more", ["acl", "tagging", "X-Amz-Expires=900"])
    def test_more_in_the_query(self, sent, more):
        assert send(sent.request, BODY, url=f"{sent.request.url}&{more}").status in REFUSED
        sent.assert_unchanged()

    def test_another_host(self, storage, nas_disk, path):
        """Signed for a name that nothing here resolves: signing needs no network."""
        public = S3Storage(replace(nas_disk, public_endpoint="http://nas.example.org"))
        upload = Open.__new__(Open)
        upload.storage, upload.path, upload.handle = public, path, storage.create_parts(path)
        request, real = upload.sign(), urlsplit(nas_disk.endpoint).netloc
        assert request.url.startswith("http://nas.example.org/")
        assert send(request, BODY, to=real, headers={"Host": real}).status in REFUSED
        assert storage.stored_parts(path, upload.handle) == []
        assert send(request, BODY, to=real, headers={"Host": "nas.example.org"}).status == 200
        upload.assert_unchanged()
        storage.abort_parts(path, upload.handle)

    def test_after_completion(self, storage, sent):
        sent.complete()
        before = storage.get_metadata(sent.path)
        assert send(sent.request, BODY).status in REFUSED
        assert storage.get_metadata(sent.path) == before
        assert sent.handle not in [upload.handle for upload in storage.open_uploads()]

    def test_after_abort(self, storage, sent):
        storage.abort_parts(sent.path, sent.handle)
        assert send(sent.request, BODY).status in REFUSED
        assert sent.handle not in [upload.handle for upload in storage.open_uploads()]
        assert not storage.exists(sent.path)

    @pytest.mark.parametrize("extra", [{}, {"x-amz-copy-source-range": "bytes=0-24"}], ids=["whole", "range"])
    @pytest.mark.parametrize("body", [BODY, b""], ids=["with body", "without"])
    def test_another_file_cannot_be_copied_into_the_part(self, storage, nas_disk, sent, body, extra):
        """With one more header, which is not signed, a sender would read with our keys: see `s3_direct`."""
        storage.save("direct/secret", b"of another cohort's, 25 b")
        source = f"/{nas_disk.bucket}/{nas_disk.prefix}/direct/secret"
        headers = {"Content-Length": str(len(body)), "x-amz-copy-source": source, **extra}
        assert send(sent.request, body, headers=headers).status in REFUSED
        sent.assert_unchanged()


class TestDigest:
    @pytest.fixture
    def sent(self, storage, path):
        upload = Open(storage, path, SHA)
        yield upload
        storage.abort_parts(upload.path, upload.handle)

    def test_another_body(self, sent):
        assert send(sent.request, BODY[::-1]).status == 400
        sent.assert_unchanged()

    @pytest.mark.parametrize(
        "digest",
        [None, hashlib.sha256(BODY[::-1]).hexdigest(), "UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"],
        ids=["none", "the other body's", "unsigned", "streaming"],
    )
    def test_another_digest(self, sent, digest):
        assert send(sent.request, BODY[::-1], headers={"x-amz-content-sha256": digest}).status == 403
        sent.assert_unchanged()


class TestDownload:
    NAME = 'Zoë "x" 2024.csv'

    @pytest.fixture
    def request_(self, storage, path):
        storage.save(path, BODY, "text/csv")
        return self.sign(storage, path)

    def sign(self, storage, path, expires_in=300):
        return storage.presign_download(path, filename=self.NAME, content_type="text/csv", expires_in=expires_in)

    def test_it_is_the_file_under_its_name(self, request_):
        answer = send(request_)
        assert (answer.status, answer.body) == (200, BODY)
        assert answer.headers["Content-Type"] == "text/csv"
        assert answer.headers["Content-Disposition"] == (
            "attachment; filename=\"Zo_ _x_ 2024.csv\"; filename*=UTF-8''Zo%C3%AB%20%22x%22%202024.csv"
        )

    def test_a_range(self, request_):
        answer = send(request_, headers={"Range": "bytes=1-3"})
        assert (answer.status, answer.body) == (206, BODY[1:4])

    def test_expired(self, storage, path, request_):
        assert until_refused(self.sign(storage, path, expires_in=1)).status == 403

    def test_another_key(self, storage, path, request_):
        storage.save(path.replace("é", "e"), b"another file")
        url = request_.url.replace(quote("é"), "e")
        assert url != request_.url
        answer = send(request_, url=url)
        assert answer.status in REFUSED
        assert b"another file" not in answer.body

    @pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
    def test_another_method(self, storage, path, request_, method):
        assert send(request_, b"overwritten", method=method).status in REFUSED
        assert storage.get_file(path) == BODY

    def test_another_name(self, request_):
        url = request_.url.replace("attachment", "inline")
        assert url != request_.url
        assert send(request_, url=url).status in REFUSED

    def test_a_deleted_file(self, storage, path, request_):
        storage.delete(path)
        assert send(request_).status == 404

    def test_url_takes_the_public_endpoint(self, storage, nas_disk, path, request_):
        assert send(replace(request_, url=storage.url(path, 60))).body == BODY
        public = S3Storage(replace(nas_disk, public_endpoint="http://nas.example.org"))
        url = public.url(path, 60)
        assert url.startswith("http://nas.example.org/")
        real = urlsplit(nas_disk.endpoint).netloc
        assert send(replace(request_, url=url), to=real, headers={"Host": "nas.example.org"}).body == BODY
