"""What every storage driver must do, as one suite: subclass it and give a fixture `storage`. Only the public protocol.

    class TestLocal(StorageConformance, RaceConformance, PartConformance): ...

`StorageConformance` runs over every driver, the remote one too. `RaceConformance` needs a store that is exact
under concurrent writes (moto is not). Every test works below a folder of its own, so the disk need not be empty.
"""

from __future__ import annotations

import hashlib
import io
import random
import secrets
import tempfile
import threading
import unicodedata
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chalicelib.errors import (
    DepotError,
    DigestMismatch,
    FileExists,
    FileMissing,
    InvalidPath,
    InvalidRequest,
    RangeNotSatisfiable,
)
from chalicelib.limits import MIB
from chalicelib.storage.base import ByteRange
from tests.support.faults import BreakingReader, OddReader, ShortReader

BAD_PATHS = {
    "empty": "",
    "absolute": "/etc/passwd",
    "climbing": "a/../../b",
    "climbing first": "../b",
    "dot": "a/./b",
    "empty segment": "a//b",
    "trailing slash": "a/b/",
    "NUL": "a/b\0c",
    "CRLF": "a/b\r\nX-Evil: 1",
    "bidi": "a/\u202egpj.exe",
    "zero width": "a/b\u200bc",
    "backslash": "a\\..\\b",
    "lone surrogate": "a/\udc80",
    "1,025 bytes": "/".join(["d" * 200] * 5) + "/" + "e" * 20,
    "256 bytes a name": "é" * 128,
    "reserved": ".depot-stage/x",
}
assert len(BAD_PATHS["1,025 bytes"].encode()) == 1025
BAD_PREFIXES = {"slash": "/", "two slashes": "//", "dots": "..", "climbing": "a/../b", "absolute": "/a", "dot": "."}

