"""`depot token`: one's own personal tokens, from wherever the web tier can be reached. Signs in as `depot upload` does."""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from typing import Any

from chalicelib.cli.options import state_dir


def register(commands: Any) -> None:
    token = commands.add_parser(
        "token",
        help="make, list and revoke your own tokens for scripts",
        description="Your own personal tokens. Signs in with DEPOT_USERNAME and DEPOT_PASSWORD, or asks: a token makes no "
        "tokens. A script then has it in DEPOT_TOKEN.",
    )
    verbs = token.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = verbs.add_parser("create", help="make a token", description="The token is printed this once.")
    create.add_argument("name", metavar="NAME", help="what it is for")
    create.add_argument(
        "--permission", action="append", required=True, metavar="P", help="see docs/roles.md; may be repeated"
    )
    create.add_argument("--cohort", action="append", metavar="NAME", help="default: all of yours; may be repeated")
    create.add_argument("--days", type=float, help="default 90, at most 366")
    create.set_defaults(ask=_create, show=lambda answer: print(answer["token"]))
    listing = verbs.add_parser(
        "list", help="list your tokens", description="Id, name, permissions, end, last use (UTC)."
    )
    listing.set_defaults(ask=lambda given: ("GET", "/tokens", None), show=_list)
    revoke = verbs.add_parser("revoke", help="revoke a token", description="From here on it is refused.")
    revoke.add_argument("token_id", metavar="ID")
    revoke.set_defaults(ask=_revoke, show=lambda answer: print("Revoked."))
    for command in (create, listing, revoke):
        command.add_argument("--url", help="the web tier (default: DEPOT_URL, else that of the running 'depot up')")
        command.add_argument("--insecure-http", action="store_true", help="allow plain text beyond this machine")
        command.add_argument("--json", action="store_true", help="print JSON")
        state_dir(command)
        command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from chalicelib.cli.client import signin
    from chalicelib.cli.client.failures import Failure
    from chalicelib.cli.client.server import Server
    from chalicelib.errors import InvalidRequest

    url = signin.server_url(arguments.url, os.environ, arguments.state_dir, insecure=arguments.insecure_http)
    server = Server(url, signin.credentials(os.environ, signin.Terminal()))
    method, path, body = arguments.ask(arguments)
    try:
        server.sign_in()
        answer = server.json(method, path, json=body)
    except Failure as failure:
        raise InvalidRequest(str(failure)) from None
    finally:
        server.close()
    if arguments.json:
        print(json.dumps(answer))
    else:
        arguments.show(answer)
    return 0


def _create(given: argparse.Namespace) -> tuple[str, str, dict[str, Any]]:
    values = {"name": given.name, "permissions": given.permission, "cohorts": given.cohort, "days": given.days}
    return "POST", "/tokens", {name: value for name, value in values.items() if value is not None}


def _revoke(given: argparse.Namespace) -> tuple[str, str, None]:
    from chalicelib.errors import TokenMissing
    from chalicelib.web.target import is_id

    if not is_id(given.token_id):
        raise TokenMissing
    return "DELETE", f"/tokens/{given.token_id}", None


def _list(answer: dict[str, Any]) -> None:
    for each in answer["tokens"]:
        cohorts = ", ".join(each["cohorts"]) if each["cohorts"] else "all your cohorts"
        used = f"last used {_day(each['last_used'])}" if each["last_used"] else "never used"
        about = [each["token_id"], each["name"], ", ".join(each["permissions"]), cohorts]
        print("  ".join([*about, f"until {_day(each['expires_at'])}", used]))


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
