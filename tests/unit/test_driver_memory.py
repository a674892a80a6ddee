"""The in-memory driver keeps the contract, and S3's rules where a test asks for them."""

import itertools

import pytest

from chalicelib.errors import InvalidRequest, UploadStateConflict
from chalicelib.storage.base import DirectStorage
from nas_gateway.drivers.memory import MemoryStorage
from tests.support.conformance import RaceConformance, StorageConformance
from tests.support.copy_conformance import CopyConformance
from tests.support.part_conformance import LostPartConformance
from tests.support.tail_conformance import ExactTailConformance, tail_name


class TestMemoryStorage(
    StorageConformance, RaceConformance, LostPartConformance, CopyConformance, ExactTailConformance
):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage("memory")


class TestWithTheRulesOfS3(LostPartConformance, CopyConformance):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage("memory", min_part_bytes=5000, renumber_after_loss=False)

    def test_a_small_part_in_the_middle_is_refused_and_shows_nothing(self, storage):
        handle = storage.create_parts("f")
        one, two, three = (storage.write_part("f", handle, n, (n - 1) * 4999, bytes(4999)) for n in (1, 2, 3))
        with pytest.raises(InvalidRequest, match="5 MiB"):
            storage.complete_parts("f", handle, [one, two, three])
        assert not storage.exists("f")
        large = [storage.write_part("f", handle, n, (n - 1) * 5000, bytes(5000)) for n in (1, 2)]
        last = storage.write_part("f", handle, 3, 10_000, b"x")
        assert storage.complete_parts("f", handle, [*large, last]).size == 10_001

    def test_a_part_that_is_not_named_keeps_it_from_completing(self, storage):
        handle = storage.create_parts("f")
        one = storage.write_part("f", handle, 1, 0, bytes(5000))
        storage.write_part("f", handle, 3, 5000, b"late")
        with pytest.raises(UploadStateConflict):
            storage.complete_parts("f", handle, [one])
        assert not storage.exists("f")

    def test_another_etag_keeps_it_from_completing(self, storage):
        handle = storage.create_parts("f")
        one = storage.write_part("f", handle, 1, 0, bytes(5000))
        storage.write_part("f", handle, 1, 0, b"late")
        with pytest.raises(UploadStateConflict):
            storage.complete_parts("f", handle, [one])


def test_without_those_rules_parts_may_be_small_and_late_ones_are_left_out():
    storage = MemoryStorage("memory")
    handle = storage.create_parts("f")
    parts = [storage.write_part("f", handle, n, n - 1, b"x") for n in (1, 2)]
    storage.write_part("f", handle, 3, 2, b"late")
    assert storage.complete_parts("f", handle, parts).size == 2


def test_tails_are_listed_while_others_come_and_go():
    storage = MemoryStorage("memory")
    names = [tail_name(f"{n:032x}", b"") for n in range(1001)]
    for name in names:
        storage.put_tail(name, b"")
    listed = storage.list_tails()
    first = list(itertools.islice(listed, 500))
    storage.delete_tail(names[0])
    storage.put_tail(tail_name("f" * 32, b"new"), b"new")
    assert {tail.name for tail in [*first, *listed]} >= set(names[1:])


def test_it_cannot_be_reached_directly():
    assert not isinstance(MemoryStorage("memory"), DirectStorage)
