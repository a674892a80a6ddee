"""What every driver with parts must do with `copy_part`: subclass `CopyConformance` and give a fixture `storage`."""

from __future__ import annotations

import random
from typing import Any

import pytest

from chalicelib.errors import FileMissing, InvalidPath, InvalidRequest, ObjectCorrupt, RangeNotSatisfiable
from chalicelib.storage.base import Part
from nas_gateway.drivers.memory import MemoryStorage
from tests.support.conformance import BAD_PATHS, ConformanceBase, sha


class CopyConformance(ConformanceBase):
    def source_file(self, storage: Any, path: str, seed: int = 1) -> tuple[bytes, list[Part]]:
        """A file of two parts on `storage`: its bytes, and what was recorded of its parts."""
        first = random.Random(seed).randbytes(max(storage.min_part_bytes, 3000))
        bodies = [first, random.Random(-seed).randbytes(1234)]
        handle = storage.create_parts(path)
        offsets = (0, len(first))
        parts = [storage.write_part(path, handle, n + 1, offsets[n], bodies[n]) for n in (0, 1)]
        storage.complete_parts(path, handle, parts)
        return b"".join(bodies), parts

    def copied(
        self, storage: Any, path: str, source: Any, source_path: str, parts: list[Part], told: bool
    ) -> list[Part]:
        handle, made = storage.create_parts(path), []
        for part in parts:
            known = {"sha256": part.sha256, "etag": part.etag} if told else {}
            made.append(
                storage.copy_part(
                    path, handle, part.number, part.offset, source, source_path, part.offset, part.size, **known
                )
            )
        assert storage.list_parts(path, handle) == [(part.number, part.size) for part in parts]
        assert not storage.exists(path)
        storage.complete_parts(path, handle, made)
        return made

    @pytest.mark.parametrize("told", [True, False], ids=["digest and etag told", "nothing told"])
    @pytest.mark.parametrize("where", ["here", "elsewhere"])
    def test_parts_of_a_file_become_parts_of_another(self, storage, base, where, told):
        source = storage if where == "here" else MemoryStorage("other")
        path = f"{base}/a b+c é%41?&x/source=1.csv"
        if where == "elsewhere":
            source.min_part_bytes = storage.min_part_bytes
        data, parts = self.source_file(source, path)
        made = self.copied(storage, f"{base}/copy", source, path, parts, told)
        assert [(part.number, part.offset, part.size, part.sha256) for part in made] == [
            (part.number, part.offset, part.size, part.sha256) for part in parts
        ]
        assert storage.get_file(f"{base}/copy") == data
        assert source.get_file(path) == data

    @pytest.mark.parametrize(("start", "size"), [(0, 1), (1, 2999), (2999, 1), (0, 3000)])
    def test_any_range_may_be_copied(self, storage, base, start, size):
        data = random.Random(3).randbytes(3000)
        storage.save(f"{base}/source", data)
        handle = storage.create_parts(f"{base}/f")
        part = storage.copy_part(f"{base}/f", handle, 1, 0, storage, f"{base}/source", start, size)
        assert (part.size, part.sha256) == (size, sha(data[start : start + size]))
        storage.complete_parts(f"{base}/f", handle, [part])
        assert storage.get_file(f"{base}/f") == data[start : start + size]

    @pytest.mark.parametrize("told", [True, False], ids=["etag told", "etag not told"])
    def test_a_source_that_is_not_what_was_recorded_is_corrupt(self, storage, base, told):
        source, path = f"{base}/source", f"{base}/f"
        _, (recorded, _) = self.source_file(storage, source)
        self.source_file(storage, source, seed=2)  # another file by now
        handle = storage.create_parts(path)
        with pytest.raises(ObjectCorrupt):
            storage.copy_part(
                path, handle, 1, 0, storage, source, 0, recorded.size, sha256=recorded.sha256,
                etag=recorded.etag if told else None,
            )  # fmt: skip
        storage.abort_parts(path, handle)

    def test_a_name_is_not_decoded_into_that_of_another_file(self, storage, base):
        """Ceph 16 does, when it copies by itself."""
        data, parts = self.source_file(storage, f"{base}/x%41.csv")
        self.source_file(storage, f"{base}/xA.csv", seed=2)
        self.copied(storage, f"{base}/copy", storage, f"{base}/x%41.csv", parts, told=True)
        assert storage.get_file(f"{base}/copy") == data

    def test_an_etag_that_says_nothing_is_no_error(self, storage, base):
        """Such as those of objects that Amazon encrypts with a KMS key: then the digest decides."""
        source, path = f"{base}/source", f"{base}/f"
        data, (part, _) = self.source_file(storage, source)
        handle = storage.create_parts(path)
        made = storage.copy_part(
            path, handle, 1, 0, storage, source, 0, part.size, sha256=part.sha256, etag="0" * 32
        )  # fmt: skip
        storage.complete_parts(path, handle, [made])
        assert storage.get_file(path) == data[: part.size]

    @pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
    def test_a_source_that_is_missing_or_too_short(self, storage, base, told):
        path = f"{base}/f"
        _, (part, _) = self.source_file(storage, f"{base}/source")
        known = {"sha256": part.sha256, "etag": part.etag} if told else {}
        handle = storage.create_parts(path)
        with pytest.raises(FileMissing):
            storage.copy_part(path, handle, 1, 0, storage, f"{base}/missing", 0, 10, **known)
        size = storage.get_metadata(f"{base}/source").size
        for start, count in ((size, 1), (size - 1, 2), (0, size + 1)):
            with pytest.raises(RangeNotSatisfiable):
                storage.copy_part(path, handle, 1, 0, storage, f"{base}/source", start, count, **known)
        storage.abort_parts(path, handle)

    @pytest.mark.parametrize(
        ("number", "offset", "start", "size"),
        [(0, 0, 0, 1), (10_001, 0, 0, 1), (1, -1, 0, 1), (1, 0, -1, 1), (1, 0, 0, 0), (1, 0, 0, -1)],
    )
    @pytest.mark.parametrize("known", [{}, {"sha256": "0" * 64, "etag": "0" * 32}], ids=["not told", "told"])
    def test_numbers_have_bounds(self, storage, base, known, number, offset, start, size):
        storage.save(f"{base}/source", b"abc")
        handle = storage.create_parts(f"{base}/f")
        with pytest.raises(InvalidRequest):
            storage.copy_part(f"{base}/f", handle, number, offset, storage, f"{base}/source", start, size, **known)
        storage.abort_parts(f"{base}/f", handle)

    @pytest.mark.parametrize("known", [{}, {"sha256": "0" * 64, "etag": "0" * 32}], ids=["not told", "told"])
    def test_bad_paths_are_refused_on_both_ends_of_a_copy(self, storage, base, known):
        storage.save(f"{base}/source", b"abc")
        handle = storage.create_parts(f"{base}/f")
        for name, path in BAD_PATHS.items():
            with pytest.raises(InvalidPath):
                storage.copy_part(f"{base}/f", handle, 1, 0, storage, path, 0, 1, **known)
                print("taken as a source:", name)
            with pytest.raises(InvalidPath):
                storage.copy_part(path, handle, 1, 0, storage, f"{base}/source", 0, 1, **{**known, "sha256": None})
                print("taken as a target:", name)
        storage.abort_parts(f"{base}/f", handle)
