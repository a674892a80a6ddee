"""The local driver keeps the contract, with extended attributes and without."""

import pytest

from nas_gateway.drivers.local import LocalFileSystemStorage
from tests.support.conformance import RaceConformance, StorageConformance
from tests.support.part_conformance import LostPartConformance


class TestLocalFileSystemStorage(StorageConformance, RaceConformance, LostPartConformance):
    @pytest.fixture
    def storage(self, tmp_path) -> LocalFileSystemStorage:
        return LocalFileSystemStorage("local", str(tmp_path / "root"))

    def reopen(self, storage):
        return LocalFileSystemStorage("local", storage._root)


class TestWithoutExtendedAttributes(StorageConformance, RaceConformance, LostPartConformance):
    @pytest.fixture
    def storage(self, tmp_path) -> LocalFileSystemStorage:
        return LocalFileSystemStorage("local", str(tmp_path / "root"), attributes=False)

    def reopen(self, storage):
        return LocalFileSystemStorage("local", storage._root, attributes=False)
