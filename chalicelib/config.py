"""Settings: every environment name Depot reads, parsed once, frozen, with secrets hidden in repr.

`Settings.from_env(os.environ)` is called at entry points only (app.py, the CLI, the host); everything else is handed the
object. A bad or missing setting raises `SettingsError` with one line that names the variable and what it should be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from chalicelib.errors import SettingsError
from chalicelib.limits import (
    BODY_STALL_SECONDS,
    HEADER_TIMEOUT_SECONDS,
    LEASE_SECONDS,
    LEDGER_RETENTION_DAYS,
    MAX_OBJECT_BYTES,
    SWEEP_GRACE_SECONDS,
)

# NIST SP 800-107 r1, 5.3.2: an HMAC key should be at least as long as the digest; the seeds ask for 32 characters.
MIN_SECRET_CHARS = 32

_ORIGIN = re.compile(r"https?://([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?")
_USUAL_PORTS = {"http": ":80", "https": ":443"}


class Role(StrEnum):
    """Which tier this process is. `testing` is both in one process."""

    WEB = "web"
    SERVICES = "services"
    TESTING = "testing"


class Secret:
    """A string that does not show in repr, str, logs or tracebacks. `.reveal()` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """One disk of STORAGE_CONFIG, with the seeds' keys. Which fields count depends on `driver`.

    local: `root`. s3: `bucket`, `endpoint`, `access_key`, `secret_key`, `region`, `prefix` (key prefix, for several disks
    in one bucket), `public_endpoint` (where clients reach the store; without it nothing is presigned), `checksums`
    (`when_required` | `when_supported`, boto3's request_checksum_calculation), `concurrency`
    (parts in flight an upload). remote: `service_url`, `api_key`. memory: nothing.
    """

    name: str
    driver: str
    root: str = ""
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""
    public_endpoint: str = ""
    region: str = "us-east-1"
    access_key: Secret = field(default_factory=lambda: Secret(""))
    secret_key: Secret = field(default_factory=lambda: Secret(""))
    checksums: str = "when_required"
    concurrency: int = 4
    service_url: str = ""
    api_key: Secret = field(default_factory=lambda: Secret(""))


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
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Parse and check. Raises `SettingsError`, whose message is the one line to print."""
        return _Parser(env).settings()


class _Parser:
    def __init__(self, env: Mapping[str, str]) -> None:
        self.env, self.warnings = env, list[str]()

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

    def url(self, name: str) -> str | None:
        value = self.env.get(name, "").strip()
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"{name} must be a URL such as http://host:port, not {value!r}")
        return value.rstrip("/")

    def origins(self, name: str) -> frozenset[str]:
        """Origins as browsers write them (RFC 6454, section 6.2): scheme, host, and the port unless it is the usual one."""
        values = {value.strip() for value in self.env.get(name, "").split(",")} - {""}
        for value in values:
            if not _ORIGIN.fullmatch(value) or value.endswith(_USUAL_PORTS[value.partition(":")[0]]):
                raise SettingsError(
                    f"{name} lists origins such as https://portal.example, comma-separated, not {value!r}"
                )
        return frozenset(values)

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

    # --- disks -----------------------------------------------------------------------------------------------

    def disks(self, role: Role) -> dict[str, DiskConfig]:
        text = self.env.get("STORAGE_CONFIG", "").strip()
        if text:
            return self.configured_disks(text)
        if role is Role.WEB:
            return {}
        nas = self.env.get("NAS_WORKSPACE_PATH", "").rstrip("/")
        if nas:
            return {
                name: DiskConfig(name, "local", root=f"{nas}/{name}")
                for name in ("submissions", "workspace", "scratch")
            }
        if role is Role.TESTING:
            return {name: DiskConfig(name, "memory") for name in ("submissions", "workspace", "scratch")}
        raise SettingsError("STORAGE_CONFIG or NAS_WORKSPACE_PATH required for services server role")

    @staticmethod
    def check_public_endpoints(disks: Mapping[str, DiskConfig], production: bool) -> None:
        for disk in disks.values():
            if production and disk.public_endpoint and not disk.public_endpoint.startswith("https://"):
                raise SettingsError(
                    f"NAS_PUBLIC_ENDPOINT (or public_endpoint of disk {disk.name!r}) must begin with https:// in production"
                )

    def configured_disks(self, text: str) -> dict[str, DiskConfig]:
        try:
            parsed = json.loads(text)
        except ValueError as error:
            raise SettingsError(f"STORAGE_CONFIG is not JSON: {error}") from None
        disks = parsed.get("disks") if isinstance(parsed, dict) else None
        if not isinstance(disks, dict) or not disks:
            raise SettingsError(
                'STORAGE_CONFIG must be JSON of the form {"disks": {"workspace": {"driver": "local", …}}}'
            )
        made = {name: self.disk(name, value) for name, value in disks.items()}
        self.check_apart(made)
        return made

    @staticmethod
    def check_apart(disks: Mapping[str, DiskConfig]) -> None:
        """One disk must not lie inside another: it would list the other's files, and what lies there unfinished."""
        for inner in disks.values():
            for outer in disks.values():
                same = (inner.driver, inner.endpoint, inner.bucket) == (outer.driver, outer.endpoint, outer.bucket)
                at, root = f"{inner.prefix or inner.root}/", f"{outer.prefix or outer.root}/".lstrip("/")
                inside = at.lstrip("/").startswith(root) and at.lstrip("/") != root
                if inner.name != outer.name and inner.driver in ("s3", "local") and same and inside:
                    raise SettingsError(
                        f"STORAGE_CONFIG disk {inner.name!r} lies inside disk {outer.name!r}: give each a folder or "
                        "prefix of its own"
                    )

    def disk(self, name: str, value: Any) -> DiskConfig:
        where = f"STORAGE_CONFIG disk {name!r}"
        if not isinstance(value, dict) or not all(isinstance(item, (str, int)) for item in value.values()):
            raise SettingsError(f"{where} must be an object of strings")
        driver = value.get("driver")
        allowed = {
            "local": {"root"},
            "s3": {
                "bucket", "prefix", "endpoint", "public_endpoint", "region", "access_key", "secret_key", "checksums",
                "concurrency",
            },
            "remote": {"service_url", "api_key"},
            "memory": set[str](),
        }  # fmt: skip
        if driver not in allowed:
            raise SettingsError(f"{where}: driver must be one of {', '.join(allowed)}")
        unknown = set(value) - allowed[driver] - {"driver"}
        if unknown:
            raise SettingsError(f"{where}: unknown key {sorted(unknown)[0]!r} for driver {driver}")
        if driver == "local" and not str(value.get("root", "")).startswith("/"):
            raise SettingsError(f"{where}: root must be an absolute path")
        if driver == "s3" and not value.get("bucket"):
            raise SettingsError(f"{where}: bucket is required")
        return DiskConfig(
            name,
            driver,
            root=str(value.get("root", "")).rstrip("/"),
            bucket=str(value.get("bucket", "")),
            prefix=str(value.get("prefix", "")).strip("/"),
            endpoint=str(value.get("endpoint") or self.url("S3_ENDPOINT") or "").rstrip("/"),
            public_endpoint=self.public_endpoint(where, value) if driver == "s3" else "",
            region=str(value.get("region") or self.env.get("S3_REGION") or "us-east-1"),
            access_key=Secret(str(value.get("access_key") or self.env.get("S3_ACCESS_KEY", ""))),
            secret_key=Secret(str(value.get("secret_key") or self.env.get("S3_SECRET_KEY", ""))),
            checksums=self.checksums(where, value),
            concurrency=self.concurrency(where, value),
            service_url=str(value.get("service_url") or self.env.get("SERVICES_URL", "")).rstrip("/"),
            api_key=Secret(str(value.get("api_key") or self.env.get("INTERNAL_API_KEY", "").split(",")[0].strip())),
        )

    def public_endpoint(self, where: str, value: dict[str, Any]) -> str:
        """The disk's own, which may be "" (off for this disk), or NAS_PUBLIC_ENDPOINT."""
        name = f"{where}: public_endpoint" if "public_endpoint" in value else "NAS_PUBLIC_ENDPOINT"
        text = str(value.get("public_endpoint", self.env.get("NAS_PUBLIC_ENDPOINT", ""))).strip().rstrip("/")
        parts = urlsplit(text)
        # The path is signed: one that a proxy takes away or adds would make every signature wrong.
        if text and (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or "@" in parts.netloc
            or text != f"{parts.scheme}://{parts.netloc}"
        ):
            raise SettingsError(f"{name} must be scheme, host and port alone, such as https://nas.example.org")
        return text

    @staticmethod
    def checksums(where: str, value: dict[str, Any]) -> str:
        mode = str(value.get("checksums", "when_required"))
        if mode not in ("when_required", "when_supported"):
            raise SettingsError(f"{where}: checksums must be when_required or when_supported")
        return mode

    @staticmethod
    def concurrency(where: str, value: dict[str, Any]) -> int:
        text = str(value.get("concurrency", 4))
        if not text.isdigit() or not 1 <= int(text) <= 16:
            raise SettingsError(f"{where}: concurrency must be 1 to 16")
        return int(text)

    def disk_names(self, role: Role, disks: Mapping[str, DiskConfig]) -> dict[str, str]:
        def named(variable: str, *usual: str) -> str:
            name = self.env.get(variable, "").strip()
            if name:
                # The web tier need not know the disks: the services tier refuses a name it does not have.
                if disks and name not in disks and role is not Role.WEB:
                    raise SettingsError(f"{variable} names {name!r}, which is no disk of STORAGE_CONFIG")
                return name
            for candidate in usual:
                if candidate in disks or not disks:
                    return candidate
            return next(iter(disks))

        workspace = named("WORKSPACE_STORAGE_DISK", "workspace")
        return {
            "workspace_disk": workspace,
            "default_disk": named("DEFAULT_STORAGE_DISK", workspace),
            "submission_disk": named("SUBMISSION_STORAGE_DISK", "submissions", "nas_s3"),
            "scratch_disk": named("SCRATCH_STORAGE_DISK", "scratch", workspace),
        }
