"""`depot cleanup`: plan, look, apply; receipts and their check. Against the settings in the environment."""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import sys
from pathlib import Path
from typing import Any

from chalicelib.errors import SettingsError

SHOWN = 20


def register(commands: Any) -> None:
    command = commands.add_parser(
        "cleanup",
        aliases=["cleanup_orphaned_files"],
        help="delete temporary files that are due, and what belongs to nothing",
        description="Plan what is to go (temporary files past their deadline, objects on workspace and scratch disks that no "
        "row knows, abandoned uploads), show it, and delete it. Submissions, files on hold and whatever is in use stay. "
        "Files are named by their ids. Against a running 'depot up', first: eval \"$(depot env)\". Exit code 1 when "
        "something could not be deleted, or a limit stopped it.",
    )
    command.add_argument("--dry-run", action="store_true", help="only show the plan; it can be applied for an hour")
    command.add_argument(
        "--hours",
        type=float,
        metavar="N",
        help="what is older than N hours, 0 is now (default: each file's own deadline)",
    )
    command.add_argument("--plan", metavar="ID", help="apply this plan, which was shown before; with --hash")
    command.add_argument("--hash", metavar="HASH", help="the hash that was shown with the plan")
    command.add_argument(
        "--max-files", type=int, metavar="N", help="delete at most N files (default CLEANUP_MAX_FILES)"
    )
    command.add_argument(
        "--max-percent",
        type=float,
        metavar="P",
        help="at most P percent of a disk's files once that is more than 100 (default CLEANUP_MAX_PERCENT)",
    )
    command.add_argument("--yes", action="store_true", help="do not ask before deleting")
    command.add_argument("--json", action="store_true", help="print JSON, and do not ask")
    command.set_defaults(run=run)
    more = command.add_subparsers(title="more", metavar="COMMAND")
    receipts = more.add_parser("receipts", help="what became of each item of a plan, a JSON line each")
    receipts.add_argument("plan_id", metavar="PLAN")
    receipts.add_argument("--json", action="store_true", help="JSON lines, as verify-receipts reads them")
    receipts.set_defaults(run=run_receipts)
    verify = more.add_parser("verify-receipts", help="check signed receipts, without any settings")
    verify.add_argument("file", type=Path, metavar="FILE", help="what 'depot cleanup receipts --json' printed")
    verify.add_argument(
        "--public-key", required=True, metavar="KEY", help="base64, as 'depot ledger public-key' prints it"
    )
    verify.set_defaults(run=run_verify)


def run(arguments: argparse.Namespace) -> int:
    from nas_gateway.files.access import Call  # the CLI may, lazily (design, section 2)

    if bool(arguments.plan) != bool(arguments.hash):
        raise SettingsError("--plan and --hash belong together: both are shown with a plan")
    cleanup, call = _cleanup(), Call()
    limits = {
        name: value
        for name, value in (("max_files", arguments.max_files), ("max_percent", arguments.max_percent))
        if value is not None
    }
    if arguments.plan:
        return _told(cleanup.apply(call, arguments.plan, arguments.hash, limits), arguments.json)
    plan = cleanup.plan(call, arguments.hours)
    if not arguments.json or arguments.dry_run:
        _show(plan, arguments.json)
    if arguments.dry_run or (not plan["totals"]["items"] and not arguments.json):
        return 0
    if not arguments.yes and not arguments.json and not _agreed(plan["totals"]["items"]):
        print("Nothing was deleted.")
        return 0
    return _told(cleanup.apply(call, plan["plan_id"], plan["hash"], limits), arguments.json)


def run_receipts(arguments: argparse.Namespace) -> int:
    from nas_gateway.files.access import Call

    for row in _cleanup().receipts(Call(), arguments.plan_id)["receipts"]:
        if arguments.json:
            print(json.dumps(row))
            continue
        signed = "signed" if row["signature"] else "not signed" if row["receipt"] else "no receipt"
        print(f"{row['file_id']}  {row['outcome']}  {row['detail'] or signed}")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    from nas_gateway.cleanup.receipts import check_all

    try:
        key = base64.b64decode(arguments.public_key, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise SettingsError("--public-key must be base64 of 32 bytes, as 'depot ledger public-key' prints it")
    try:
        lines = arguments.file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"{arguments.file} cannot be read") from None
    good, bad = check_all(lines, key)
    for number, why in bad:
        print(f"line {number}: {why}")
    print(f"{good} receipts are signed with this key" + (f", {len(bad)} are not" if bad else ""))
    return 1 if bad else 0


def _cleanup() -> Any:
    from chalicelib.config import Settings
    from nas_gateway import wiring

    return wiring.cleanup(Settings.from_env({**os.environ, "SERVER_ROLE": "services"}))


def _show(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan))
        return
    totals = plan["totals"]
    for title, items, word in (("To go", plan["items"], "rule"), ("Stays", plan["skipped"], "reason")):
        for item in items[:SHOWN]:
            age = f"{item['age_hours']:.1f} h old, {item['size']} bytes"
            print(f"{title}: {item['file_id']}  {item['disk']}  {item[word]}  {age}")
        if len(items) > SHOWN:
            print(f"{title}: … (--json shows more)")
    rules = ", ".join(f"{count} {rule}" for rule, count in sorted(totals["by_rule"].items()))
    print(f"{totals['items']} to delete, {totals['bytes']} bytes" + (f": {rules}" if rules else ""))
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(totals["skipped"].items()))
    if skipped:
        print(f"staying: {skipped}")
    for disk, code in sorted(totals["disks_away"].items()):
        print(f"disk {disk} does not answer ({code}): its unknown objects are not in the plan")
    print(f"plan {plan['plan_id']}, valid until {plan['expires_at']}; hash {plan['hash']}")


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        print("Say --yes to delete without being asked.")
        return False
    return input(f"Delete these {count}? [y/N] ").strip().lower() in ("y", "yes")


def _told(result: dict[str, Any], as_json: bool) -> int:
    bad = bool(result["failed"]) or result["outcome"] == "limited"
    if as_json:
        print(json.dumps(result))
        return 1 if bad else 0
    print(f"deleted: {result['deleted']} ({result['already_gone']} were gone already), skipped: {result['skipped']}")
    for code, count in sorted(result["failures"].items()):
        print(f"FAILED: {count} ({code}); they are tried again later")
    if result["outcome"] == "limited":
        print(f"STOPPED at the limit: {result['not_done']} are left. If that is right: --max-files, --max-percent")
    print(f"receipts: depot cleanup receipts {result['plan_id']}")
    return 1 if bad else 0
