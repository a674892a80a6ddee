"""The remote driver keeps the same contract as the drivers, through a real services tier in another process."""

import os

import pytest

from chalicelib.errors import BadApiKey, ServicesUnavailable
from chalicelib.storage.remote import RemoteStorageDriver, Transport
from tests.support.client import fresh_name
from tests.support.conformance import StorageConformance
from tests.support.stack import RunningStack


@pytest.fixture(scope="module")
def transport(tiers: RunningStack) -> Transport:
    return Transport(tiers.document["services_url"], tiers.document["api_key"])


class TestRemoteStorage(StorageConformance):
    # `depot up` puts three disks into one bucket when the NAS is an S3 store.
    longest_path = 1024 - len("workspace/") * ("S3_ENDPOINT" in os.environ)

    @pytest.fixture
    def storage(self, transport: Transport) -> RemoteStorageDriver:
        return RemoteStorageDriver("workspace", transport)


def test_what_was_saved_tells_its_digest_and_its_tracking_id(transport, events):
    saved = RemoteStorageDriver("workspace", transport).save(f"upload_prechecks/{fresh_name()}", b"hello")
    assert saved.size == 5
    assert [event["tracking_id"] for event in events(file_id=saved.file_id)] == [saved.tracking_id] * 2


def test_a_large_file_by_the_three_phase_call_takes_the_chunked_action(transport, events):
    storage = RemoteStorageDriver("workspace", transport)
    body = bytes(range(256)) * 4096 * 20
    saved = storage.save_chunked(f"upload_prechecks/{fresh_name()}", iter_reader(body))
    assert storage.get_file(saved) == body
    assert {event["action"] for event in events(file_id=saved.file_id)[:2]} >= {"file_uploaded_chunked"}


def iter_reader(body: bytes):
    from chalicelib.storage.streams import IteratorReader

    return IteratorReader(body[at : at + 1_000_003] for at in range(0, len(body), 1_000_003))


def test_a_wrong_key_is_told_as_such(tiers):
    storage = RemoteStorageDriver("workspace", Transport(tiers.document["services_url"], "x" * 64))
    with pytest.raises(BadApiKey):
        storage.exists("a/b")


def test_no_services_tier_is_told_as_such():
    storage = RemoteStorageDriver("workspace", Transport("http://127.0.0.1:9", "x" * 64))
    for attempt in (
        lambda: storage.exists("a/b"),
        lambda: storage.save("a/b", b"x"),
        lambda: storage.save("a/b", iter([b"x"])),
    ):
        with pytest.raises(ServicesUnavailable):
            attempt()
    assert storage.health().error == "services_unavailable"
