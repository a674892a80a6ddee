"""Erasing: nothing of the file is left, in a bucket that keeps versions either; and what looking afterwards sees."""

from __future__ import annotations

import boto3
import pytest
from moto import mock_aws

from chalicelib.config import DiskConfig
from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.drivers.s3 import S3Storage
from nas_gateway.drivers.s3_client import make_client
from tests.support.gateway import AWS

CONFIG = DiskConfig("d", "s3", bucket="erase", prefix="p")


@pytest.fixture
def bucket(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="erase")
        yield client


@pytest.fixture(params=["memory", "local", "s3", "s3 with versions"])
def store(request, tmp_path):
    if request.param == "memory":
        return MemoryStorage("d")
    if request.param == "local":
        return LocalFileSystemStorage("d", str(tmp_path))
    client = request.getfixturevalue("bucket")
    if request.param == "s3 with versions":
        versioned(client)
    return S3Storage(CONFIG, a_client(CONFIG))


def a_client(config):
    """The driver's own client; moto takes bodies as bytes only (a real socket takes any buffer)."""
    client = make_client(config)

    def as_bytes(request, **_):
        request.body = bytes(request.body) if isinstance(request.body, bytearray) else request.body

    client.meta.events.register_first("before-send.s3", as_bytes)
    return client


def versioned(client):
    client.put_bucket_versioning(Bucket="erase", VersioningConfiguration={"Status": "Enabled"})


def test_an_erased_file_is_gone_and_its_neighbours_are_not(store):
    for path in ("a/b", "a/b.more", "a/c"):
        store.save(path, b"x")
    assert store.remains("a/b").object
    store.erase("a/b")
    left = store.remains("a/b")
    assert (left.object, left.versions, list(left.uploads)) == (False, 0, [])
    assert [info.path for info in store.list_files()] == ["a/b.more", "a/c"]


def test_erasing_what_is_not_there_is_no_error(store):
    assert store.erase("a/b") == 0
    store.save("a/b", b"x")
    store.erase("a/b")
    assert store.erase("a/b") == 0


def test_uploads_in_parts_at_the_path_are_seen_and_left(store):
    handle = store.create_parts("a/b")
    store.create_parts("a/b.more")
    assert list(store.remains("a/b").uploads) == [handle]
    store.erase("a/b")
    assert list(store.remains("a/b").uploads) == [handle]
    store.abort_parts("a/b", handle)
    assert list(store.remains("a/b").uploads) == []


def test_every_version_and_marker_goes(bucket):
    versioned(bucket)
    store = S3Storage(CONFIG, a_client(CONFIG))
    for data in (b"1", b"2", b"3"):
        store.save("a/b", data)
        store.save("a/b.more", data)
    store.delete("a/b")  # which only hides it
    left = store.remains("a/b")
    assert (left.object, left.versions) == (False, 4)
    assert store.erase("a/b") == 3
    assert store.remains("a/b").versions == 0
    assert store.remains("a/b.more").versions == 3


def test_versions_beyond_one_page_go_too(bucket):
    versioned(bucket)
    client = a_client(CONFIG)
    client.meta.events.register(
        "before-parameter-build.s3.ListObjectVersions", lambda params, **_: params.update(MaxKeys=3)
    )
    store = S3Storage(CONFIG, client)
    for number in range(8):
        store.save("a", str(number))
    store.save("a/other", b"")
    assert store.remains("a").versions == 8
    assert store.erase("a") == 8
    assert store.remains("a").versions == 0
    assert store.remains("a/other").versions == 1
