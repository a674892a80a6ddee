"""StorageManager: the storage for a purpose, by the server's role. The one thing developers call.

    storage = StorageManager.get_workspace_storage()
    storage.save("upload_prechecks/42/data.csv", content)

In the web role every disk is the remote driver, whatever STORAGE_CONFIG says. In the services and testing roles it is the
tracked storage that the services tier supplies: it writes the ledger's intent and outcome around every operation. This
module never imports that tier: its factory is handed to `configure`, or found by the entry point group `depot.gateway`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, ClassVar

from chalicelib import context, observability
from chalicelib.config import Role, Settings
from chalicelib.errors import SecurityError, SettingsError, UnknownDisk
from chalicelib.storage import paths
from chalicelib.storage.base import Content, SavedPath, Storage
from chalicelib.storage.remote import RemoteStorageDriver, Transport
from chalicelib.storage.workspace import WorkspaceManager

Factory = Callable[[Settings, str], Storage]


def resolve_disk(settings: Settings, name: str) -> str:
    """The disk a name stands for: a disk of that name, or the disk configured for that purpose. Raises `UnknownDisk`."""
    if name in settings.disks:
        return name
    purposes = {
        "workspace": settings.workspace_disk,
        "submissions": settings.submission_disk,
        "submission": settings.submission_disk,
        "scratch": settings.scratch_disk,
        "default": settings.default_disk,
    }
    if purposes.get(name) in settings.disks:
        return purposes[name]
    raise UnknownDisk


def forwarded_headers() -> dict[str, str]:
    """What a call to the services tier carries from the request being handled: its id and the user's assertion."""
    headers = {"X-Request-ID": observability.current_request_id()}
    if token := context.assertion.get():
        headers["X-Depot-Assertion"] = token
    return headers


def make_transport(settings: Settings) -> Transport:
    """The web tier's transport to the services tier that the settings name."""
    return Transport(
        settings.services_url,
        settings.internal_api_keys[0].reveal(),
        role=settings.role.value,
        timeout=settings.services_timeout,
        headers=forwarded_headers,
        ca_bundle=settings.services_ca_bundle,
    )


class StorageManager:
    """Class-level, as developers use it; `configure` is called once by the wiring, `clear_cache` by tests."""

    _lock: ClassVar[threading.RLock] = threading.RLock()
    _settings: ClassVar[Settings | None] = None
    _factory: ClassVar[Factory | None] = None
    _instances: ClassVar[dict[str, Storage]] = {}
    _transport: ClassVar[Transport | None] = None

    @classmethod
    def configure(cls, settings: Settings, factory: Factory | None = None) -> None:
        """Set the settings and, outside the web role, what makes a disk. Forgets what was cached.

        Raises `SecurityError` for a factory in the web role.
        """
        if settings.role is Role.WEB and factory is not None:
            raise SecurityError("Web server must use remote storage for PHI operations")
        with cls._lock:
            cls.clear_cache()
            cls._settings, cls._factory = settings, factory

    @classmethod
    def clear_cache(cls) -> None:
        """Forget all instances, and settings that were read from the environment."""
        with cls._lock:
            cls._instances.clear()
            cls._settings = cls._factory = cls._transport = None

    @classmethod
    def settings(cls) -> Settings:
        """The settings in force; read from the environment when nobody configured any (a developer's script)."""
        with cls._lock:
            if cls._settings is None:
                cls._settings = Settings.from_env(os.environ)
            return cls._settings

    @classmethod
    def get_storage(cls, disk: str) -> Storage:
        """The storage of a disk or purpose, cached. Raises `UnknownDisk`, `SecurityError`, `SettingsError`."""
        with cls._lock:
            if disk not in cls._instances:
                cls._instances[disk] = cls._create(cls.settings(), disk)
            return cls._instances[disk]

    @classmethod
    def get_workspace_storage(cls) -> Storage:
        return cls.get_storage(cls._for_purpose("workspace", cls.settings().workspace_disk))

    @classmethod
    def get_scratch_storage(cls) -> Storage:
        return cls.get_storage(cls._for_purpose("scratch", cls.settings().scratch_disk))

    @classmethod
    def get_submission_storage(cls) -> Storage:
        return cls.get_storage(cls._for_purpose("submissions", cls.settings().submission_disk))

    @classmethod
    def save_submission_file(cls, submission: Any, content: Content, content_type: str | None = None) -> SavedPath:
        """Save under `submissions/{cohort}/{protocol_year}/{file_type}/{filename}`.

        `submission` is a mapping or an object with those four fields.
        """
        fields = _submission_fields(submission)
        path = paths.submission_path(**fields)
        return cls.get_submission_storage().save(path, content, content_type, metadata=fields)

    @classmethod
    def get_submission_file_url(cls, submission: Any, expires_in: int = 3600) -> str:
        """A URL for direct access, where the storage can give one. Raises `Unsupported`."""
        path = paths.submission_path(**_submission_fields(submission))
        return cls.get_submission_storage().url(path, expires_in)

    @classmethod
    @contextmanager
    def temp_file_context(cls, filename: str = "work.tmp", audit_id: str | None = None) -> Iterator[str]:
        """A path on the scratch disk; what was saved there is deleted at the end, also after an error.

        A deletion that fails is logged and raised unless the block raised already; the file stays on the list of
        temporary files that are due for clean-up.
        """
        with WorkspaceManager(cls._disk_for).temp_file(filename, ident=audit_id) as path:
            yield path

    @classmethod
    def _disk_for(cls, purpose: str) -> Storage:
        return cls.get_scratch_storage() if purpose == "scratch" else cls.get_workspace_storage()

    # --- how an instance is made -----------------------------------------------------------------------------

    @classmethod
    def _create(cls, settings: Settings, disk: str) -> Storage:
        configured = settings.disks.get(disk)
        if settings.role is Role.WEB:
            # Whatever STORAGE_CONFIG says of it: the services tier decides where a disk is.
            if cls._transport is None:
                cls._transport = make_transport(settings)
            return RemoteStorageDriver(disk, cls._transport)
        if configured is not None and configured.driver == "remote":
            # The seeds: "Services server using remote storage - possible misconfiguration".
            observability.log_event("services_tier_uses_remote_storage", logging.WARNING, disk=disk)
            transport = Transport(configured.service_url, configured.api_key.reveal(), role=settings.role.value)
            return RemoteStorageDriver(disk, transport)
        return (cls._factory or _installed_factory())(settings, resolve_disk(settings, disk))

    @staticmethod
    def _for_purpose(purpose: str, disk: str) -> str:
        """The web tier asks for the purpose where its own name for the disk says no more than "remote"."""
        settings = StorageManager.settings()
        return purpose if settings.role is Role.WEB and disk in settings.disks else disk


def _installed_factory() -> Factory:
    for entry in entry_points(group="depot.gateway", name="storage"):
        factory: Factory = entry.load()
        return factory
    raise SettingsError("SERVER_ROLE: this installation holds no services tier; only the web role works here")


def _submission_fields(submission: Any) -> dict[str, str]:
    names = ("cohort", "protocol_year", "file_type", "filename")
    if isinstance(submission, Mapping):
        return {name: str(submission.get(name) or "") for name in names}
    return {name: str(getattr(submission, name, "") or "") for name in names}
