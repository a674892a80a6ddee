"""The local driver keeps the contract, with extended attributes and without."""

import pytest

from nas_gateway.drivers.local import LocalFileSystemStorage
from tests.support.conformance import RaceConformance, StorageConformance
from tests.support.copy_conformance import CopyConformance
from tests.support.part_conformance import LostPartConformance
from tests.support.tail_conformance import ExactTailConformance


class TestLocalFileSystemStorage(
    StorageConformance, RaceConformance, LostPartConformance, CopyConformance, ExactTailConformance
):
    @pytest.fixture
    def storage(self, tmp_path) -> LocalFileSystemStorage:
        return LocalFileSystemStorage("local", str(tmp_path / "root"))

    def reopen(self, storage):
        return LocalFileSystemStorage("local", storage._root)


class TestWithoutExtendedAttributes(
    StorageConformance, RaceConformance, LostPartConformance, CopyConformance, ExactTailConformance
):
    @pytest.fixture
    def storage(self, tmp_path) -> LocalFileSystemStorage:
        return LocalFileSystemStorage("local", str(tmp_path / "root"), attributes=False)

    def reopen(self, storage):
        return LocalFileSystemStorage("local", storage._root, attributes=False)
