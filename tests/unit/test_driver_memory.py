"""The in-memory driver keeps the contract."""

import pytest

from nas_gateway.drivers.memory import MemoryStorage
from tests.support.conformance import RaceConformance, StorageConformance
from tests.support.copy_conformance import CopyConformance
from tests.support.part_conformance import LostPartConformance
from tests.support.tail_conformance import ExactTailConformance


class TestMemoryStorage(StorageConformance, RaceConformance, LostPartConformance, CopyConformance, ExactTailConformance):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage("memory")
