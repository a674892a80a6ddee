"""`depot verify`: read stored files again and compare them, now, against the settings in the environment."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from chalicelib.errors import InvalidRequest

_NAME = "verified"


def register(commands: Any) -> None:
    command = commands.add_parser(
        "verify",
        help="read stored files again and compare them",
        description="Read files from the NAS and compare them with what was stored. A damaged or missing one becomes CORRUPT, "
        "is no longer handed out, and stands in the ledger; one that is right again is released. Safe at any time, beside "
        "the scheduled job and itself. Run it on the services host. Against a running 'depot up', first: eval \"$(depot "
        'env)". Exit code 1 when something is damaged or could not be read.',
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--file", metavar="ID", help="one file, by its id")
    which.add_argument("--cohort", metavar="NAME", help="every file of a cohort")
    which.add_argument("--all", action="store_true", help="every stored file")
    command.add_argument("--json", action="store_true", help="print JSON: {counts, damaged, unread}")
    command.add_argument("--no-progress", action="store_true", help="no bar, no lines on progress")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from chalicelib.cli.client.progress import display
    from chalicelib.config import Settings
    from chalicelib.web.target import is_id
    from nas_gateway import wiring  # the CLI may, lazily (design, section 2)

    if arguments.file and not is_id(arguments.file):
        raise InvalidRequest("A file's id is 32 hexadecimal digits, as 'depot upload' and GET /files tell it.")
    settings = Settings.from_env({**os.environ, "SERVER_ROLE": "services"})
    with display(bars=not arguments.no_progress) as shown:
        report = wiring.integrity(settings).verify(
            file_id=arguments.file, cohort=arguments.cohort, everything=arguments.all, progress=bar(shown)
        )
    if arguments.json:
        print(json.dumps(report.to_json()))
    else:
        _print(report.to_json())
    return 1 if report.damaged or report.unread else 0


def bar(shown: Any) -> Any:
    """One bar over all bytes. What is not read (a size that differs, say) is passed over when its file ends."""
    from nas_gateway.integrity.integrity import Progress

    class Bar(Progress):
        task = 0
        position = within = 0

        def begun(self, files: int, total: int) -> None:
            self.task = shown.begun(_NAME, total)

        def read(self, count: int) -> None:
            self.within += count
            shown.moved(self.task, self.position + self.within)

        def ended(self, result: Any, size: int) -> None:
            self.position, self.within = self.position + size, 0
            shown.moved(self.task, self.position)
            if result.reason:
                shown.line(f"damaged ({result.reason}): {result.file_id}")

    return Bar()


def _print(report: dict[str, Any]) -> None:
    from chalicelib.cli.client.names import size_text

    counts = report["counts"]
    for item in report["damaged"]:
        print(f"DAMAGED {item['file_id']} ({item['reason']})")
    for item in report["unread"]:
        print(f"NOT CHECKED {item['file_id']} ({item['why']})")
    print(f"{counts['checked']} checked, {size_text(counts['bytes'])} read, {len(report['damaged'])} damaged")
    for name, text in (("restored", "right again"), ("digests", "SHA-256 of the whole file found")):
        if counts[name]:
            print(f"{text}: {counts[name]}")
