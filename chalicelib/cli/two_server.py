"""`depot test-two-server`: the seeds' command. Both tiers on one machine, and an end-to-end check of them."""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chalicelib.cli.options import port, state_dir
from chalicelib.config import MIN_SECRET_CHARS
from chalicelib.errors import SettingsError


def register(commands: Any) -> None:
    command = commands.add_parser(
        "test-two-server",
        help="run both tiers on this machine, and check them end to end",
        description="Start the services tier and the web tier (with an embedded AWS) on this machine. With --run-tests: "
        "check them end to end, print a line a check, exit 0 or 1. Without: run until Ctrl-C. Nothing is kept unless "
        "--state-dir is given.",
    )
    command.add_argument("--web-port", type=port, default=8000, metavar="PORT", help="default 8000; 0: any free one")
    command.add_argument(
        "--services-port", type=port, default=8001, metavar="PORT", help="default 8001; 0: any free one"
    )
    command.add_argument("--api-key", metavar="KEY", help="INTERNAL_API_KEY of both tiers (default: a generated one)")
    command.add_argument("--run-tests", action="store_true", help="check, then stop")
    state_dir(command, default=None)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from chalicelib.cli import checks
    from chalicelib.cli.up import stack_options, welcome
    from infra.local.stack import Stack

    if arguments.api_key is not None and len(arguments.api_key) < MIN_SECRET_CHARS:
        raise SettingsError(f"--api-key should be at least {MIN_SECRET_CHARS} characters")
    with ExitStack() as exits:
        if arguments.state_dir is None:
            arguments.state_dir = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="depot-two-server-")))
        defaults = argparse.Namespace(host="127.0.0.1", aws_port=0, nas=None, ready_file=None, username="admin")
        options = stack_options(argparse.Namespace(**{**vars(defaults), **vars(arguments)}), os.environ)
        stack = exits.enter_context(Stack(options, os.environ, _report, api_key=arguments.api_key))
        document = stack.start()
        if not arguments.run_tests:
            _report(welcome(document, options))
            stack.watch()
            return 0
        if document["password"] is None:
            raise SettingsError("--run-tests needs the superuser's password: use a new --state-dir, or none")
        return checks.run(document, web_folder=options.state_dir / "tmp" / "web", report=_report)


def _report(line: str) -> None:
    print(line, flush=True)