SIZES = [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pieces(data: bytes, size: int = 700_001) -> Any:
    for at in range(0, len(data), size):
        yield data[at : at + size]


class ConformanceBase:
    @pytest.fixture
    def base(self) -> str:
        """A folder of this test's own."""
        return f"conformance/{uuid.uuid4().hex}"

    def reopen(self, storage: Any) -> Any:
        """Another driver for the same disk, as another process has it. Override where that is possible."""
        return storage

    def names(self, storage: Any, base: str) -> list[str]:
        return [info.path.removeprefix(base + "/") for info in storage.list_files(base)]


class StorageConformance(ConformanceBase):
    # --- save and read back ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", SIZES)
    def test_any_size_comes_back_identical_from_a_stream_of_unknown_length(self, storage, base, size):
        data = random.Random(size).randbytes(size)
        saved = storage.save(f"{base}/f", pieces(data))
        assert (saved, saved.size, saved.sha256) == (f"{base}/f", size, sha(data))
        assert storage.get_file(f"{base}/f") == data
        assert storage.get_metadata(f"{base}/f").size == size

    @pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1])
    def test_any_size_comes_back_identical_from_bytes(self, storage, base, size):
        data = random.Random(size).randbytes(size)
        assert storage.save(f"{base}/f", data).size == size
        assert storage.get_file(f"{base}/f") == data

    def test_content_may_be_text_bytes_file_or_generator(self, storage, base):
        body = "naïve ✓\n" * 1000
        data = body.encode()
        with tempfile.TemporaryFile() as file:
            file.write(b"skipped" + data)
            file.seek(len(b"skipped"))
            kinds = [body, data, bytearray(data), memoryview(data), io.BytesIO(data), pieces(data, 999), file]
            for content in kinds:
                saved = storage.save(f"{base}/f", content)
                assert (saved.size, saved.sha256) == (len(data), sha(data)), type(content)
                assert storage.get_file(f"{base}/f") == data

    def test_a_reader_may_give_less_than_it_is_asked_for(self, storage, base):
        seed = secrets.randbits(32)
        print("seed", seed)
        data = random.Random(seed).randbytes(9 * MIB + 12345)
        assert storage.save(f"{base}/f", OddReader(data, seed)).sha256 == sha(data)
        with storage.open(f"{base}/f") as download:
            assert sha(b"".join(download)) == sha(data)

    def test_save_chunked_stores_a_stream(self, storage, base):
        data = random.Random(1).randbytes(9 * MIB + 1)
        saved = storage.save_chunked(f"{base}/f", OddReader(data, 1), metadata={"cohort": "VACS"})
        assert saved.size == len(data)
        assert storage.get_file(f"{base}/f") == data
        assert storage.get_metadata(f"{base}/f").metadata["cohort"] == "VACS"

    def test_content_type_and_metadata_come_back(self, storage, base):
        kept = {"cohort": "VACS", "protocol_year": "2024", "note": "Zoë  & ✓=1%; two  spaces ", "empty": ""}
        storage.save(f"{base}/f", b"x", "text/csv; charset=utf-8", kept)
        info = storage.get_metadata(f"{base}/f")
        assert info.content_type == "text/csv; charset=utf-8"
        assert {key: info.metadata.get(key) for key in kept} == kept
        assert (info.path, info.size, info.sha256) == (f"{base}/f", 1, sha(b"x"))
        assert info.etag
        assert info.modified_at.tzinfo is not None

    def test_without_a_content_type_it_is_a_stream_of_octets(self, storage, base):
        storage.save(f"{base}/f", b"x")
        assert storage.get_metadata(f"{base}/f").content_type == "application/octet-stream"

    def test_a_file_in_parts_keeps_content_type_and_metadata_too(self, storage, base):
        storage.save(f"{base}/f", pieces(bytes(9 * MIB)), "text/csv", {"cohort": "VACS"})
        info = storage.get_metadata(f"{base}/f")
        assert (info.content_type, info.metadata["cohort"]) == ("text/csv", "VACS")

    @pytest.mark.parametrize("key", ["Upper", "with space", "", "a\r\nb", "é", "_a"])
    def test_odd_metadata_keys_are_refused(self, storage, base, key):
        with pytest.raises(InvalidRequest):
            storage.save(f"{base}/f", b"x", None, {key: "v"})
        assert not storage.exists(f"{base}/f")

    # --- replacing -------------------------------------------------------------------------------------------

    def test_saving_again_replaces_content_and_description(self, storage, base):
        storage.save(f"{base}/f", b"old", "text/old", {"only_old": "1"})
        first = storage.get_metadata(f"{base}/f").etag
        storage.save(f"{base}/f", b"newer", "text/new")
        info = storage.get_metadata(f"{base}/f")
        assert storage.get_file(f"{base}/f") == b"newer"
        assert (info.content_type, info.size, "only_old" in info.metadata) == ("text/new", 5, False)
        assert info.etag != first

    def test_if_absent_refuses_an_existing_file_and_leaves_it(self, storage, base):
        storage.save(f"{base}/f", b"old", if_absent=True)
        for content in (b"new", pieces(bytes(9 * MIB))):
            with pytest.raises(FileExists):
                storage.save(f"{base}/f", content, if_absent=True)
        assert storage.get_file(f"{base}/f") == b"old"

    def test_the_digest_is_compared_before_the_file_shows(self, storage, base):
        for content in (b"hello", b"h" * (9 * MIB)):
            storage.save(f"{base}/good", content, sha256=sha(content).upper())
            with pytest.raises(DigestMismatch):
                storage.save(f"{base}/bad", content, sha256=sha(b"other"))
            assert self.names(storage, base) == ["good"]
            assert storage.get_metadata(f"{base}/good").sha256 in (sha(content), None)

    def test_a_wrong_digest_leaves_the_old_file(self, storage, base):
        storage.save(f"{base}/f", b"old")
        with pytest.raises(DigestMismatch):
            storage.save(f"{base}/f", b"new", sha256=sha(b"other"))
        assert storage.get_file(f"{base}/f") == b"old"

    def test_a_digest_that_is_none_is_refused(self, storage, base):
        with pytest.raises(InvalidRequest):
            storage.save(f"{base}/f", b"x", sha256="abc")

    @pytest.mark.parametrize("after", [0, 1, 100_000, 9 * MIB, 17 * MIB + 5])
    def test_a_source_that_breaks_leaves_the_old_file_and_nothing_new(self, storage, base, after):
        storage.save(f"{base}/f", b"old")
        for path in (f"{base}/f", f"{base}/new/g"):
            with pytest.raises((OSError, DepotError)):
                storage.save(path, BreakingReader(after))
        assert self.names(storage, base) == ["f"]
        assert storage.get_file(f"{base}/f") == b"old"

    @pytest.mark.parametrize("size", [5, 9 * MIB])
    def test_a_source_that_ends_early_is_not_a_file(self, storage, base, size):
        with pytest.raises((OSError, DepotError)):
            storage.save(f"{base}/f", ShortReader(bytes(size), size + 1))
        assert not storage.exists(f"{base}/f")

    # --- what is not there -----------------------------------------------------------------------------------

    def test_a_missing_file_is_file_not_found(self, storage, base):
        storage.save(f"{base}/there/f", b"x")
        for path in (f"{base}/no", f"{base}/there", f"{base}/there/f/below", f"{base}/no/such/folder"):
            for call in (storage.open, storage.get_file, storage.get_metadata, storage.delete):
                with pytest.raises(FileNotFoundError) as caught:
                    call(path)
                assert isinstance(caught.value, FileMissing)
                assert "no" not in str(caught.value).split("/")
            assert storage.exists(path) is False
        assert storage.exists(f"{base}/there/f") is True

    # --- ranges ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("start", "end", "first", "count"),
        [
            (0, None, 0, 10),
            (0, 0, 0, 1),
            (3, 5, 3, 3),
            (9, None, 9, 1),
            (4, 99, 4, 6),
            (None, 4, 6, 4),
            (None, 99, 0, 10),
        ],
    )
    def test_ranges(self, storage, base, start, end, first, count):
        storage.save(f"{base}/f", b"0123456789", "text/plain", {"a": "b"})
        with storage.open(f"{base}/f", ByteRange(start, end)) as download:
            assert (download.start, download.count, download.info.size) == (first, count, 10)
            assert download.info.content_type == "text/plain"
            assert download.read() == b"0123456789"[first : first + count]
            assert download.read(1) == b""

    @pytest.mark.parametrize(("start", "end"), [(10, None), (11, 12), (None, 0), (5, 3)])
    def test_a_range_outside_the_file_is_refused(self, storage, base, start, end):
        storage.save(f"{base}/f", b"0123456789")
        with pytest.raises(RangeNotSatisfiable):
            storage.open(f"{base}/f", ByteRange(start, end))

    @pytest.mark.parametrize("span", [ByteRange(0, None), ByteRange(None, 5)])
    def test_an_empty_file_has_no_ranges_but_can_be_read(self, storage, base, span):
        storage.save(f"{base}/f", b"")
        with pytest.raises(RangeNotSatisfiable):
            storage.open(f"{base}/f", span)
        with storage.open(f"{base}/f") as download:
            assert (download.count, download.read(10)) == (0, b"")

    def test_random_ranges_of_a_file_in_parts(self, storage, base):
        seed = secrets.randbits(32)
        print("seed", seed)
        chance = random.Random(seed)
        data = chance.randbytes(9 * MIB + 17)
        storage.save(f"{base}/f", pieces(data))
        for _ in range(8):
            start = chance.randrange(len(data))
            end = chance.randrange(start, len(data))
            with storage.open(f"{base}/f", ByteRange(start, end)) as download:
                assert b"".join(download) == data[start : end + 1]

    def test_a_download_may_be_closed_half_read(self, storage, base):
        storage.save(f"{base}/f", bytes(3 * MIB))
        for _ in range(3):
            with storage.open(f"{base}/f") as download:
                assert 1 <= len(download.read(10)) <= 10
        assert len(storage.get_file(f"{base}/f")) == 3 * MIB

    # --- paths -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
    def test_a_bad_path_is_refused_by_every_call(self, storage, path):
        calls = [storage.open, storage.get_file, storage.get_metadata, storage.delete, storage.exists]
        for call in [*calls, lambda path: storage.save(path, b"x")]:
            with pytest.raises(InvalidPath):
                call(path)

    def test_nfc_and_nfd_are_one_file(self, storage, base):
        composed, apart = f"{base}/Zoë.csv", unicodedata.normalize("NFD", f"{base}/Zoë.csv")
        assert composed != apart
        assert storage.save(apart, b"x") == composed
        assert storage.get_file(composed) == storage.get_file(apart) == b"x"
        assert self.names(storage, base) == ["Zoë.csv"]
        storage.delete(apart)
        assert not storage.exists(composed)

    @pytest.mark.parametrize(
        "name",
        ["a b+c%2F&=?#;'\".csv", "😀", "日本/語.csv", ".hidden", "a..b", "-rf", "~", "%00", "e" * 255, "a:b*c|d<e>"],
    )
    def test_odd_but_allowed_names(self, storage, base, name):
        storage.save(f"{base}/{name}", b"x")
        assert storage.get_file(f"{base}/{name}") == b"x"
        assert self.names(storage, base) == [name]
        storage.delete(f"{base}/{name}")
        assert self.names(storage, base) == []

    # A disk whose files share a bucket has a key prefix, which counts toward the key's 1,024 bytes.
    longest_path = 1024

    def test_the_longest_path_is_allowed(self, storage, base):
        room = self.longest_path - len(base) - 1
        path = base + "/" + "/".join(["d" * 199] * (room // 200)) + "/" + "e" * (room % 200)
        path = path.rstrip("/")
        path += "x" * (self.longest_path - len(path))
        storage.save(path, b"x")
        assert storage.get_file(path) == b"x"
        storage.delete(path)

    # --- deleting --------------------------------------------------------------------------------------------

    def test_delete_removes_one_file(self, storage, base):
        for name in ("a/f", "a/g"):
            storage.save(f"{base}/{name}", b"x")
        storage.delete(f"{base}/a/f")
        assert self.names(storage, base) == ["a/g"]
        storage.delete(f"{base}/a/g")
        assert self.names(storage, base) == []
        storage.save(f"{base}/a", b"a file may now stand where the folder was")
        assert storage.exists(f"{base}/a")

    def test_a_prefix_is_a_folder(self, storage, base):
        for name in ("a/1", "a/b/2", "ab/3", "a.4", "a0"):
            storage.save(f"{base}/{name}", b"x")
        assert [info.path for info in storage.list_files(f"{base}/a")] == [f"{base}/a/1", f"{base}/a/b/2"]
        assert sorted(storage.delete_prefix(f"{base}/a")) == [f"{base}/a/1", f"{base}/a/b/2"]
        assert self.names(storage, base) == ["a.4", "a0", "ab/3"]
        assert storage.delete_prefix(f"{base}/a/") == []

    def test_an_empty_prefix_deletes_nothing(self, storage, base):
        storage.save(f"{base}/f", b"x")
        with pytest.raises(InvalidPath):
            storage.delete_prefix("")
        assert storage.exists(f"{base}/f")

    @pytest.mark.parametrize("prefix", BAD_PREFIXES.values(), ids=BAD_PREFIXES)
    def test_bad_prefixes_are_refused(self, storage, prefix):
        with pytest.raises(InvalidPath):
            storage.delete_prefix(prefix)
        with pytest.raises(InvalidPath):
            storage.list_with_prefix(prefix)
        with pytest.raises(InvalidPath):
            list(storage.list_files(prefix))

    # --- listing ---------------------------------------------------------------------------------------------

    TREE = ("B", "Z/z", "a b", "a!/1", "a-b/1", "a.b", "a/1", "a/b/c", "a/b0", "a/é", "a0", "é", "日/1", "\uffee", "😀")

    @pytest.mark.parametrize("limit", [1, 2, 3, 1000])
    def test_pages_come_in_path_order_and_miss_nothing(self, storage, base, limit):
        for name in reversed(self.TREE):
            storage.save(f"{base}/{name}", name)
        found: list[str] = []
        cursor = None
        while True:
            page = storage.list_with_prefix(base, cursor, limit)
            assert len(page.items) <= limit
            found += [info.path.removeprefix(base + "/") for info in page.items]
            cursor = page.cursor
            if cursor is None:
                break
            assert page.items
        assert found == sorted(self.TREE) == self.names(storage, base)

    def test_a_listing_tells_size_and_etag(self, storage, base):
        storage.save(f"{base}/f", b"12345")
        (item,) = storage.list_with_prefix(base).items
        info = storage.get_metadata(f"{base}/f")
        assert (item.path, item.size, item.etag) == (info.path, 5, info.etag)
        assert item.modified_at.tzinfo is not None

    def test_a_listing_goes_on_when_the_file_of_its_cursor_is_gone(self, storage, base):
        for name in ("a", "b/c", "d"):
            storage.save(f"{base}/{name}", b"x")
        page = storage.list_with_prefix(base, None, 2)
        storage.delete(f"{base}/b/c")
        assert [info.path for info in storage.list_with_prefix(base, page.cursor).items] == [f"{base}/d"]

    def test_an_empty_folder_lists_nothing(self, storage, base):
        assert storage.list_with_prefix(base).items in ([], ())
        assert storage.list_with_prefix(base).cursor is None
        assert list(storage.list_files(base)) == []

    def test_the_empty_prefix_lists_everything(self, storage, base):
        storage.save(f"{base}/f", b"x")
        assert f"{base}/f" in [info.path for info in storage.list_files()]

    @pytest.mark.parametrize("cursor", ["", "x", "garbage!", "MWE", "Li4vLi4", "é", "A" * 3000])
    def test_a_cursor_that_we_never_gave_is_refused(self, storage, base, cursor):
        storage.save(f"{base}/f", b"x")
        with pytest.raises(InvalidRequest):
            storage.list_with_prefix(base, cursor)

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    def test_a_limit_out_of_bounds_is_refused(self, storage, base, limit):
        with pytest.raises(InvalidRequest):
            storage.list_with_prefix(base, None, limit)

    # --- the rest --------------------------------------------------------------------------------------------

    def test_health_is_a_round_trip_that_leaves_nothing(self, storage):
        before = [info.path for info in storage.list_files()]
        health = storage.health()
        assert (health.ok, health.error) == (True, None)
        assert all(value >= 0 for value in health.latency_ms.values())
        assert health.latency_ms
        assert [info.path for info in storage.list_files()] == before

    def test_many_threads_save_and_delete_in_one_folder(self, storage, base):
        """Folders come and go under each other's hands."""

        def work(worker: int) -> None:
            for turn in range(4):
                path = f"{base}/deep/er/{worker}-{turn}"
                storage.save(path, f"{worker}{turn}")
                assert storage.get_file(path) == f"{worker}{turn}".encode()
                storage.delete(path)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert self.names(storage, base) == []


class RaceConformance(ConformanceBase):
    def test_of_racing_if_absent_saves_exactly_one_wins(self, storage, base):
        for turn in range(4):
            path, start = f"{base}/{turn}/f", threading.Barrier(6)

            def save(mark: int, path: str = path, start: threading.Barrier = start) -> int | None:
                start.wait()
                try:
                    storage.save(path, str(mark) * 1000, if_absent=True)
                except FileExists:
                    return None
                return mark

            with ThreadPoolExecutor(6) as pool:
                won = [mark for mark in pool.map(save, range(6)) if mark is not None]
            assert len(won) == 1
            assert storage.get_file(path) == str(won[0]).encode() * 1000

    def test_a_reader_never_sees_a_mixture(self, storage, base):
        old, new = b"o" * 300_000, b"n" * 500_000
        storage.save(f"{base}/f", old)
        stop = threading.Event()

        def look() -> int:
            seen = 0
            while not stop.is_set() or not seen:
                assert storage.get_file(f"{base}/f") in (old, new)
                seen += 1
            return seen

        with ThreadPoolExecutor(2) as pool:
            looks = [pool.submit(look) for _ in range(2)]
            try:
                for content in (new, old) * 5:
                    storage.save(f"{base}/f", content)
            finally:
                stop.set()
            assert all(future.result() for future in looks)
