"""`depot jobs`: the scheduled jobs and how they went, and running one now, against the settings in the environment."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chalicelib.config import Settings


def register(commands: Any) -> None:
    jobs = commands.add_parser(
        "jobs",
        help="list the scheduled jobs, or run one",
        description="Every scheduled job: its period, how its last run ended, what it counted, when it is due (UTC). Against a "
        "running 'depot up', first: eval \"$(depot env)\".",
    )
    jobs.add_argument("--json", action="store_true", help="print JSON, with the last runs of each job")
    jobs.set_defaults(run=run_list)
    verbs = jobs.add_subparsers(title="commands", metavar="COMMAND")
    run = verbs.add_parser(
        "run",
        help="run one job now",
        description="Run a job now, here, and record it as any other run. Exit code 1 when it failed, or is running already.",
    )
    run.add_argument("name", metavar="NAME", help="as 'depot jobs' lists it")
    run.add_argument("--json", action="store_true", help="print the run's record as JSON")
    run.set_defaults(run=run_one)


def _settings() -> Settings:
    from chalicelib.config import Settings

    return Settings.from_env({**os.environ, "SERVER_ROLE": "services"})


def run_list(arguments: argparse.Namespace) -> int:
    from nas_gateway import wiring  # the CLI may, lazily (design, section 2)

    found = [item.to_json() for item in wiring.jobs(_settings()).listing()]
    if arguments.json:
        print(json.dumps({"jobs": found}))
        return 0
    rows = [("JOB", "EVERY", "LAST RUN", "OUTCOME", "COUNTS", "NEXT DUE"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for item in found:
        if item["overdue"]:
            print(f"{item['name']} is overdue: it did not succeed for three of its periods. See docs/jobs.md.")
    return 0


def run_one(arguments: argparse.Namespace) -> int:
    from nas_gateway import wiring
    from nas_gateway.jobs.jobs import run_json

    made = wiring.configure(_settings())
    run = run_json(made.jobs.run_now(arguments.name))
    if arguments.json:
        print(json.dumps(run))
    else:
        print(f"{arguments.name}: {' '.join(part for part in (_outcome(run), _counts(run)) if part)}")
    return 0 if run["outcome"] == "completed" else 1


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    last = item["runs"][0] if item["runs"] else None
    told = ("never", "", "") if last is None else (last["started"], _outcome(last), _counts(last))
    return (item["name"], _period(item["every_seconds"]), *told, item["next_due"])


def _outcome(run: dict[str, Any]) -> str:
    return f"{run['outcome']} ({run['error_code']})" if run["error_code"] else str(run["outcome"])


def _counts(run: dict[str, Any]) -> str:
    return " ".join(f"{name}={count}" for name, count in run["counts"].items())


def _period(seconds: int) -> str:
    """
    >>> _period(300), _period(3600), _period(86400)
    ('5 min', '1 h', '1 d')
    """
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
