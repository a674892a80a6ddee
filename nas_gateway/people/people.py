"""The calls of `chalicelib.auth.people`, answered. Imported by the internal API, the wiring and the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from chalicelib.auth import people
from chalicelib.auth.rates import Rates
from chalicelib.auth.sessions import Sessions
from chalicelib.auth.totp import SecondFactor
from chalicelib.config import Settings
from chalicelib.errors import SignInRequired
from nas_gateway.files.access import Access, Call
from nas_gateway.ledger.ledger import Ledger
from nas_gateway.people.admin import Administration
from nas_gateway.people.glass import BreakGlass
from nas_gateway.people.own import OwnAccount
from nas_gateway.people.records import Records, Values, text, texts

Answer = Callable[..., dict[str, Any]]


class People:
    """One a process. `ask` authorises, does, and records."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        access: Access,
        sessions: Sessions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        records = Records(ledger, access, clock)
        self.admin, self.glass = Administration(records), BreakGlass(records)
        own = OwnAccount(records, sessions, SecondFactor(settings, clock), Rates(settings, clock))
        self._answers: Mapping[str, Answer] = {
            "users": self.admin.users,
            "create_user": self.admin.create_user,
            "user": self.admin.user,
            "change_user": self.admin.change_user,
            "reset_password": self.admin.reset_password,
            "cohorts": self.admin.cohorts,
            "create_cohort": self.admin.create_cohort,
            "change_password": own.change_password,
            "sessions": own.sessions,
            "end_sessions": own.end_sessions,
            "tokens": own.tokens,
            "create_token": own.create_token,
            "revoke_token": own.revoke_token,
            "enrol": own.enrol,
            "confirm": own.confirm,
            "drop_factor": own.drop_factor,
            "grants": self.glass.grants,
            "break_glass": self.glass.begin,
            "end_grant": self.glass.end,
            "note_session": own.note_session,
            "external_user": self._external_user,
        }

    def ask(self, name: str, call: Call, values: Values | None = None, **where: str) -> dict[str, Any]:
        """One of `people.CALLS` or `INTERNAL_CALLS`; `where` are the ids in its path."""
        return self._answers[name](call, values or {}, **where)

    def _external_user(self, call: Call, values: Values) -> dict[str, Any]:
        """The web tier, on its own behalf: somebody whom the issuer knows signed in for the first time."""
        if not call.is_service:
            raise SignInRequired("This is for the web tier itself.")
        external = text(values, "external")
        return self.admin.create(
            call, text(values, "username"), text(values, "role"), texts(values, "cohorts"), external=external
        )


class LocalPeople:
    """`People` without a network between: for the testing role, where both tiers are one process."""

    def __init__(self, made: People, call: Callable[[], Call]) -> None:
        self._made, self._call = made, call

    def ask(self, name: str, values: Values | None = None, **where: str) -> dict[str, Any]:
        # As over the network: what the query of a GET holds is text.
        get = {**people.CALLS, **people.INTERNAL_CALLS}[name].method == "GET"
        given = {key: str(value) for key, value in (values or {}).items()} if get else values
        return self._made.ask(name, self._call(), given, **where)
