"""The services tier, put together: the one place that knows every driver, table and use-case.

Called by `app.py` and by the entry point `depot.gateway` (how StorageManager finds it in a developer's script). Nothing is
made at import time.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pynamodb.models import Model

from chalicelib import context, dynamo, observability
from chalicelib.auth import tables as auth_tables
from chalicelib.auth.sessions import Sessions
from chalicelib.config import Role, Settings
from chalicelib.errors import SecurityError, SettingsError
from chalicelib.storage.base import PartStorage, Storage
from chalicelib.storage.manager import StorageManager
from nas_gateway import drivers
from nas_gateway.api.guard import Gateway
from nas_gateway.files import tables as file_tables
from nas_gateway.files.access import Call
from nas_gateway.files.audit import Audit, LocalAuditTrail
from nas_gateway.files.catalog import LocalCatalog
from nas_gateway.files.registry import Registry
from nas_gateway.files.tracked import TrackedStorage
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import tables as ledger_tables
from nas_gateway.ledger.ledger import Ledger
from nas_gateway.uploads import tables as upload_tables
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.direct import Direct
from nas_gateway.uploads.local import LocalUploadSessions
from nas_gateway.uploads.service import Uploads
from nas_gateway.uploads.sweep import Sweep

if TYPE_CHECKING:
    from nas_gateway.ledger.checkpoints import Checkpointer
    from nas_gateway.ledger.signing import SigningKey
    from nas_gateway.ledger.stores import CheckpointStore

MODELS: list[type[Model]] = [*file_tables.MODELS, *upload_tables.MODELS, *ledger_tables.MODELS]


@lru_cache(maxsize=8)
def gateway(settings: Settings) -> Gateway:
    """The services tier for these settings; one a process and settings. Raises `SecurityError` in the web role."""
    if settings.role is Role.WEB:
        raise SecurityError("Web server must use remote storage for PHI operations")
    dynamo.bind(settings.table_prefix, settings.aws_region, *auth_tables.MODELS, *MODELS)
    ledger = Ledger(server_role=settings.role.value)
    ledger_tables.set_default(ledger)

    @cache
    def disk(name: str) -> PartStorage:
        return drivers.make(settings.disks[name])

    transfers = Transfers(
        disk,
        ledger,
        Registry(check_seconds=settings.integrity_period_days * 86400),
        disks=list(settings.disks),
        temporary_hours=settings.temporary_hours,
        max_bytes=settings.max_upload_bytes,
    )
    uploads = Uploads(transfers, lease=settings.lease_seconds, scratch_disk=settings.scratch_disk)
    reachable = [name for name, config in settings.disks.items() if config.public_endpoint]
    direct = Direct(uploads, reachable)
    return Gateway(settings, Sessions(settings), transfers, uploads, Concatenation(uploads), direct)


def storage_factory(settings: Settings, disk: str) -> Storage:
    """What StorageManager calls for a disk in the services and testing roles."""
    made = gateway(settings)
    return TrackedStorage(disk, made.transfers, lambda: current_call(made))


def local_catalog(settings: Settings) -> LocalCatalog:
    """The catalog of the testing role."""
    made = gateway(settings)
    return LocalCatalog(made.transfers, lambda: current_call(made))


def local_audit(settings: Settings) -> LocalAuditTrail:
    """The audit trail of the testing role."""
    made = gateway(settings)
    return LocalAuditTrail(Audit(made.transfers), lambda: current_call(made))


def local_uploads(settings: Settings) -> LocalUploadSessions:
    """The upload sessions of the testing role."""
    made = gateway(settings)
    return LocalUploadSessions(settings, made.uploads, made.direct, lambda: current_call(made))


def sweep(settings: Settings) -> Sweep:
    """The sweep over every disk, for `depot sweep` and the schedule."""
    made = gateway(settings)
    return Sweep(made.uploads, made.concatenation, list(settings.disks), grace=settings.sweep_grace_seconds)


def checkpoint_store(settings: Settings) -> CheckpointStore:
    """Where the ledger's checkpoints are kept. Raises `SettingsError` when the settings name no place."""
    from nas_gateway.ledger.stores import AppendedFile, LockedBucket

    place = settings.ledger_checkpoints
    if place is None:
        raise SettingsError("LEDGER_CHECKPOINT_BUCKET or LEDGER_CHECKPOINT_DIR required: where checkpoints are kept")
    if place.driver == "local":
        return AppendedFile(Path(place.root))
    from nas_gateway.drivers.s3_client import make_client

    return LockedBucket(make_client(place), place.bucket, settings.ledger_retention_days)


def signing_key(settings: Settings) -> SigningKey:
    """The key that signs checkpoints; read anew at each call. Development makes one where its file is missing.

    Raises `SettingsError`.
    """
    from nas_gateway.ledger import signing

    if text := settings.ledger_signing_key.reveal():
        return signing.SigningKey.parse(text, "LEDGER_SIGNING_KEY")
    if settings.ledger_signing_key_file:
        return signing.load(Path(settings.ledger_signing_key_file), make=not settings.production)
    raise SettingsError("LEDGER_SIGNING_KEY_FILE or LEDGER_SIGNING_KEY required: what signs the ledger's checkpoints")


def checkpointer(settings: Settings) -> Checkpointer:
    """What signs a checkpoint of the ledger: `run()`, for the schedule and `depot ledger checkpoint`."""
    from nas_gateway.ledger.checkpoints import Checkpointer

    bind_ledger(settings)
    return Checkpointer(checkpoint_store(settings), signing_key(settings))


def bind_ledger(settings: Settings) -> None:
    """Point the ledger's tables at the settings', for who only reads them. Raises `SecurityError` in the web role."""
    if settings.role is Role.WEB:
        raise SecurityError("Web server must use remote storage for PHI operations")
    dynamo.bind(settings.table_prefix, settings.aws_region, *ledger_tables.MODELS)


def current_call(made: Gateway) -> Call:
    """On whose behalf code runs that is handed no call: the signed-in user of this request, or the tier itself."""
    token = context.assertion.get()
    if token is None:
        return Call()
    return Call(made.sessions.resolve(token), observability.current_request_id())


def configure(settings: Settings) -> Gateway:
    """Wire the tier and StorageManager with it."""
    StorageManager.configure(settings, storage_factory)
    return gateway(settings)
