"""What each process of the local stack gets as its environment. Pure functions; imported by infra.local only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DISKS = ("submissions", "workspace", "scratch")

# Names that decide what a process can reach. They are never inherited: each process gets exactly its own.
_OWN_PREFIXES = ("AWS_", "S3_", "NAS", "LEDGER_")
_OWN_NAMES = frozenset(
    {
        "SERVER_ROLE", "SERVICES_URL", "STORAGE_CONFIG", "INTERNAL_API_KEY", "SESSION_SECRET", "LEDGER_TABLE_PREFIX",
        "DEPOT_URL", "DEPOT_NAS_DIR", "DEPOT_ENV", "SERVICES",
        "DEFAULT_STORAGE_DISK", "WORKSPACE_STORAGE_DISK", "SUBMISSION_STORAGE_DISK", "SCRATCH_STORAGE_DISK",
        "PYTHONSTARTUP", "PYTHONPATH", "TMPDIR", "GATEWAY_PORT", "EDGE_PORT", "LOG_LEVEL",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class S3Store:
    """The S3 store behind `--nas s3`. Empty keys leave the choice to boto3's own search.

    `public_endpoint` is where clients reach it by themselves; without it nothing is presigned.
    """

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = "depot"
    region: str = "us-east-1"
    public_endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the three processes listen."""

    host: str
    web_port: int
    services_port: int
    aws_port: int

    @property
    def web_url(self) -> str:
        return f"http://{_bracketed(self.host)}:{self.web_port}"

    @property
    def services_url(self) -> str:
        return f"http://{_bracketed(self.host)}:{self.services_port}"

    @property
    def aws_endpoint(self) -> str:
        # Always loopback: it checks no credentials.
        return f"http://127.0.0.1:{self.aws_port}"


def _bracketed(host: str) -> str:
    # 0.0.0.0 is where a server listens, not where a client goes.
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What every child may see of our own environment: all but the names that decide what it can reach."""
    return {
        name: value for name, value in environ.items() if name not in _OWN_NAMES and not name.startswith(_OWN_PREFIXES)
    }


def storage_config(nas_dir: Path, store: S3Store | None) -> str:
    """STORAGE_CONFIG with the three disks: folders of the NAS folder, or prefixes of one bucket."""
    disks: dict[str, dict[str, str]] = {}
    for name in DISKS:
        if store is None:
            disks[name] = {"driver": "local", "root": str(nas_dir / name)}
        else:
            disks[name] = {"driver": "s3", "bucket": store.bucket, "prefix": name}
    return json.dumps({"disks": disks})


def shared(where: Addresses, secrets: Mapping[str, str], prefix: str) -> dict[str, str]:
    """What both tiers get: the tables, the tiers' key, the session secret."""
    return {
        "AWS_ENDPOINT_URL": where.aws_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "LEDGER_TABLE_PREFIX": prefix,
        "INTERNAL_API_KEY": secrets["INTERNAL_API_KEY"],
        "SESSION_SECRET": secrets["SESSION_SECRET"],
    }


def web(where: Addresses, secrets: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The web tier: nothing in here names the NAS."""
    return {**shared(where, secrets, prefix), "SERVER_ROLE": "web", "SERVICES_URL": where.services_url}


def services(
    where: Addresses, secrets: Mapping[str, str], prefix: str, nas_dir: Path, store: S3Store | None
) -> dict[str, str]:
    env = {
        **shared(where, secrets, prefix),
        "SERVER_ROLE": "services",
        "STORAGE_CONFIG": storage_config(nas_dir, store),
    }
    if store is not None:
        env |= {"S3_ENDPOINT": store.endpoint, "S3_REGION": store.region, "S3_BUCKET": store.bucket}
        env |= {"S3_ACCESS_KEY": store.access_key, "S3_SECRET_KEY": store.secret_key}
        env |= {"NAS_PUBLIC_ENDPOINT": store.public_endpoint} if store.public_endpoint else {}
    return env


def ledger(folder: Path) -> dict[str, str]:
    """Where the services tier keeps the ledger's signing key (made at its first use) and the signed checkpoints."""
    return {
        "LEDGER_SIGNING_KEY_FILE": str(folder / "signing-key.pem"),
        "LEDGER_CHECKPOINT_DIR": str(folder / "checkpoints"),
    }


def exported(services_env: Mapping[str, str], where: Addresses) -> dict[str, str]:
    """`env` of the ready file: what other `depot` commands need to talk to this stack."""
    return {**services_env, "SERVICES_URL": where.services_url, "DEPOT_URL": where.web_url}


def embedded_aws(where: Addresses, folder: Path) -> dict[str, str]:
    """Settings of MiniStack (names as its 1.4 sources read them). It keeps its state when it is stopped by SIGTERM."""
    return {
        "GATEWAY_PORT": str(where.aws_port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "SERVICES": "dynamodb,s3,sts",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(folder / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder / "s3"),
        "LOG_LEVEL": "WARNING",
        # Listeners and helpers that we do not use and that would bind all interfaces or look for containers to stop.
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent/docker.sock",
    }
