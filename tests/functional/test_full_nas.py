"""A NAS that is full, or refuses, in the middle of an upload over HTTP: a clear error, a failed event, nothing kept."""

from collections.abc import Iterator, Mapping

import pytest

from chalicelib import errors
from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.limits import MIB
from chalicelib.storage.base import Content, SavedPath
from chalicelib.storage.remote import RemoteStorageDriver, Transport
from chalicelib.storage.streams import as_reader
from nas_gateway.api import storage as storage_api
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.ledger import queries
from tests.support.gateway import ENV
from tests.support.host_server import running

PATH = "submissions/VACS/2024/patient/p.csv"


class FailingStorage(MemoryStorage):
    """Keeps the contract until `room` bytes have come; then it is what `error` says."""

    def __init__(self, room: int, error: type[errors.StorageError]) -> None:
        super().__init__("submissions")
        self._room, self._error = room, error

    def save(
        self,
        path: str,
        content: Content,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        if_absent: bool = False,
        sha256: str | None = None,
    ) -> SavedPath:
        reader, _ = as_reader(content)
        taken = 0
        while taken < self._room:
            taken += len(reader.read(MIB))
        raise self._error


@pytest.fixture(
    params=[errors.StorageFull, errors.StorageRefused, errors.StorageUnavailable], ids=lambda error: error.code
)
def failing(request, gateway) -> Iterator[tuple[RemoteStorageDriver, type[errors.StorageError]]]:
    store = FailingStorage(3 * MIB, request.param)
    gateway.transfers.disk = lambda _: store
    app = DepotApp("services")
    app.register_blueprint(storage_api.blueprint(lambda: gateway))
    with running(app) as server:
        transport = Transport(f"http://127.0.0.1:{server.port}", ENV["INTERNAL_API_KEY"])
        yield RemoteStorageDriver("submissions", transport), request.param


@pytest.mark.parametrize("size", [40 * MIB, None], ids=["length", "chunked"])
def test_the_sender_is_told_in_the_middle_of_the_body(failing, size):
    storage, error = failing
    body = b"x" * size if size else (b"x" * MIB for _ in range(40))
    with pytest.raises(error):
        storage.save(PATH, body)
    events = queries.query(cohort="VACS").events
    assert [event.outcome for event in events] == ["intent", "failed"]
    assert events[1].error_code == error.code
    assert events[1].bytes_transferred >= 3 * MIB
    assert not storage.exists(PATH)
