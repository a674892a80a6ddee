"""Small commands: `depot init`, `depot create-superuser`, `depot env`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chalicelib.cli.options import state_dir
from chalicelib.errors import SettingsError


def register(commands: Any) -> None:
    init = commands.add_parser(
        "init",
        help="create tables (and bucket, and first superuser)",
        description="Create the tables that are missing, in the DynamoDB that the environment names. Safe to repeat.",
    )
    init.add_argument(
        "--superuser", metavar="NAME", help="also create the first superuser; its password is printed once"
    )
    init.add_argument("--bucket", action="store_true", help="also create the bucket S3_BUCKET at S3_ENDPOINT")
    init.add_argument("--json", action="store_true", help="print JSON: {tables, bucket, password}")
    init.set_defaults(run=run_init)

    superuser = commands.add_parser(
        "create-superuser",
        help="create a superuser with a generated password",
        description="Create a superuser; the generated password is printed once and kept nowhere. Against a running "
        "'depot up', first: eval \"$(depot env)\". To replace a lost password, create another superuser.",
    )
    superuser.add_argument("username", nargs="?", default="admin", help="default admin")
    superuser.set_defaults(run=run_create_superuser)

    env = commands.add_parser(
        "env",
        help="print the settings of the running 'depot up' for a shell",
        description="Print 'export NAME=value' lines that point other depot commands at the running 'depot up'. Use: "
        'eval "$(depot env)". They hold secrets.',
    )
    state_dir(env)
    env.set_defaults(run=run_env)


def tables(environ: Mapping[str, str]) -> list[Any]:
    """Every table class, bound to the prefix and region of the settings."""
    from chalicelib import dynamo
    from chalicelib.auth.tables import MODELS as AUTH_MODELS
    from chalicelib.config import Settings
    from nas_gateway.wiring import MODELS as GATEWAY_MODELS  # the CLI may, lazily (design, section 2)

    settings = Settings.from_env({**environ, "SERVER_ROLE": environ.get("SERVER_ROLE") or "services"})
    models = [*AUTH_MODELS, *GATEWAY_MODELS]
    dynamo.bind(settings.table_prefix, settings.aws_region, *models)
    return models


def run_init(arguments: argparse.Namespace) -> int:
    from chalicelib import dynamo
    from chalicelib.auth.users import ensure_superuser
    from infra.local.bucket import ensure_bucket

    try:
        made = dynamo.create(*tables(os.environ))
    except dynamo.Failure as error:
        raise SettingsError(f"The tables cannot be made ({type(error).__name__}): check AWS_ENDPOINT_URL") from None
    bucket = ensure_bucket(os.environ) if arguments.bucket else False
    password = ensure_superuser(arguments.superuser) if arguments.superuser else None
    if arguments.json:
        print(json.dumps({"tables": made, "bucket": bucket, "password": password}))
        return 0
    print(f"Tables created: {len(made)}" + (f" ({', '.join(made)})" if made else ""))
    if bucket:
        print("Bucket created.")
    if password:
        print(f"Superuser {arguments.superuser}, password (shown this once): {password}")
    return 0


def run_create_superuser(arguments: argparse.Namespace) -> int:
    from chalicelib.auth.users import create_user

    tables(os.environ)
    password = create_user(arguments.username, "superuser")
    print(f"Superuser {arguments.username}, password (shown this once): {password}")
    return 0


def run_env(arguments: argparse.Namespace) -> int:
    path: Path = arguments.state_dir / "ready.json"
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise SettingsError("No 'depot up' is running with this --state-dir") from None
    for name, value in document["env"].items():
        print(f"export {name}={shlex.quote(value)}")
    return 0
