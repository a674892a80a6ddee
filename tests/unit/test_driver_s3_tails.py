"""Tails on S3 beyond the conformance suite: pages of the listing, and stores that compare nothing. Answers are put in place."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from chalicelib.config import DiskConfig, Secret
from chalicelib.errors import DigestMismatch, StorageRefused
from nas_gateway.drivers.s3 import S3Storage
from nas_gateway.drivers.s3_client import make_client
from tests.support.faults import StoreAnswers, s3_error
from tests.support.tail_conformance import tail_name

CONFIG = DiskConfig(
    "s3",
    "s3",
    bucket="nas",
    prefix="disk",
    endpoint="http://127.0.0.1:9",  # nothing gets there: every answer is put in place
    access_key=Secret("an-access-key"),
    secret_key=Secret("a-secret-key"),
)
FOLDER = "disk/.depot-stage/"


@pytest.fixture
def client():
    return make_client(CONFIG)


@pytest.fixture
def storage(client):
    return S3Storage(CONFIG, client)


def page(names, *, more: bool) -> bytes:
    """ListObjectsV2 as stores answer it."""
    items = "".join(
        f"<Contents><Key>{FOLDER}{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>3</Size></Contents>"
        for name in names
    )
    return f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{items}</ListBucketResult>".encode()


def test_every_page_is_listed(storage, client):
    names = [tail_name(f"{n:032x}", b"abc") for n in range(2500)]
    asked = []

    def answer(request):
        asked.append(parse_qs(urlsplit(request.url).query))
        after = asked[-1].get("start-after", [FOLDER])[0].removeprefix(FOLDER)
        rest = [name for name in names if name > after]
        return 200, page(rest[:1000], more=len(rest) > 1000)

    StoreAnswers(client, "ListObjectsV2", *[answer] * 4)
    assert [(tail.name, tail.size) for tail in storage.list_tails()] == [(name, 3) for name in names]
    assert len(asked) == 3
    assert {call["prefix"][0] for call in asked} == {FOLDER}


def test_a_page_of_foreign_objects_is_passed_over(storage, client):
    name = tail_name("f" * 32, b"abc")
    StoreAnswers(
        client, "ListObjectsV2", (200, page(["a", "b", name + "x"], more=True)), (200, page([name], more=False))
    )
    assert [tail.name for tail in storage.list_tails()] == [name]


def test_a_listing_that_fails_is_no_empty_listing(storage, client):
    StoreAnswers(client, "ListObjectsV2", (403, s3_error("AccessDenied")))
    with pytest.raises(StorageRefused) as caught:
        list(storage.list_tails())
    assert "canary" not in str(caught.value)


def test_where_the_store_is_not_asked_to_compare_the_driver_does(client):
    """With `when_supported` checksums are botocore's business, and what it sends need not be the digest in the name."""
    storage = S3Storage(replace(CONFIG, checksums="when_supported"), client)
    answers = StoreAnswers(client, "PutObject")
    with pytest.raises(DigestMismatch):
        storage.put_tail(tail_name("a" * 32, b"abc"), b"abd")
    assert answers.seen == 0


def test_a_tail_is_signed_with_the_digest_in_its_name(storage, client):
    sent = {}

    def answer(request):
        sent.update({name.lower(): value for name, value in request.headers.items()}, url=request.url)
        return 200, b""

    StoreAnswers(client, "PutObject", answer)
    name = tail_name("a" * 32, b"abc")
    storage.put_tail(name, b"abc")
    digest = sent["x-amz-content-sha256"]
    assert (digest.decode() if isinstance(digest, bytes) else digest) == name.rpartition("-")[2]
    assert urlsplit(sent["url"]).path == f"/nas/{FOLDER}{name}"
