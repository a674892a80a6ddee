"""`depot hold`: legal holds, set and lifted with a reason. Against the settings in the environment."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any


def register(commands: Any) -> None:
    command = commands.add_parser(
        "hold",
        help="keep a file or a cohort from being deleted",
        description="A legal hold: nothing on hold is deleted or replaced, by anybody, until the hold is lifted. Both are in "
        "the ledger, with the reason. Give no names of patients as a reason.",
    )
    what = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, about in (("set", "set a hold"), ("lift", "lift a hold")):
        one = what.add_parser(name, help=about)
        scope = one.add_mutually_exclusive_group(required=True)
        scope.add_argument("--file", metavar="ID", help="the id of a file")
        scope.add_argument("--cohort", metavar="NAME", help="every file of a cohort, those to come too")
        one.add_argument("--reason", required=True, metavar="TEXT")
        one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(run=run, what=name)
    listed = what.add_parser("list", help="list the holds that stand")
    listed.add_argument("--json", action="store_true", help="print JSON")
    listed.set_defaults(run=run, what="list")


def run(arguments: argparse.Namespace) -> int:
    from chalicelib.config import Settings
    from nas_gateway import wiring  # the CLI may, lazily (design, section 2)
    from nas_gateway.cleanup.holds import Scope
    from nas_gateway.files.access import Call

    holds = wiring.gateway(Settings.from_env({**os.environ, "SERVER_ROLE": "services"})).holds
    if arguments.what == "list":
        found = holds.list(Call())
        print(json.dumps({"holds": found}) if arguments.json else "\n".join(map(_line, found)) or "No hold stands.")
        return 0
    scope = Scope(arguments.file, arguments.cohort)
    told = (holds.set if arguments.what == "set" else holds.lift)(Call(), scope, arguments.reason)
    print(
        json.dumps(told) if arguments.json else f"{'on hold' if arguments.what == 'set' else 'lifted'}: {told['scope']}"
    )
    return 0


def _line(hold: dict[str, Any]) -> str:
    return f"{hold['scope']}  since {hold['set_at']} by {hold['set_by']}: {hold['reason']}"
