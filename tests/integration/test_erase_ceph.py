"""Verified deletion on a real store (Ceph RGW): of a bucket that keeps versions nothing of the file is left either."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.config import DiskConfig
from nas_gateway.drivers.s3 import S3Storage

pytestmark = pytest.mark.nas


@pytest.fixture
def versioned(nas_config: DiskConfig, nas_client: Any) -> Iterator[S3Storage]:
    bucket = f"depot-test-{uuid.uuid4().hex[:20]}"
    nas_client.create_bucket(Bucket=bucket)
    nas_client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    yield S3Storage(replace(nas_config, bucket=bucket, prefix="disk"))
    for upload in nas_client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        nas_client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    found = nas_client.list_object_versions(Bucket=bucket)
    for item in (*found.get("Versions", []), *found.get("DeleteMarkers", [])):
        nas_client.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
    nas_client.delete_bucket(Bucket=bucket)


def test_every_version_goes_and_neighbours_stay(versioned: S3Storage) -> None:
    for round in range(3):
        for path in ("a/b", "a/b.more", "a"):
            versioned.save(path, b"x" * (round + 1))
    versioned.delete("a/b")
    versioned.save("a/b", b"again")
    assert versioned.remains("a/b").object
    assert (versioned.remains("a/b").versions or 0) >= 4
    versioned.erase("a/b")
    left = versioned.remains("a/b")
    assert (left.object, left.versions, list(left.uploads)) == (False, 0, [])
    assert versioned.remains("a/b.more").versions == 3
    assert versioned.get_file("a/b.more") == b"xxx"


def test_more_versions_than_a_page_of_the_store(versioned: S3Storage, nas_client: Any) -> None:
    for _ in range(1_003):
        nas_client.put_object(Bucket=versioned._bucket, Key="disk/many", Body=b"")
    versioned.erase("many")
    assert versioned.remains("many").versions == 0


def test_in_a_plain_bucket(nas_disk: DiskConfig) -> None:
    storage = S3Storage(nas_disk)
    storage.save("a/b", b"x")
    handle = storage.create_parts("a/b")
    storage.erase("a/b")
    left = storage.remains("a/b")
    assert (left.object, left.versions or 0, list(left.uploads)) == (False, 0, [handle])
    storage.abort_parts("a/b", handle)
    assert list(storage.remains("a/b").uploads) == []
