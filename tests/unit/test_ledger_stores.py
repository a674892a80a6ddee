"""Of what was ever put under a number the first counts, in a file and in a bucket that keeps versions (moto)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from chalicelib.errors import StorageError
from nas_gateway.ledger.stores import AppendedFile, CheckpointStore, LockedBucket
from tests.support.ledger_env import use_endpoint

Stores = Callable[[], CheckpointStore]


def line(number: int, text: str = "") -> bytes:
    return b'{"checkpoint":{"at":"%s","number":%d,"prev":"0"},"signature":"x"}\n' % (text.encode(), number)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    use_endpoint(monkeypatch, None)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="depot-ledger", ObjectLockEnabledForBucket=True)
        yield client


@pytest.fixture(params=["file", "bucket"])
def stores(request: pytest.FixtureRequest, tmp_path: Path, bucket: Any) -> Stores:
    """Makes stores that stand for processes over the same place."""
    if request.param == "file":
        return lambda: AppendedFile(tmp_path / "checkpoints")
    return lambda: LockedBucket(bucket, "depot-ledger", days=1)


def test_what_was_put_comes_back_in_order(stores: Stores) -> None:
    store = stores()
    assert store.last() is None
    assert list(store.read()) == []
    for number in range(1, 13):
        assert store.put(number, line(number))
        assert store.last() == stores().last() == line(number)
    for after in (0, 1, 9, 10, 11, 12, 13):
        assert list(stores().read(after)) == [line(number) for number in range(after + 1, 13)]


def test_a_number_that_is_taken_or_not_next_is_refused(stores: Stores) -> None:
    one, other = stores(), stores()
    assert one.put(1, line(1))
    assert not other.put(1, line(1, "other"))
    assert not one.put(1, line(1, "again"))
    assert not other.put(3, line(3))
    assert other.put(2, line(2))
    assert not one.put(2, line(2, "late"))
    assert list(one.read()) == list(other.read()) == [line(1), line(2)]


def test_of_two_at_once_one_wins(stores: Stores) -> None:
    for number in range(1, 6):
        start = threading.Barrier(4)

        def put(name: str, number: int = number, start: threading.Barrier = start) -> bool:
            store = stores()
            start.wait()
            return store.put(number, line(number, name))

        with ThreadPoolExecutor(4) as pool:
            told = dict(zip("abcd", pool.map(put, "abcd"), strict=True))
        (winner,) = [name for name, won in told.items() if won]
        assert stores().last() == line(number, winner)


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rubbish", [b"torn", b'{"checkpoint":{"at":"', line(1, "later"), line(7), b"\n\n\xff"])
def test_what_a_crash_or_somebody_left_in_the_file_is_passed_over(tmp_path: Path, rubbish: bytes) -> None:
    store = AppendedFile(tmp_path)
    assert store.put(1, line(1))
    with (tmp_path / "checkpoints.jsonl").open("ab") as file:
        file.write(rubbish)
    assert store.last() == line(1)
    assert store.put(2, line(2))
    assert list(store.read()) == [line(1), line(2)]


def test_the_file_is_only_ever_appended_to(tmp_path: Path) -> None:
    """As `chattr +a` demands; each time, what was there is a prefix of what is."""
    store, path = AppendedFile(tmp_path), tmp_path / "checkpoints.jsonl"
    before = b""
    for number in range(1, 5):
        store.put(number, line(number))
        store.put(number, line(number, "again"))
        now = path.read_bytes()
        assert now.startswith(before)
        before = now
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_other_process_appends_between_looking_and_writing(tmp_path: Path) -> None:
    entered = [threading.Event(), threading.Event()]

    class Watched(AppendedFile):
        def __init__(self, number: int) -> None:
            super().__init__(tmp_path)
            self.number = number

        def read(self, after: int = 0) -> Iterator[bytes]:
            entered[self.number].set()
            if self.number == 0:
                # Started only now; without the lock it gets here, too, and this returns at once.
                pool.submit(Watched(1).put, 1, line(1, "second"))
                assert not entered[1].wait(0.3)
            yield from super().read(after)

    with ThreadPoolExecutor(1) as pool:
        assert Watched(0).put(1, line(1, "first"))
    assert list(AppendedFile(tmp_path).read()) == [line(1, "first")]
    assert (tmp_path / "checkpoints.jsonl").read_bytes() == line(1, "first")


def test_a_folder_that_cannot_be_used_is_told_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "secret-name").write_text("a file")
    with pytest.raises(StorageError, match="LEDGER_CHECKPOINT_DIR") as told:
        AppendedFile(tmp_path / "secret-name").put(1, line(1))
    assert "secret-name" not in told.value.message


# --- the bucket -----------------------------------------------------------------------------------------------------


def test_a_version_put_over_a_checkpoint_or_a_delete_marker_changes_nothing(bucket: Any) -> None:
    store = LockedBucket(bucket, "depot-ledger", days=1)
    for number in (1, 2):
        assert store.put(number, line(number))
    for number in (1, 2):
        key = f"checkpoints/{number:012d}.json"
        bucket.put_object(Bucket="depot-ledger", Key=key, Body=line(number, "forged"))
        bucket.delete_object(Bucket="depot-ledger", Key=key)
    bucket.put_object(Bucket="depot-ledger", Key="checkpoints/zzz", Body=b"rubbish")
    fresh = LockedBucket(bucket, "depot-ledger", days=1)
    assert list(fresh.read()) == [line(1), line(2)]
    assert fresh.last() == line(2)
    assert not fresh.put(2, line(2, "forged"))
    assert fresh.put(3, line(3))


def test_of_two_at_once_one_wins_where_the_store_ignores_if_none_match(bucket: Any) -> None:
    """As Ceph 16 does in buckets that keep versions. All look, then all put, then one has won."""
    bucket.meta.events.register(
        "provide-client-params.s3.PutObject",
        lambda params, **_: {name: value for name, value in params.items() if name != "IfNoneMatch"},
    )
    looked = threading.Barrier(4)

    def wait(**_: Any) -> None:
        looked.wait()

    bucket.meta.events.register("before-call.s3.PutObject", wait)

    def put(name: str) -> bool:
        return LockedBucket(bucket, "depot-ledger", days=1).put(1, line(1, name))

    with ThreadPoolExecutor(4) as pool:
        told = dict(zip("abcd", pool.map(put, "abcd"), strict=True))
    (winner,) = [name for name, won in told.items() if won]
    assert LockedBucket(bucket, "depot-ledger", days=1).last() == line(1, winner)


def test_objects_are_locked_for_the_days_asked(bucket: Any) -> None:
    LockedBucket(bucket, "depot-ledger", days=10).put(1, line(1))
    head = bucket.head_object(Bucket="depot-ledger", Key="checkpoints/000000000001.json")
    assert head["ObjectLockMode"] == "COMPLIANCE"
    assert 9 <= (head["ObjectLockRetainUntilDate"] - head["LastModified"]).days <= 10


def test_many_pages_of_versions_are_read_to_their_end(bucket: Any) -> None:
    """Somebody who can only put piles versions on one number; the oldest is on a later page."""
    store = LockedBucket(bucket, "depot-ledger", days=1)
    store.put(1, line(1))
    bucket.meta.events.register(
        "provide-client-params.s3.ListObjectVersions", lambda params, **_: {**params, "MaxKeys": 3}
    )
    for number in range(7):
        bucket.put_object(Bucket="depot-ledger", Key="checkpoints/000000000001.json", Body=b"%d" % number)
    store.put(2, line(2))
    assert list(LockedBucket(bucket, "depot-ledger", days=1).read()) == [line(1), line(2)]
    assert LockedBucket(bucket, "depot-ledger", days=1).last() == line(2)


def test_a_bucket_that_is_not_there_is_told(bucket: Any) -> None:
    with pytest.raises(StorageError, match="LEDGER_CHECKPOINT_BUCKET"):
        LockedBucket(bucket, "depot-none", days=1).put(1, line(1))
