"""The drivers of the services tier: the only code that touches files and buckets.

May be imported by the use-cases and the wiring of `nas_gateway`; imports only the contract (errors, limits, config, storage).
"""

from __future__ import annotations

from chalicelib.config import DiskConfig
from chalicelib.errors import SettingsError
from chalicelib.storage.base import PartStorage


def make(config: DiskConfig) -> PartStorage:
    """The driver of one disk. Touches neither disk nor network. Raises `SettingsError` for a driver of another tier."""
    if config.driver == "local":
        from nas_gateway.drivers.local import LocalFileSystemStorage

        return LocalFileSystemStorage(config.name, config.root)
    if config.driver == "memory":
        from nas_gateway.drivers.memory import MemoryStorage

        return MemoryStorage(config.name)
    if config.driver == "s3":
        # Imported here so that boto3 (0.4 s, 40 MiB) is loaded only where a disk needs it.
        from nas_gateway.drivers.s3 import S3Storage

        return S3Storage(config)
    raise SettingsError(
        f"STORAGE_CONFIG disk {config.name!r}: driver {config.driver!r} is not one of local, s3, memory"
    )
