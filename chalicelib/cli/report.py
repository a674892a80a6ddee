"""`depot report`: what is stored, what grows, what is overdue, against the settings in the environment."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    command = commands.add_parser(
        "report",
        help="what is stored, what grows, what is overdue",
        description="Print the storage report: bytes and files by disk, cohort and type; growth; the age of temporary copies; "
        "overdue copies and PHI-hours at risk; open operations; the last runs of the jobs. It is made from the last daily "
        "count, and says how old that is. Against a running 'depot up', first: eval \"$(depot env)\".",
    )
    command.add_argument("--format", choices=("text", "json", "html"), default="text", help="default text")
    command.add_argument("--fresh", action="store_true", help="count anew first: one query for each thousand files")
    command.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from chalicelib.config import Settings
    from chalicelib.web import report_page, report_text
    from nas_gateway import wiring  # the CLI may, lazily (design, section 2)
    from nas_gateway.files.access import Call

    reports = wiring.reports(Settings.from_env({**os.environ, "SERVER_ROLE": "services"}))
    if arguments.fresh:
        reports.fresh()
    report = reports.storage(Call())
    if arguments.format == "json":
        text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
    else:
        text = report_page.render(report) if arguments.format == "html" else report_text.render(report)
    if arguments.output is not None:
        arguments.output.write_text(text)
    else:
        sys.stdout.write(text)
    return 0
