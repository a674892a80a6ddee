"""Checkpoints in a bucket with Object Lock on a real store (Ceph RGW): kept, locked, first come first kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from chalicelib.errors import SettingsError
from nas_gateway.ledger.events import utcnow
from nas_gateway.ledger.stores import LockedBucket
from tests.support.ledger_book import Book, check

pytestmark = pytest.mark.nas

# Seconds. What is locked in COMPLIANCE mode nobody can remove sooner: long enough for a test, short enough to clean up.
LOCKED = 8


def soon() -> datetime:
    """A clock so that "a day from now" is `LOCKED` seconds from now."""
    return utcnow() - timedelta(days=1) + timedelta(seconds=LOCKED)


@pytest.fixture
def bucket(nas_client: Any) -> Iterator[str]:
    name = f"depot-test-{uuid4().hex[:20]}"
    nas_client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    yield name
    for page in nas_client.get_paginator("list_object_versions").paginate(Bucket=name):
        for each in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            delete_when_unlocked(nas_client, name, each)
    nas_client.delete_bucket(Bucket=name)


def delete_when_unlocked(client: Any, bucket: str, version: dict[str, Any]) -> None:
    """Asks again until the lock has run out."""
    deadline = utcnow() + timedelta(seconds=10 * LOCKED)
    pause = threading.Event()
    while True:
        try:
            client.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
        except ClientError:
            assert utcnow() < deadline, "the lock does not run out"
            pause.wait(0.5)
        else:
            return


def test_checkpoints_are_kept_and_verify(nas_client: Any, bucket: str, tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.store = LockedBucket(nas_client, bucket, 1, soon)  # type: ignore[assignment]
    for _ in range(12):
        book.add(5)
        book.checkpoint()
    assert len(list(book.store.read())) == 12
    assert len(list(LockedBucket(nas_client, bucket, 1).read(9))) == 3
    assert LockedBucket(nas_client, bucket, 1).last() == book.store.last()
    assert check(book.export()) is None


def test_what_is_in_there_cannot_be_changed_or_removed(nas_client: Any, bucket: str) -> None:
    store = LockedBucket(nas_client, bucket, 1, soon)
    assert store.put(1, b"one\n")
    key = "checkpoints/000000000001.json"
    (version,) = nas_client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]
    with pytest.raises(ClientError) as refused:
        nas_client.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])
    assert refused.value.response["Error"]["Code"] == "AccessDenied"
    nas_client.put_object(Bucket=bucket, Key=key, Body=b"forged\n")
    nas_client.delete_object(Bucket=bucket, Key=key)
    assert list(LockedBucket(nas_client, bucket, 1).read()) == [b"one\n"]
    assert not LockedBucket(nas_client, bucket, 1, soon).put(1, b"again\n")


def test_of_many_at_once_one_wins(nas_client: Any, bucket: str, tmp_path: Path) -> None:
    book = Book(tmp_path)
    for _ in range(5):
        book.add(5)
        start = threading.Barrier(6)

        def one(start: threading.Barrier = start) -> bool:
            checkpointer = book.checkpointer()
            checkpointer._store = LockedBucket(nas_client, bucket, 1, soon)
            start.wait()
            return checkpointer.run() is not None

        with ThreadPoolExecutor(6) as pool:
            assert any([run.result() for run in [pool.submit(one) for _ in range(6)]])  # noqa: C419 -- all are waited for
    book.store = LockedBucket(nas_client, bucket, 1)  # type: ignore[assignment]
    assert check(book.export()) is None


def test_a_bucket_without_object_lock_is_refused(nas_client: Any) -> None:
    name = f"depot-test-{uuid4().hex[:20]}"
    nas_client.create_bucket(Bucket=name)
    try:
        with pytest.raises(SettingsError, match="must be a bucket with Object Lock"):
            LockedBucket(nas_client, name, 1).put(1, b"one\n")
    finally:
        nas_client.delete_bucket(Bucket=name)
