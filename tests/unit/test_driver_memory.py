"""The in-memory driver keeps the contract."""

import pytest

from nas_gateway.drivers.memory import MemoryStorage
from tests.support.conformance import RaceConformance, StorageConformance
from tests.support.part_conformance import LostPartConformance


class TestMemoryStorage(StorageConformance, RaceConformance, LostPartConformance):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage("memory")
