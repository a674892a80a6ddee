"""What every driver with parts must do: subclass `LostPartConformance` and give a fixture `storage`. See `conformance`."""

from __future__ import annotations

import contextlib
import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.errors import DepotError, InvalidPath, InvalidRequest, LeaseLost, UploadLost, UploadStateConflict
from chalicelib.storage.base import Part
from tests.support.conformance import BAD_PATHS, ConformanceBase, sha


class PartConformance(ConformanceBase):
    def part_size(self, storage: Any) -> int:
        return max(int(storage.min_part_bytes), 1000)

    def cut(self, storage: Any, count: int, tail: int = 77, seed: int = 1) -> list[bytes]:
        chance = random.Random(seed)
        return [chance.randbytes(self.part_size(storage)) for _ in range(count - 1)] + [chance.randbytes(tail)]

    def write(self, storage: Any, path: str, handle: str, bodies: list[bytes], order: list[int]) -> list[Part]:
        offsets = [sum(map(len, bodies[:index])) for index in range(len(bodies))]
        return [storage.write_part(path, handle, index + 1, offsets[index], bodies[index]) for index in order]

    def assert_nothing(self, storage: Any, base: str, handle: str) -> None:
        assert self.names(storage, base) == []
        assert handle not in [upload.handle for upload in storage.open_uploads()]

    def test_parts_in_any_order_become_one_file(self, storage, base):
        path, bodies = f"{base}/a/f", self.cut(storage, 3)
        handle = storage.create_parts(path, "text/csv", {"cohort": "VACS", "who": "Zoë"})
        parts = self.write(storage, path, handle, bodies, [2, 0, 1])
        assert [(part.number, part.size, part.sha256) for part in parts] == [
            (n + 1, len(bodies[n]), sha(bodies[n])) for n in (2, 0, 1)
        ]
        assert storage.list_parts(path, handle) == [(n + 1, len(body)) for n, body in enumerate(bodies)]
        assert not storage.exists(path)
        whole = b"".join(bodies)
        info = storage.complete_parts(path, handle, parts, sha256=sha(whole))
        assert (info.path, info.size, info.sha256) in [(path, len(whole), sha(whole)), (path, len(whole), None)]
        assert storage.get_file(path) == whole
        assert storage.get_metadata(path) == info
        assert (info.content_type, dict(info.metadata)) == ("text/csv", {"cohort": "VACS", "who": "Zoë"})
        assert handle not in [upload.handle for upload in storage.open_uploads()]

    def test_parts_may_be_written_in_parallel(self, storage, base):
        path, bodies = f"{base}/f", self.cut(storage, 5)
        handle = storage.create_parts(path)
        with ThreadPoolExecutor(5) as pool:
            parts = list(pool.map(lambda n: self.write(storage, path, handle, bodies, [n])[0], range(5)))
        storage.complete_parts(path, handle, parts)
        assert storage.get_file(path) == b"".join(bodies)

    def test_random_cuts_and_orders(self, storage, base):
        seed = secrets.randbits(32)
        print("seed", seed)
        chance, least = random.Random(seed), self.part_size(storage)
        bodies = [chance.randbytes(least + chance.randrange(1000)) for _ in range(chance.randint(1, 4))]
        bodies.append(chance.randbytes(chance.randint(1, least)))
        order = chance.sample(range(len(bodies)), len(bodies))
        path = f"{base}/f"
        handle = storage.create_parts(path)
        parts = self.write(storage, path, handle, bodies, order)
        storage.complete_parts(path, handle, parts)
        assert sha(storage.get_file(path)) == sha(b"".join(bodies))

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_a_part_may_be_any_kind_of_bytes(self, storage, base, kind):
        handle = storage.create_parts(f"{base}/f")
        part = storage.write_part(f"{base}/f", handle, 1, 0, kind(b"abc"))
        storage.complete_parts(f"{base}/f", handle, [part])
        assert storage.get_file(f"{base}/f") == b"abc"

    def test_writing_a_part_again_replaces_it(self, storage, base):
        path, bodies = f"{base}/f", self.cut(storage, 2, tail=500)
        handle = storage.create_parts(path)
        stale = self.write(storage, path, handle, bodies, [0, 1])
        again = self.write(storage, path, handle, bodies, [0])[0]
        assert (again.etag, again.sha256) == (stale[0].etag, stale[0].sha256)
        bodies[1] = b"shorter"
        last = self.write(storage, path, handle, bodies, [1])[0]
        assert storage.list_parts(path, handle) == [(1, len(bodies[0])), (2, 7)]
        with pytest.raises(UploadStateConflict):
            storage.complete_parts(path, handle, stale)
        assert not storage.exists(path)
        storage.complete_parts(path, handle, [again, last])
        assert storage.get_file(path) == b"".join(bodies)

    def test_a_late_part_of_a_lost_writer_never_reaches_the_file(self, storage, base):
        """Its successor's part is acknowledged; then it arrives, under the number before or, on S3, the same one."""
        path, number = f"{base}/f", 2 if storage.renumber_after_loss else 1
        handle = storage.create_parts(path)
        part = storage.write_part(path, handle, number, 0, b"acknowledged")
        with contextlib.suppress(LeaseLost):
            storage.write_part(path, handle, 1, 0, b"late, longer than that")
        if storage.renumber_after_loss:
            storage.complete_parts(path, handle, [part])
            assert storage.get_file(path) == b"acknowledged"
        else:
            with pytest.raises(UploadStateConflict):
                storage.complete_parts(path, handle, [part])
            assert not storage.exists(path)

    def test_a_missing_part_is_an_error_and_shows_nothing(self, storage, base):
        path, bodies = f"{base}/f", self.cut(storage, 3)
        handle = storage.create_parts(path)
        one, three = self.write(storage, path, handle, bodies, [0, 2])
        never = Part(2, len(bodies[0]), len(bodies[1]), one.etag, one.sha256)
        renumbered = replace(three, number=2, offset=len(bodies[0]))
        for parts in ([one, three], [three], [one, never, three], [one, one], [one, renumbered]):
            with pytest.raises(UploadStateConflict):
                storage.complete_parts(path, handle, parts)
            assert not storage.exists(path)
        # and nothing is lost by it
        two = self.write(storage, path, handle, bodies, [1])[0]
        storage.complete_parts(path, handle, [three, two, one])
        assert storage.get_file(path) == b"".join(bodies)

    def test_no_parts_at_all_are_an_empty_file(self, storage, base):
        handle = storage.create_parts(f"{base}/f", "text/csv")
        assert storage.list_parts(f"{base}/f", handle) == []
        assert storage.complete_parts(f"{base}/f", handle, []).size == 0
        assert storage.get_file(f"{base}/f") == b""
        assert storage.get_metadata(f"{base}/f").content_type == "text/csv"

    def test_completing_replaces_an_older_file_in_one_step(self, storage, base):
        path = f"{base}/f"
        storage.save(path, b"old", "text/old", {"only_old": "1"})
        handle = storage.create_parts(path, "text/new")
        part = storage.write_part(path, handle, 1, 0, b"new")
        assert storage.get_file(path) == b"old"
        storage.complete_parts(path, handle, [part])
        info = storage.get_metadata(path)
        assert (storage.get_file(path), info.content_type, dict(info.metadata)) == (b"new", "text/new", {})

    def test_two_uploads_to_one_path_do_not_touch_each_other(self, storage, base):
        path = f"{base}/f"
        one, two = storage.create_parts(path), storage.create_parts(path)
        assert one != two
        first, second = (storage.write_part(path, handle, 1, 0, handle.encode()) for handle in (one, two))
        storage.complete_parts(path, one, [first])
        storage.complete_parts(path, two, [second])
        assert storage.get_file(path) == two.encode()

    def test_another_process_goes_on_with_the_handle(self, storage, base):
        path, bodies = f"{base}/f", self.cut(storage, 2)
        handle = storage.create_parts(path, "text/csv")
        one = self.write(storage, path, handle, bodies, [0])
        other = self.reopen(storage)
        assert other.list_parts(path, handle) == [(1, len(bodies[0]))]
        two = self.write(other, path, handle, bodies, [1])
        third = self.reopen(storage)
        assert third.complete_parts(path, handle, one + two).content_type == "text/csv"
        assert storage.get_file(path) == b"".join(bodies)

    @pytest.mark.parametrize(("number", "offset"), [(0, 0), (-1, 0), (10_001, 0), (1, -1)])
    def test_part_numbers_and_offsets_have_bounds(self, storage, base, number, offset):
        handle = storage.create_parts(f"{base}/f")
        with pytest.raises(InvalidRequest):
            storage.write_part(f"{base}/f", handle, number, offset, b"x")
        storage.abort_parts(f"{base}/f", handle)

    @pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
    def test_bad_paths_are_refused(self, storage, path):
        for call in (
            lambda: storage.create_parts(path),
            lambda: storage.write_part(path, "0" * 32, 1, 0, b"x"),
            lambda: storage.list_parts(path, "0" * 32),
            lambda: storage.complete_parts(path, "0" * 32, []),
            lambda: storage.abort_parts(path, "0" * 32),
        ):
            with pytest.raises(InvalidPath):
                call()


