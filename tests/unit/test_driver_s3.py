"""The S3 driver keeps the contract over moto. What moto does not check is in tests/integration/test_s3_ceph.py."""

import pytest
from moto import mock_aws

from chalicelib.config import DiskConfig, Secret
from nas_gateway.drivers.s3 import S3Storage
from nas_gateway.drivers.s3_client import make_client
from tests.support.conformance import StorageConformance
from tests.support.copy_conformance import CopyConformance
from tests.support.part_conformance import PartConformance
from tests.support.tail_conformance import TailConformance

CONFIG = DiskConfig("s3", "s3", bucket="nas", access_key=Secret("testing"), secret_key=Secret("testing-secret"))


def a_client():
    """The driver's own client; moto takes bodies as bytes only (a real socket takes any buffer)."""
    client = make_client(CONFIG)

    def as_bytes(request, **_):
        request.body = bytes(request.body) if isinstance(request.body, bytearray) else request.body

    client.meta.events.register_first("before-send.s3", as_bytes)
    return client


@pytest.fixture(scope="module")
def client():
    with mock_aws():
        made = a_client()
        made.create_bucket(Bucket="nas")
        yield made


@pytest.fixture
def storage(client):
    return S3Storage(CONFIG, client)


class TestS3Storage(StorageConformance, PartConformance, CopyConformance, TailConformance):
    def reopen(self, storage):
        return S3Storage(CONFIG, a_client())
