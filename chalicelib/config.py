"""Settings: every environment name Depot reads, parsed once, frozen, with secrets hidden in repr.

`Settings.from_env(os.environ)` is called at entry points only (app.py, the CLI, the host); everything else is handed the
object. A bad or missing setting raises `SettingsError` with one line that names the variable and what it should be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from chalicelib.disks import DiskConfig, DiskParser, Role, Secret
from chalicelib.errors import SettingsError
from chalicelib.limits import (
    BODY_STALL_SECONDS,
    CLEANUP_MAX_FILES,
    CLEANUP_MAX_PERCENT,
    HEADER_TIMEOUT_SECONDS,
    INTEGRITY_MIB_PER_SECOND,
    INTEGRITY_PERIOD_DAYS,
    LEASE_SECONDS,
    LEDGER_RETENTION_DAYS,
    MAX_OBJECT_BYTES,
    SWEEP_GRACE_SECONDS,
)

__all__ = ["DiskConfig", "Network", "OidcSettings", "Role", "Secret", "Settings"]

# NIST SP 800-107 r1, 5.3.2: an HMAC key should be at least as long as the digest; the seeds ask for 32 characters.
MIN_SECRET_CHARS = 32

Network = IPv4Network | IPv6Network

_ORIGIN = re.compile(r"https?://([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?")
_USUAL_PORTS = {"http": ":80", "https": ":443"}


# Asymmetric ones only (RFC 8725, 3.1): whoever can check a signature must not be able to make one.
OIDC_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """The issuer that people may sign in through, pinned. `redirect_url` is our own `/session/oidc/callback`, as it sees it."""

    issuer: str
    client_id: str
    client_secret: Secret
    redirect_url: str
    scopes: str = "openid email"
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    username_claim: str = "email"
    role_claim: str = ""
    cohort_claim: str = ""
    auto_create: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """All settings of one process. Times in seconds, sizes in bytes. Compared and hashed by identity."""

    role: Role
    production: bool
    internal_api_keys: tuple[Secret, ...]
    services_url: str
    session_secret: Secret
    disks: Mapping[str, DiskConfig]
    default_disk: str
    workspace_disk: str
    submission_disk: str
    scratch_disk: str
    table_prefix: str = "depot"
    aws_endpoint_url: str | None = None
    aws_region: str = "us-east-1"
    nas_public_endpoint: str | None = None
    header_timeout: float = HEADER_TIMEOUT_SECONDS
    body_stall_timeout: float = BODY_STALL_SECONDS
    drain_timeout: float = 30.0
    lease_seconds: float = LEASE_SECONDS
    sweep_grace_seconds: float = SWEEP_GRACE_SECONDS
    max_upload_bytes: int = MAX_OBJECT_BYTES
    session_idle_seconds: int = 30 * 60
    session_absolute_seconds: int = 12 * 60 * 60
    temporary_hours: int = 4
    services_timeout: float = 120.0
    services_ca_bundle: str | None = None
    cors_origins: frozenset[str] = frozenset()
    ledger_signing_key: Secret = field(default_factory=lambda: Secret(""))
    ledger_signing_key_file: str = ""
    ledger_checkpoints: DiskConfig | None = None
    ledger_retention_days: int = LEDGER_RETENTION_DAYS
    integrity_period_days: float = INTEGRITY_PERIOD_DAYS
    integrity_mib_per_second: float = INTEGRITY_MIB_PER_SECOND
    cleanup_max_files: int = CLEANUP_MAX_FILES
    cleanup_max_percent: float = CLEANUP_MAX_PERCENT
    cleanup_backup_disk: str | None = None
    cleanup_backup_hours: float = 7 * 24
    schedules: bool = False
    metrics_token: Secret = field(default_factory=lambda: Secret(""))
    sign_in_failures: int = 100
    trusted_proxies: tuple[Network, ...] = ()
    quota_cohort_bytes: int | None = None
    quota_cohort_files: int | None = None
    quota_cohort_uploads: int | None = None
    quota_user_bytes: int | None = None
    quota_user_files: int | None = None
    quota_user_uploads: int | None = None
    uploads_per_minute: int | None = None
    denials_per_minute: int = 60
    oidc: OidcSettings | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Parse and check. Raises `SettingsError`, whose message is the one line to print."""
        return _Parser(env).settings()


