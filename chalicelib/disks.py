"""Disks: what STORAGE_CONFIG says of each, checked. Parsed as a part of `config.Settings`, whose module alone imports this.

A bad entry raises `SettingsError` with one line that names the disk and the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from chalicelib.errors import SettingsError


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


class DiskParser:
    """The part of the parser of settings that reads disks."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env, self.warnings = env, list[str]()

    def url(self, name: str) -> str | None:
        value = self.env.get(name, "").strip()
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"{name} must be a URL such as http://host:port, not {value!r}")
        return value.rstrip("/")

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
