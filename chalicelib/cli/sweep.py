"""`depot sweep`: repair what crashes left, once, against the settings in the environment."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any


def register(commands: Any) -> None:
    command = commands.add_parser(
        "sweep",
        help="repair what crashes left",
        description="Finish or end upload sessions that nobody holds, and remove what lies on the NAS for none: uploads in "
        "parts, tails, staged files. Settles operations that the ledger holds open. Safe at any time, and to repeat. Against "
        "a running 'depot up', first: eval \"$(depot env)\". Exit code 1 when something could not be repaired.",
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would be done")
    command.add_argument("--json", action="store_true", help="print JSON: {found, repaired, failed, skipped, items}")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from chalicelib.config import Settings
    from nas_gateway import wiring  # the CLI may, lazily (design, section 2)

    settings = Settings.from_env({**os.environ, "SERVER_ROLE": "services"})
    report = wiring.sweep(settings).run(dry_run=arguments.dry_run)
    if arguments.json:
        print(json.dumps(report.to_json()))
        return 1 if report.failures else 0
    done = report.found if arguments.dry_run else report.repaired
    if not done and not report.failures:
        print("Nothing to repair.")
    for rule, count in sorted(done.items()):
        print(f"{'would repair' if arguments.dry_run else 'repaired'} {rule}: {count}")
    for rule, codes in sorted(report.failed.items()):
        for code, count in sorted(codes.items()):
            print(f"FAILED {rule}: {count} ({code})")
    if report.skipped:
        print(f"skipped, somebody else was at it: {report.skipped}")
    return 1 if report.failures else 0
