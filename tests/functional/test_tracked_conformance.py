"""The tracked storage keeps the drivers' contract: in-memory disks, and the tables of a real MiniStack process.

(moto's tables break under the suite's threads; see the notes on it in CONTRIBUTING.)
"""

from collections.abc import Iterator

import pytest

from chalicelib import dynamo
from chalicelib.config import Settings
from nas_gateway import wiring
from nas_gateway.files.access import Call
from nas_gateway.files.tracked import TrackedStorage
from tests.support.conformance import StorageConformance
from tests.support.gateway import AWS, ENV


@pytest.fixture(scope="module")
def transfers(ministack_url: str) -> Iterator[object]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**AWS, "AWS_ENDPOINT_URL": ministack_url}.items():
            patch.setenv(name, value)
        made = wiring.gateway(Settings.from_env({**ENV, "LEDGER_TABLE_PREFIX": "tracked"}))
        dynamo.create(*wiring.MODELS)
        yield made.transfers


class TestTrackedStorage(StorageConformance):
    @pytest.fixture
    def storage(self, transfers) -> TrackedStorage:
        return TrackedStorage("workspace", transfers, Call)