class LostPartConformance(PartConformance):
    """Uploads that ended or never were. (moto answers these with a crash of its own, or by success.)"""

    def test_abort_leaves_nothing(self, storage, base):
        path, bodies = f"{base}/deep/f", self.cut(storage, 2)
        handle = storage.create_parts(path)
        parts = self.write(storage, path, handle, bodies, [0, 1])
        assert (path, handle) in [(upload.path, upload.handle) for upload in storage.open_uploads()]
        storage.abort_parts(path, handle)
        self.assert_nothing(storage, base, handle)
        for call in (
            lambda: storage.complete_parts(path, handle, parts),
            lambda: storage.complete_parts(path, handle, []),
            lambda: storage.list_parts(path, handle),
            lambda: self.write(storage, path, handle, bodies, [0]),
        ):
            with pytest.raises(UploadLost):
                call()
        storage.abort_parts(path, handle)
        self.assert_nothing(storage, base, handle)

    def test_a_lost_upload_is_not_taken_for_the_file_that_is_there(self, storage, base):
        path = f"{base}/f"
        storage.save(path, b"other")
        handle = storage.create_parts(path)
        part = storage.write_part(path, handle, 1, 0, b"mine!")
        storage.abort_parts(path, handle)
        with pytest.raises(UploadLost):
            storage.complete_parts(path, handle, [part])
        assert storage.get_file(path) == b"other"

    def test_completing_twice_says_so_or_tells_the_same(self, storage, base):
        path = f"{base}/f"
        handle = storage.create_parts(path)
        part = storage.write_part(path, handle, 1, 0, b"mine!")
        info = storage.complete_parts(path, handle, [part])
        with contextlib.suppress(UploadLost):
            assert storage.complete_parts(path, handle, [part]).etag == info.etag
        assert storage.get_file(path) == b"mine!"
        storage.save(path, b"someone else's by now")
        with pytest.raises(UploadLost):
            storage.complete_parts(path, handle, [part])
        assert storage.get_file(path) == b"someone else's by now"
        storage.delete(path)
        with pytest.raises(UploadLost):
            storage.complete_parts(path, handle, [part])
        storage.abort_parts(path, handle)
        assert not storage.exists(path)

    def test_racing_completions_show_one_whole_file(self, storage, base):
        path, bodies = f"{base}/f", self.cut(storage, 2)
        handle = storage.create_parts(path)
        parts = self.write(storage, path, handle, bodies, [0, 1])

        def complete(_: int) -> bool:
            try:
                storage.complete_parts(path, handle, parts)
            except DepotError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert any(pool.map(complete, range(4)))
        assert storage.get_file(path) == b"".join(bodies)

    @pytest.mark.parametrize("handle", ["", "nonsense", "../..", "0" * 32, "2~" + "a" * 32, "a/b"])
    def test_a_handle_that_was_never_given_is_lost(self, storage, base, handle):
        path = f"{base}/f"
        with pytest.raises(UploadLost):
            storage.write_part(path, handle, 1, 0, b"x")
        with pytest.raises(UploadLost):
            storage.list_parts(path, handle)
        with pytest.raises(UploadLost):
            storage.complete_parts(path, handle, [])
        storage.abort_parts(path, handle)

    def test_a_handle_belongs_to_its_path(self, storage, base):
        handle = storage.create_parts(f"{base}/f")
        with pytest.raises(UploadLost):
            storage.write_part(f"{base}/other", handle, 1, 0, b"x")
        storage.abort_parts(f"{base}/other", handle)
        assert storage.list_parts(f"{base}/f", handle) == []
        storage.abort_parts(f"{base}/f", handle)
