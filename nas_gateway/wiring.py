"""The services tier, put together: the one place that knows every driver, table and use-case.

Called by `app.py` and by the entry point `depot.gateway` (how StorageManager finds it in a developer's script). Nothing is
made at import time.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pynamodb.models import Model

from chalicelib import context, dynamo, observability
from chalicelib.auth import tables as auth_tables
from chalicelib.auth.rates import Rates
from chalicelib.auth.sessions import Sessions
from chalicelib.config import Role, Settings
from chalicelib.errors import LedgerUnavailable, SecurityError, SettingsError
from chalicelib.storage.base import PartStorage, Storage
from chalicelib.storage.manager import StorageManager
from nas_gateway import drivers
from nas_gateway.api.guard import Gateway
from nas_gateway.cleanup import tables as cleanup_tables
from nas_gateway.cleanup.activity import Readers
from nas_gateway.cleanup.applying import Applier
from nas_gateway.cleanup.backup import Backup
from nas_gateway.cleanup.guards import places_of
from nas_gateway.cleanup.holds import Holds
from nas_gateway.cleanup.items import Limits
from nas_gateway.cleanup.objects import UnknownObjects
from nas_gateway.cleanup.service import Cleanup
from nas_gateway.cleanup.tracked import TrackedFiles
from nas_gateway.files import tables as file_tables
from nas_gateway.files.access import Call
from nas_gateway.files.adoption import AdoptingLedger
from nas_gateway.files.published import Published
from nas_gateway.files.quotas import Quotas, Throttle
from nas_gateway.files.registry import Registry
from nas_gateway.files.transfers import Transfers
from nas_gateway.integrity import integrity as integrity_checks
from nas_gateway.integrity import tables as integrity_tables
from nas_gateway.integrity.integrity import Integrity
from nas_gateway.jobs import Deadline, standard
from nas_gateway.jobs import tables as job_tables
from nas_gateway.jobs.jobs import Jobs
from nas_gateway.jobs.runs import Lease
from nas_gateway.ledger import tables as ledger_tables
from nas_gateway.ledger.ledger import Ledger
from nas_gateway.people.people import People
from nas_gateway.reports import tables as report_tables
from nas_gateway.reports.reports import Reports
from nas_gateway.uploads import tables as upload_tables
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.direct import Direct
from nas_gateway.uploads.purge import Purge
from nas_gateway.uploads.service import Uploads
from nas_gateway.uploads.sweep import Sweep
from nas_gateway.workspace import Workspaces, WorkspaceStorage

if TYPE_CHECKING:
    from nas_gateway.ledger.checkpoints import Checkpointer
    from nas_gateway.ledger.signing import SigningKey
    from nas_gateway.ledger.stores import CheckpointStore

MODELS: list[type[Model]] = [
    *file_tables.MODELS,
    *cleanup_tables.MODELS,
    *upload_tables.MODELS,
    *ledger_tables.MODELS,
    *job_tables.MODELS,
    *report_tables.MODELS,
    *integrity_tables.MODELS,
]


@lru_cache(maxsize=8)
def gateway(settings: Settings) -> Gateway:
    """The services tier for these settings; one a process and settings. Raises `SecurityError` in the web role."""
    if settings.role is Role.WEB:
        raise SecurityError("Web server must use remote storage for PHI operations")
    dynamo.bind(settings.table_prefix, settings.aws_region, *auth_tables.MODELS, *MODELS)
    ledger = Ledger(server_role=settings.role.value)

    @cache
    def disk(name: str) -> PartStorage:
        return drivers.make(settings.disks[name])

    transfers = Transfers(
        disk,
        ledger,
        Registry(check_seconds=settings.integrity_period_days * 86400, quotas=Quotas.of(settings)),
        disks=list(settings.disks),
        temporary_hours=settings.temporary_hours,
        max_bytes=settings.max_upload_bytes,
        throttle=Throttle(
            Rates(settings),
            uploads_per_minute=settings.uploads_per_minute,
            denials_per_minute=settings.denials_per_minute,
        ),
    )
    ledger_tables.set_default(
        AdoptingLedger(
            ledger,
            transfers.registry,
            disk,
            workspace=settings.workspace_disk,
            scratch=settings.scratch_disk,
            disks=settings.disks,
            temporary_hours=settings.temporary_hours,
        )
    )
    uploads = Uploads(transfers, lease=settings.lease_seconds, scratch_disk=settings.scratch_disk)
    reachable = [name for name, config in settings.disks.items() if config.public_endpoint]
    direct = Direct(uploads, reachable)
    concatenation = Concatenation(uploads)
    sessions = Sessions(settings)
    return Gateway(
        settings,
        sessions,
        transfers,
        uploads,
        concatenation,
        direct,
        _jobs(settings),
        _published(settings, transfers),
        _cleanup(settings, transfers, uploads, concatenation),
        Holds(transfers),
        People(settings, ledger, transfers.access, sessions),
    )


def cleanup(settings: Settings) -> Cleanup:
    """The clean-up: `plan`, `apply`, `receipts`, and `job(deadline)` for the schedule."""
    return gateway(settings).cleanup


def _cleanup(settings: Settings, transfers: Transfers, uploads: Uploads, concatenation: Concatenation) -> Cleanup:
    """Over clocks that are asked through `transfers`, so that all of a process have the same."""

    def clock() -> float:
        return transfers.clock()

    def sweeper() -> Sweep:
        return Sweep(uploads, concatenation, list(settings.disks), grace=settings.sweep_grace_seconds)

    def key() -> SigningKey | None:
        signs = settings.ledger_signing_key.reveal() or settings.ledger_signing_key_file
        return signing_key(settings) if signs else None

    places, stale = places_of(settings), settings.lease_seconds + settings.sweep_grace_seconds
    tracked = TrackedFiles(transfers.registry, places, Readers(clock), clock=clock)
    objects = UnknownObjects(transfers.disk, places, hours=settings.temporary_hours, stale=stale, clock=clock)
    backup = None
    if settings.cleanup_backup_disk:
        backup = Backup(transfers, settings.cleanup_backup_disk, settings.cleanup_backup_hours)
    applier = Applier(transfers, tracked, objects, sweeper, key=key, backup=backup)
    limits = Limits(settings.cleanup_max_files, settings.cleanup_max_percent)
    return Cleanup(transfers, tracked, objects, sweeper, applier, limits)


def _published(settings: Settings, transfers: Transfers) -> Published:
    """The signed checkpoints, as far as the settings name a place for them and a key."""
    signs = bool(settings.ledger_signing_key.reveal() or settings.ledger_signing_key_file)
    return Published(
        transfers.access,
        cache(lambda: checkpoint_store(settings)) if settings.ledger_checkpoints else None,
        (lambda: signing_key(settings).public) if signs else None,
    )


def storage_factory(settings: Settings, disk: str) -> Storage:
    """What StorageManager calls for a disk in the services and testing roles."""
    made = gateway(settings)
    temporary = Workspaces(made.transfers, (settings.workspace_disk, settings.scratch_disk, settings.default_disk))

    def cleanup(call: Call, hours: float, dry_run: bool) -> dict[str, Any]:
        return made.cleanup.clean_up(call, hours=hours, dry_run=dry_run)

    return WorkspaceStorage(disk, made.transfers, lambda: current_call(made), temporary, cleanup)


def people(settings: Settings) -> People:
    """Users, cohorts and tokens, for the command line."""
    return gateway(settings).people


def sweep(settings: Settings) -> Sweep:
    """The sweep over every disk, for `depot sweep` and the schedule."""
    made = gateway(settings)
    return Sweep(made.uploads, made.concatenation, list(settings.disks), grace=settings.sweep_grace_seconds)


def integrity(settings: Settings) -> Integrity:
    """What reads stored files again: `job(deadline)` for the schedule, `verify(…)` for the command line and the API."""
    rate = integrity_checks.rate_of(settings.integrity_mib_per_second)
    return Integrity(gateway(settings).transfers, period_days=settings.integrity_period_days, rate=rate)


def reports(settings: Settings) -> Reports:
    """The storage report, and the job that counts for it, for `depot report` and the schedule."""
    made = gateway(settings)
    return Reports(made.transfers, list(settings.disks), lambda: [job.to_json() for job in made.jobs.listing(1)])


def jobs(settings: Settings) -> Jobs:
    """Every scheduled job, for the schedules, `depot jobs` and the internal API."""
    return gateway(settings).jobs


def _jobs(settings: Settings) -> Jobs:
    """What each job of `standard.PLANS` does. Everything is made when the job first runs."""

    @cache
    def store() -> CheckpointStore:
        return checkpoint_store(settings)

    def checkpoint(_: Deadline) -> Mapping[str, int]:
        from nas_gateway.ledger.checkpoints import Checkpointer

        signs = settings.ledger_signing_key or settings.ledger_signing_key_file
        wanted = bool(signs) and settings.ledger_checkpoints is not None
        return standard.signed(Checkpointer(store(), signing_key(settings)) if wanted else None)

    def cleaned(deadline: Deadline) -> Mapping[str, int]:
        try:
            return standard.cleaned(cleanup(settings), deadline)
        finally:
            with suppress(LedgerUnavailable):
                reports(settings).gauges()  # the alarms hear within the hour of what is still overdue

    def expiry(deadline: Deadline) -> Mapping[str, int]:
        made = gateway(settings)
        purge = Purge(made.transfers.registry, made.transfers.clock)
        counts = standard.expired(purge, made.jobs.purge, deadline)
        return {**counts, "break_glass_ended": made.people.glass.end_lapsed()}

    work = {
        "cleanup": cleaned,
        "sweep": lambda deadline: standard.swept(sweep(settings), deadline),
        "checkpoint": checkpoint,
        "report": lambda deadline: reports(settings).job(deadline),
        "expiry": expiry,
        "integrity": lambda deadline: standard.checked(integrity(settings), deadline),
    }
    return Jobs(standard.standard(work), Lease(settings.lease_seconds, settings.sweep_grace_seconds))


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
