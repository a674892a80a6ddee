"""`depot user` and `depot cohort`: people administered from the services host, each change recorded in the ledger."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

_EVAL = "Run it on the services host. Against a running 'depot up', first: eval \"$(depot env)\"."


def register(commands: Any) -> None:
    cohort = commands.add_parser("cohort", help="create and list cohorts", description=f"The cohorts. {_EVAL}")
    verbs = cohort.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = verbs.add_parser("create", help="create a cohort", description="Its name becomes a folder on the NAS.")
    create.add_argument("name", metavar="NAME")
    create.set_defaults(run=_run(lambda ask, given: ask("create_cohort", {"name": given.name}), _cohort_made))
    _json(create)
    listing = verbs.add_parser("list", help="list the cohorts", description="One a line, by name.")
    listing.set_defaults(run=_run(lambda ask, given: ask("cohorts"), _cohorts))
    _json(listing)

    user = commands.add_parser(
        "user",
        help="create, list, disable, enable and change users",
        description=f"The users. What is changed counts for sessions that are open, at their next request. {_EVAL}",
    )
    verbs = user.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = verbs.add_parser(
        "create",
        help="create a user",
        description="Create a user. Without --password one is generated and printed this once. (Others on this machine can "
        "read --password in the list of processes.)",
    )
    create.add_argument("username", metavar="EMAIL")
    create.add_argument("--role", required=True, help="see docs/roles.md")
    create.add_argument("--cohort", action="append", default=[], metavar="NAME", help="may be given several times")
    create.add_argument("--password", metavar="P", help="at least 15 characters")
    create.set_defaults(run=_run(_create, _made))
    _json(create)
    listing = verbs.add_parser("list", help="list the users", description="One a line, by name.")
    listing.set_defaults(run=_run(_all, _users))
    _json(listing)
    for verb, about, values in (
        ("disable", "end a user's sessions and let no new one begin; tokens rest too", {"disabled": True}),
        ("enable", "let a disabled user sign in again", {"disabled": False}),
    ):
        command = _one(verbs, verb, about)
        command.set_defaults(run=_run(_change(values), _user))
    reset = _one(verbs, "reset", "a new password, printed once; sessions, tokens and second factor end")
    reset.set_defaults(run=_run(lambda ask, given: ask("reset_password", user_id=_id(given)), _password))
    role = _one(verbs, "set-role", "another role, other cohorts, or both")
    role.add_argument("--role", help="see docs/roles.md")
    which = role.add_mutually_exclusive_group()
    which.add_argument(
        "--cohort", action="append", metavar="NAME", help="these instead of those before; several allowed"
    )
    which.add_argument("--no-cohort", action="store_true", help="none any more")
    role.set_defaults(run=_run(_set_role, _user))


def _one(verbs: Any, verb: str, about: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = verbs.add_parser(
        verb, help=about, description=about[0].upper() + about[1:] + "."
    )
    command.add_argument("username", metavar="EMAIL")
    _json(command)
    return command


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _run(work: Any, show: Any) -> Any:
    """A command: its answer from the use-cases, shown or as JSON."""

    def run(arguments: argparse.Namespace) -> int:
        from chalicelib.config import Settings
        from nas_gateway import wiring  # the CLI may, lazily (design, section 2)
        from nas_gateway.files.access import Call

        people = wiring.people(Settings.from_env({**os.environ, "SERVER_ROLE": "services"}))

        def ask(name: str, values: dict[str, Any] | None = None, **where: str) -> dict[str, Any]:
            return people.ask(name, Call(), values, **where)

        answer = work(ask, arguments)
        if arguments.json:
            print(json.dumps(answer))
        else:
            show(answer)
        return 0

    return run


# --- what is asked ------------------------------------------------------------------------------------------------


def _id(given: argparse.Namespace) -> str:
    from chalicelib.auth import users
    from chalicelib.errors import UserMissing

    found = users.find(users.normal(given.username))
    if found is None or not found.user_id:
        raise UserMissing
    return str(found.user_id)


def _create(ask: Any, given: argparse.Namespace) -> Any:
    password = {"password": given.password} if given.password is not None else {}
    return ask("create_user", {"username": given.username, "role": given.role, "cohorts": given.cohort, **password})


def _change(values: dict[str, Any]) -> Any:
    return lambda ask, given: ask("change_user", values, user_id=_id(given))


def _set_role(ask: Any, given: argparse.Namespace) -> Any:
    values = {"role": given.role, "cohorts": [] if given.no_cohort else given.cohort}
    return ask("change_user", {key: value for key, value in values.items() if value is not None}, user_id=_id(given))


def _all(ask: Any, given: argparse.Namespace) -> Any:
    found: list[Any] = []
    cursor = None
    while True:
        page = ask("users", {"limit": "1000", **({"cursor": cursor} if cursor else {})})
        found += page["users"]
        if (cursor := page["cursor"]) is None:
            return {"users": found}


# --- what is printed ----------------------------------------------------------------------------------------------


def _cohort_made(answer: dict[str, Any]) -> None:
    print(f"Cohort {answer['name']} created.")


def _cohorts(answer: dict[str, Any]) -> None:
    for each in answer["cohorts"]:
        print(each["name"])


def _users(answer: dict[str, Any]) -> None:
    for each in answer["users"]:
        _user(each)


def _user(each: dict[str, Any]) -> None:
    state = ["disabled"] if each["disabled"] else []
    state += ["second factor"] if each["second_factor"] else []
    print("  ".join([each["username"], each["role"], ", ".join(each["cohorts"]) or "-", *state]))


def _made(answer: dict[str, Any]) -> None:
    print(f"User {answer['username']}, role {answer['role']}, cohorts {', '.join(answer['cohorts']) or 'none'}.")
    _password(answer)


def _password(answer: dict[str, Any]) -> None:
    print(f"Password (shown this once): {answer['password']}")
