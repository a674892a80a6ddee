"""The calls about people, as the web tier makes them and the services tier answers them: users, cohorts, own sessions.

One table of calls for both tiers' routes; what each may is in `routes`. The web tier has no ledger, so it changes nothing
itself: it forwards, on behalf of whoever is signed in. Imports the transport.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from chalicelib.storage.remote import Transport


@dataclass(frozen=True, slots=True)
class PeopleCall:
    """`path` on the web tier; under `/internal` on the services tier. `body`: its values come as JSON, else in the query."""

    method: str
    path: str
    about: str
    status: int = 200
    body: bool = True

    @property
    def internal_path(self) -> str:
        return f"/internal{self.path}"


def _get(path: str, about: str) -> PeopleCall:
    return PeopleCall("GET", path, about, body=False)


CALLS: Mapping[str, PeopleCall] = {
    "users": _get("/users", "`?limit=&cursor=` -> `{users: […], cursor}`."),
    "create_user": PeopleCall(
        "POST", "/users", "`{username, role, cohorts, password?}` -> the user, `password` once.", 201
    ),
    "user": _get("/users/{user_id}", "One user."),
    "change_user": PeopleCall("PATCH", "/users/{user_id}", "`{role?, cohorts?, disabled?}` -> the user."),
    "reset_password": PeopleCall(
        "POST",
        "/users/{user_id}/password",
        "A new password, told once; sessions, tokens, second factor end.",
        body=False,
    ),
    "cohorts": _get("/cohorts", "`{cohorts: [{name, created_at, created_by}]}`."),
    "create_cohort": PeopleCall("POST", "/cohorts", "`{name}`", 201),
    "change_password": PeopleCall("POST", "/session/password", "`{old, new}`: one's own; other sessions end."),
    "sessions": _get("/sessions", "One's own sessions."),
    "end_sessions": PeopleCall("DELETE", "/sessions", "Sign out everywhere, here too.", body=False),
    "tokens": _get("/tokens", "One's own personal tokens."),
    "create_token": PeopleCall(
        "POST", "/tokens", "`{name, permissions, cohorts?, days?}` -> the token's description, `token` once.", 201
    ),
    "revoke_token": PeopleCall("DELETE", "/tokens/{token_id}", "From here on it is refused.", body=False),
    "enrol": PeopleCall("POST", "/session/totp", "`{password}` -> `{secret, uri}`, once; not in force yet."),
    "confirm": PeopleCall(
        "POST", "/session/totp/confirm", "`{code}` -> `{recovery_codes}`, once; in force from here on."
    ),
    "drop_factor": PeopleCall("POST", "/session/totp/remove", "`{password, code}`: no second factor any more."),
    "grants": _get("/break-glass", "The break-glass accesses that stand: one's own; all for administrators."),
    "break_glass": PeopleCall("POST", "/break-glass", "`{cohort, reason, hours?}` -> the access that began.", 201),
    "end_grant": PeopleCall("DELETE", "/break-glass/{grant_id}", "It ends now.", body=False),
}

# Between the tiers only: what the web tier saw a user do, and who signed in elsewhere.
INTERNAL_CALLS: Mapping[str, PeopleCall] = {
    "note_session": PeopleCall("POST", "/session/events", "`{event}`: `signed_in` or `signed_out`.", 201),
    "external_user": PeopleCall(
        "POST", "/session/external", "`{username, external, role, cohorts}`: make a user.", 201
    ),
}


class People(Protocol):
    """On behalf of the signed-in user of the request."""

    def ask(self, name: str, values: Mapping[str, Any] | None = None, **where: str) -> dict[str, Any]:
        """Make a call of `CALLS` or `INTERNAL_CALLS`; `where` fills its path. Raises what the services tier raises."""
        ...


class RemotePeople:
    """Asks the services tier, for the user whose assertion the transport forwards."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self, name: str, values: Mapping[str, Any] | None = None, **where: str) -> dict[str, Any]:
        call = {**CALLS, **INTERNAL_CALLS}[name]
        path = call.internal_path.format(**where)
        if call.method == "GET":
            return self._transport.json("GET", path, {key: str(value) for key, value in (values or {}).items()})
        return self._transport.json(call.method, path, json=dict(values or {}) if call.body else None)
