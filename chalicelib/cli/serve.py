"""`depot serve`: one tier, against whatever the environment names."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import MutableMapping
from typing import Any

from chalicelib.cli.options import port as port_number
from chalicelib.errors import SettingsError

# What only the services tier may know. The web tier's process forgets them before it imports anything that could look.
NAS_NAMES = ("STORAGE_CONFIG", "NAS_WORKSPACE_PATH", "NAS_PUBLIC_ENDPOINT", "DEPOT_NAS_DIR")
NAS_PREFIXES = ("S3_", "LEDGER_SIGNING_", "LEDGER_CHECKPOINT_")
DEFAULT_PORTS = {"web": 8000, "services": 8001, "testing": 8000}


def register(commands: Any) -> None:
    command = commands.add_parser(
        "serve",
        help="run one tier",
        description="Run one tier against the settings in the environment (see docs; 'depot env' prints those of a running "
        "'depot up'). The web tier gives up the right to write files before it listens.",
    )
    command.add_argument("--role", choices=tuple(DEFAULT_PORTS), help="default: SERVER_ROLE")
    command.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1")
    command.add_argument("--port", type=port_number, metavar="PORT", help="default 8000, for services 8001")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    role = prepare(arguments.role, os.environ)
    from chalicelib.config import Settings

    settings = Settings.from_env(os.environ)
    for warning in settings.warnings:
        print(f"depot: warning: {warning}", file=sys.stderr, flush=True)

    # Imported only now: app.py registers the blueprints of the role that SERVER_ROLE names.
    from app import app
    from chalicelib.hosting.server import serve

    port = DEFAULT_PORTS[role] if arguments.port is None else arguments.port

    def announce(bound: int) -> None:
        print(f"depot: {role} tier listens on http://{arguments.host}:{bound}", flush=True)

    try:
        serve(app, settings, arguments.host, port, sandbox=role == "web", on_ready=announce)
    except OSError as error:
        raise SettingsError(
            f"The {role} tier cannot listen on {arguments.host} port {port} ({error.strerror}): "
            "choose another with --host and --port"
        ) from None
    return 0


def prepare(role: str | None, environ: MutableMapping[str, str]) -> str:
    """Put the role into `environ` and, for the web tier, take out everything that leads to the NAS. The role."""
    if role is not None:
        environ["SERVER_ROLE"] = role
    role = environ.get("SERVER_ROLE", "").strip().lower()
    if role == "web":
        for name in [name for name in environ if name in NAS_NAMES or name.startswith(NAS_PREFIXES)]:
            del environ[name]
    return role
