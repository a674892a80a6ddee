"""The web tier's way to the services tier: the transport, and on top of it the storage driver and the upload sessions."""

from chalicelib.storage.remote.driver import RemoteStorageDriver
from chalicelib.storage.remote.transport import Transport
from chalicelib.storage.remote.uploads import RemoteUploadSessions

__all__ = ["RemoteStorageDriver", "RemoteUploadSessions", "Transport"]