class _Parser(DiskParser):
    def settings(self) -> Settings:
        role = self.role()
        production = self.choice("DEPOT_ENV", "development", ("development", "production")) == "production"
        disks = self.disks(role)
        self.check_public_endpoints(disks, production)
        keys = self.api_keys(role, production)
        names: dict[str, Any] = {**self.disk_names(role, disks), **self.ledger(role, production)}
        return Settings(
            role=role,
            production=production,
            internal_api_keys=keys,
            services_url=self.services_url(role, production),
            session_secret=self.session_secret(role, production),
            disks=disks,
            **names,
            table_prefix=self.env.get("LEDGER_TABLE_PREFIX", "depot"),
            aws_endpoint_url=self.url("AWS_ENDPOINT_URL_DYNAMODB") or self.url("AWS_ENDPOINT_URL"),
            aws_region=self.env.get("AWS_REGION") or self.env.get("AWS_DEFAULT_REGION") or "us-east-1",
            nas_public_endpoint=self.url("NAS_PUBLIC_ENDPOINT"),
            header_timeout=self.number("DEPOT_HEADER_TIMEOUT_SECONDS", HEADER_TIMEOUT_SECONDS),
            body_stall_timeout=self.number("DEPOT_BODY_STALL_SECONDS", BODY_STALL_SECONDS),
            drain_timeout=self.number("DEPOT_DRAIN_SECONDS", 30.0),
            lease_seconds=self.number("DEPOT_LEASE_SECONDS", LEASE_SECONDS),
            sweep_grace_seconds=self.number("DEPOT_SWEEP_GRACE_SECONDS", SWEEP_GRACE_SECONDS),
            max_upload_bytes=int(self.number("MAX_UPLOAD_BYTES", MAX_OBJECT_BYTES)),
            session_idle_seconds=int(self.number("SESSION_IDLE_SECONDS", 30 * 60)),
            session_absolute_seconds=int(self.number("SESSION_ABSOLUTE_SECONDS", 12 * 60 * 60)),
            temporary_hours=int(self.number("TEMPORARY_FILE_HOURS", 4)),
            services_ca_bundle=self.env.get("SERVICES_CA_BUNDLE") or None,
            services_timeout=self.number("SERVICES_TIMEOUT_SECONDS", 120.0),
            cors_origins=self.origins("DEPOT_CORS_ORIGINS"),
            **self.lifecycle(role, disks),
            metrics_token=self.metrics_token(production),
            **self.limits(),
            oidc=self.oidc(role, production),
            trusted_proxies=self.networks("TRUSTED_PROXIES", "127.0.0.1,::1"),
            warnings=tuple(self.warnings),
        )

    # --- single values ---------------------------------------------------------------------------------------

    def role(self) -> Role:
        return Role(self.choice("SERVER_ROLE", None, tuple(Role)))

    def choice(self, name: str, default: str | None, allowed: tuple[str, ...]) -> str:
        value = self.env.get(name, "").strip().lower() or default
        if value not in allowed:
            raise SettingsError(f"{name} must be one of {', '.join(allowed)}" + (f", not {value!r}" if value else ""))
        return value

    def number(self, name: str, default: float) -> float:
        text = self.env.get(name, "").strip()
        try:
            value = float(text) if text else float(default)
        except ValueError:
            value = -1
        if not 0 < value < float("inf"):
            raise SettingsError(f"{name} must be a number above 0, not {text!r}")
        return value

    def origins(self, name: str) -> frozenset[str]:
        """Origins as browsers write them (RFC 6454, section 6.2): scheme, host, and the port unless it is the usual one."""
        values = {value.strip() for value in self.env.get(name, "").split(",")} - {""}
        for value in values:
            if not _ORIGIN.fullmatch(value) or value.endswith(_USUAL_PORTS[value.partition(":")[0]]):
                raise SettingsError(
                    f"{name} lists origins such as https://portal.example, comma-separated, not {value!r}"
                )
        return frozenset(values)

    def oidc(self, role: Role, production: bool) -> OidcSettings | None:
        """The web tier's alone. All of issuer, client and redirect, or none."""
        issuer, client = self.env.get("OIDC_ISSUER", "").strip(), self.env.get("OIDC_CLIENT_ID", "").strip()
        redirect = self.env.get("OIDC_REDIRECT_URL", "").strip()
        if role is Role.SERVICES or not issuer:
            return None
        for name, value in (("OIDC_CLIENT_ID", client), ("OIDC_REDIRECT_URL", redirect)):
            if not value:
                raise SettingsError(f"{name} required where OIDC_ISSUER is set")
        for name in ("OIDC_ISSUER", "OIDC_REDIRECT_URL"):
            if not str(self.url(name)).startswith("https://") and production:
                raise SettingsError(f"{name} must begin with https:// in production")
        if not redirect.endswith("/session/oidc/callback"):
            raise SettingsError("OIDC_REDIRECT_URL must end with /session/oidc/callback")
        algorithms = tuple(part for part in re.split(r"[ ,]+", self.env.get("OIDC_ALGORITHMS", "").strip()) if part)
        if unknown := set(algorithms) - set(OIDC_ALGORITHMS):
            raise SettingsError(f"OIDC_ALGORITHMS may hold {', '.join(OIDC_ALGORITHMS)}, not {sorted(unknown)[0]!r}")
        scopes = self.env.get("OIDC_SCOPES", "").strip() or "openid email"
        if "openid" not in scopes.split():
            raise SettingsError("OIDC_SCOPES must hold openid")
        return OidcSettings(
            issuer,
            client,
            Secret(self.env.get("OIDC_CLIENT_SECRET", "")),
            redirect,
            scopes,
            algorithms or ("RS256", "ES256"),
            self.env.get("OIDC_USERNAME_CLAIM", "").strip() or "email",
            self.env.get("OIDC_ROLE_CLAIM", "").strip(),
            self.env.get("OIDC_COHORT_CLAIM", "").strip(),
            self.choice("OIDC_AUTO_CREATE", "off", ("on", "off")) == "on",
        )

    def networks(self, name: str, default: str) -> tuple[Network, ...]:
        """Addresses and networks, comma-separated; "none" for an empty list."""
        text = self.env.get(name, "").strip() or default
        try:
            return () if text == "none" else tuple(ip_network(part.strip()) for part in text.split(","))
        except ValueError:
            raise SettingsError(f"{name} lists addresses and networks such as 10.0.0.0/8, comma-separated") from None

    def limits(self) -> dict[str, Any]:
        """Rates and quotas. A quota that is not set does not hold, and nothing is counted for it."""

        def quota(name: str) -> int | None:
            return int(self.number(name, 1)) if self.env.get(name, "").strip() else None

        return {
            "sign_in_failures": int(self.number("SIGN_IN_FAILURES", 100)),
            "denials_per_minute": int(self.number("DENIALS_PER_MINUTE", 60)),
            "uploads_per_minute": quota("UPLOADS_PER_MINUTE"),
            "quota_cohort_bytes": quota("QUOTA_COHORT_BYTES"),
            "quota_cohort_files": quota("QUOTA_COHORT_FILES"),
            "quota_cohort_uploads": quota("QUOTA_COHORT_UPLOADS"),
            "quota_user_bytes": quota("QUOTA_USER_BYTES"),
            "quota_user_files": quota("QUOTA_USER_FILES"),
            "quota_user_uploads": quota("QUOTA_USER_UPLOADS"),
        }

    # --- what depends on the role ----------------------------------------------------------------------------

    def api_keys(self, role: Role, production: bool) -> tuple[Secret, ...]:
        keys = [key.strip() for key in self.env.get("INTERNAL_API_KEY", "").split(",")]
        keys = [key for key in keys if key]
        if not keys:
            raise SettingsError(f"INTERNAL_API_KEY required for {role} server role")
        if len(keys) > 2:
            raise SettingsError("INTERNAL_API_KEY holds at most two keys, comma-separated (the new one first)")
        for key in keys:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise SettingsError("INTERNAL_API_KEY must be printable ASCII without spaces")
        if min(map(len, keys)) < MIN_SECRET_CHARS:
            self.weak(f"INTERNAL_API_KEY should be at least {MIN_SECRET_CHARS} characters", production)
        return tuple(map(Secret, keys))

    def session_secret(self, role: Role, production: bool) -> Secret:
        value = self.env.get("SESSION_SECRET", "")
        if not value and production:
            raise SettingsError(f"SESSION_SECRET required for {role} server role in production")
        if not value:
            # Without one, development derives it from the tiers' shared key, so that both agree.
            return Secret("development:" + self.env.get("INTERNAL_API_KEY", "").split(",")[0].strip())
        if len(value) < MIN_SECRET_CHARS:
            self.weak(f"SESSION_SECRET should be at least {MIN_SECRET_CHARS} characters", production)
        return Secret(value)

    def ledger(self, role: Role, production: bool) -> dict[str, Any]:
        """The signing key and the store of checkpoints: the services tier's. The web tier must not have them."""
        if role is Role.WEB:
            return {}
        key, file = self.env.get("LEDGER_SIGNING_KEY", "").strip(), self.env.get("LEDGER_SIGNING_KEY_FILE", "").strip()
        bucket = self.env.get("LEDGER_CHECKPOINT_BUCKET", "").strip()
        folder = self.env.get("LEDGER_CHECKPOINT_DIR", "").strip()
        for one, other, names in (
            (key, file, "LEDGER_SIGNING_KEY and LEDGER_SIGNING_KEY_FILE"),
            (bucket, folder, "LEDGER_CHECKPOINT_BUCKET and LEDGER_CHECKPOINT_DIR"),
        ):
            if one and other:
                raise SettingsError(f"{names} exclude each other: set one")
        for name, path in (("LEDGER_SIGNING_KEY_FILE", file), ("LEDGER_CHECKPOINT_DIR", folder)):
            if path and not path.startswith("/"):
                raise SettingsError(f"{name} must be an absolute path")
        if production and not ((key or file) and (bucket or folder)):
            self.warnings.append(
                "The ledger gets no signed checkpoints: set LEDGER_SIGNING_KEY_FILE (or LEDGER_SIGNING_KEY), and "
                "LEDGER_CHECKPOINT_BUCKET or LEDGER_CHECKPOINT_DIR"
            )
        store = None
        if bucket:
            store = self.disk("ledger-checkpoints", {"driver": "s3", "bucket": bucket, "public_endpoint": ""})
        elif folder:
            store = DiskConfig("ledger-checkpoints", "local", root=folder.rstrip("/"))
        return {
            "ledger_signing_key": Secret(key),
            "ledger_signing_key_file": file,
            "ledger_checkpoints": store,
            "ledger_retention_days": int(self.number("LEDGER_CHECKPOINT_DAYS", LEDGER_RETENTION_DAYS)),
        }

    def lifecycle(self, role: Role, disks: Mapping[str, DiskConfig]) -> dict[str, Any]:
        """What the scheduled jobs go by. They are fired where the services tier runs as a host, unless told otherwise."""
        backup = self.env.get("CLEANUP_BACKUP_DISK", "").strip() or None
        if backup and role is not Role.WEB and backup not in disks:
            raise SettingsError(f"CLEANUP_BACKUP_DISK names {backup!r}, which is no disk of STORAGE_CONFIG")
        percent = self.number("CLEANUP_MAX_PERCENT", CLEANUP_MAX_PERCENT)
        if percent > 100:
            raise SettingsError("CLEANUP_MAX_PERCENT must be a number above 0 and at most 100")
        usual = "on" if role is Role.SERVICES else "off"
        return {
            "integrity_period_days": self.number("INTEGRITY_PERIOD_DAYS", INTEGRITY_PERIOD_DAYS),
            "integrity_mib_per_second": self.number("INTEGRITY_MIB_PER_SECOND", INTEGRITY_MIB_PER_SECOND),
            "cleanup_max_files": int(self.number("CLEANUP_MAX_FILES", CLEANUP_MAX_FILES)),
            "cleanup_max_percent": percent,
            "cleanup_backup_disk": backup,
            "cleanup_backup_hours": self.number("CLEANUP_BACKUP_HOURS", 7 * 24),
            "schedules": self.choice("DEPOT_SCHEDULES", usual, ("on", "off")) == "on",
        }

    def metrics_token(self, production: bool) -> Secret:
        """Without one, `/metrics` is not there."""
        value = self.env.get("METRICS_TOKEN", "").strip()
        if value and len(value) < MIN_SECRET_CHARS:
            self.weak(f"METRICS_TOKEN should be at least {MIN_SECRET_CHARS} characters", production)
        return Secret(value)

    def weak(self, line: str, production: bool) -> None:
        if production:
            raise SettingsError(line.replace(" should be ", " must be ") + " in production")
        self.warnings.append(line)

    def services_url(self, role: Role, production: bool) -> str:
        value = self.url("SERVICES_URL")
        if role is not Role.WEB:
            return value or ""
        if value is None:
            raise SettingsError("SERVICES_URL required for web server role (such as https://services-host:8001)")
        if not value.startswith("https://"):
            if production:
                raise SettingsError("SERVICES_URL must begin with https:// in production")
            self.warnings.append("SERVICES_URL uses HTTP: fine on one machine, refused in production")
        return value
