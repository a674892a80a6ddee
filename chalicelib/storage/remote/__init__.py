"""The web tier's way to the services tier: the transport and the storage driver on top of it."""

from chalicelib.storage.remote.driver import RemoteStorageDriver
from chalicelib.storage.remote.transport import Transport

__all__ = ["RemoteStorageDriver", "Transport"]
