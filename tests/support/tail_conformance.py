"""What every driver with parts must do with tails: subclass `TailConformance` and give a fixture `storage`."""

from __future__ import annotations

import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chalicelib.errors import DigestMismatch, FileMissing, InvalidPath, InvalidRequest
from chalicelib.limits import MIB
from tests.support.conformance import ConformanceBase, sha

_ID, _SHA = "0123456789abcdef" * 2, sha(b"x")
BAD_TAILS = {
    "empty": "",
    "no upload": f"0-{_SHA}",
    "short upload": f"{_ID[1:]}/0-{_SHA}",
    "upper case": f"{_ID.upper()}/0-{_SHA}",
    "no offset": f"{_ID}/-{_SHA}",
    "negative": f"{_ID}/-1-{_SHA}",
    "other digits": f"{_ID}/\u0661-{_SHA}",
    "no digest": f"{_ID}/0-",
    "short digest": f"{_ID}/0-{_SHA[1:]}",
    "upper-case digest": f"{_ID}/0-{_SHA.upper()}",
    "climbing": f"{_ID}/../../f",
    "climbing inside": f"{_ID}/0-{_SHA}/../../../f",
    "absolute": f"/{_ID}/0-{_SHA}",
    "more": f"{_ID}/0-{_SHA}x",
    "newline": f"{_ID}/0-{_SHA}\n",
    "NUL": f"{_ID}/0-{_SHA}\0",
    "a path": "submissions/f",
    "the stage": f".depot-stage/{_ID}/0-{_SHA}",
}


def tail_name(upload: str, data: bytes, offset: int = 0) -> str:
    return f"{upload}/{offset}-{sha(data)}"


class TailConformance(ConformanceBase):
    @pytest.fixture
    def upload(self, storage):
        """The id of an upload of this test's own, whose tails are gone afterwards."""
        upload = uuid.uuid4().hex
        yield upload
        for tail in self.tails(storage, upload):
            storage.delete_tail(tail.name)

    def tails(self, storage: Any, upload: str) -> list[Any]:
        return sorted(
            (tail for tail in storage.list_tails() if tail.name.startswith(upload)), key=lambda tail: str(tail.name)
        )

    @pytest.mark.parametrize("size", [0, 1, 5 * MIB - 1])
    def test_a_tail_comes_back_and_is_listed(self, storage, upload, size):
        data = random.Random(size).randbytes(size)
        name = tail_name(upload, data, 8 * MIB)
        storage.put_tail(name, data)
        assert storage.get_tail(name) == data
        (tail,) = self.tails(storage, upload)
        assert (tail.name, tail.size) == (name, size)
        assert abs(tail.modified_at - datetime.now(UTC)) < timedelta(minutes=5)  # aware, or this could not be computed

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_a_tail_may_be_any_kind_of_bytes(self, storage, upload, kind):
        name = tail_name(upload, b"abc")
        storage.put_tail(name, kind(b"abc"))
        assert storage.get_tail(name) == b"abc"

    def test_a_tail_may_be_stored_again(self, storage, upload):
        name = tail_name(upload, b"abc")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: storage.put_tail(name, b"abc"), range(8)))
        assert storage.get_tail(name) == b"abc"
        assert [tail.name for tail in self.tails(storage, upload)] == [name]

    def test_tails_of_one_upload_stand_side_by_side(self, storage, upload):
        names = sorted(tail_name(upload, data, offset) for data in (b"a", b"ab") for offset in (0, 7, 10**13))
        for name in names:
            storage.put_tail(name, b"ab" if name.endswith(sha(b"ab")) else b"a")
        assert [tail.name for tail in self.tails(storage, upload)] == names
        storage.delete_tail(names[0])
        assert [tail.name for tail in self.tails(storage, upload)] == names[1:]

    def test_a_deleted_tail_is_gone_and_deleting_it_again_is_no_error(self, storage, upload):
        name = tail_name(upload, b"abc")
        storage.delete_tail(name)
        with pytest.raises(FileMissing):
            storage.get_tail(name)
        storage.put_tail(name, b"abc")
        storage.delete_tail(name)
        with pytest.raises(FileMissing):
            storage.get_tail(name)
        storage.delete_tail(name)
        assert self.tails(storage, upload) == []

    def test_another_process_sees_the_tail(self, storage, upload):
        name = tail_name(upload, b"abc")
        storage.put_tail(name, b"abc")
        other = self.reopen(storage)
        assert other.get_tail(name) == b"abc"
        assert [tail.name for tail in self.tails(other, upload)] == [name]

    def test_no_listing_shows_a_tail_and_no_path_reaches_it(self, storage, upload):
        name = tail_name(upload, b"abc")
        storage.put_tail(name, b"abc")
        listed = [info.path for info in storage.list_files()]
        listed += [info.path for info in storage.list_with_prefix().items]
        assert not [path for path in listed if upload in path or ".depot" in path]
        staged = (f".depot-stage/{name}", f".depot-stage/tails/{name}", f".depot-stage/tails/{name.replace('/', '.')}")
        for path in staged:
            for call in (
                storage.get_file, storage.open, storage.get_metadata, storage.exists, storage.delete, storage.list_parts
            ):  # fmt: skip
                with pytest.raises(InvalidPath):
                    call(path, "0" * 32) if call == storage.list_parts else call(path)
        for prefix in (".depot-stage", ".depot-stage/tails", f".depot-stage/{upload}"):
            with pytest.raises(InvalidPath):
                storage.delete_prefix(prefix)
            with pytest.raises(InvalidPath):
                list(storage.list_files(prefix))
        for path in (name, f"tails/{name}"):
            assert not storage.exists(path)
        assert storage.get_tail(name) == b"abc"

    @pytest.mark.parametrize("name", BAD_TAILS.values(), ids=BAD_TAILS)
    def test_a_name_that_is_not_a_tails_is_refused(self, storage, name):
        for call in (
            lambda: storage.put_tail(name, b"x"),
            lambda: storage.get_tail(name),
            lambda: storage.delete_tail(name),
        ):
            with pytest.raises(InvalidRequest):
                call()


class ExactTailConformance(TailConformance):
    """What moto does not check."""

    def test_other_bytes_than_the_name_says_are_refused(self, storage, upload):
        name = tail_name(upload, b"abc")
        with pytest.raises(DigestMismatch):
            storage.put_tail(name, b"abd")
        assert self.tails(storage, upload) == []
        storage.put_tail(name, b"abc")
        with pytest.raises(DigestMismatch):
            storage.put_tail(name, b"abcd")
        assert storage.get_tail(name) == b"abc"
