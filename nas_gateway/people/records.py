"""What every use-case about people shares: the event that goes with a change, and who is asking. Used in this folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pynamodb.exceptions import PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib.auth import users
from chalicelib.auth.policy import Permission
from chalicelib.auth.tables import User
from chalicelib.errors import InvalidRequest, LedgerUnavailable, NotSignedIn, SignInRequired
from nas_gateway.files.access import Access, Call
from nas_gateway.ledger.events import Action, Operation, Outcome
from nas_gateway.ledger.ledger import Changes, Ledger

Values = Mapping[str, Any]


class Records:
    """The ledger, as events about people are written to it. `clock` gives epoch seconds."""

    def __init__(self, ledger: Ledger, access: Access, clock: Callable[[], float] = time.time) -> None:
        self.ledger, self.access, self.clock = ledger, access, clock

    def write(
        self,
        call: Call,
        action: str,
        about: Mapping[str, str],
        changes: Changes | None = None,
        *,
        cohort: str | None = None,
    ) -> None:
        """One event, and the changes it explains. Raises `ChangeRefused`, `LedgerUnavailable`."""
        operation = Operation(
            action=action, user=call.principal.username, cohort=cohort, metadata=about, request_id=call.request_id
        )
        self.ledger.record(operation, changes=changes)

    def require(self, call: Call, permission: Permission) -> None:
        """Raises `Forbidden`, and records it."""
        if not call.is_service and not call.principal.may(permission, None):
            self.access.deny(call, permission, "", "", None)

    def me(self, call: Call) -> User:
        """The row of the person who is signed in. Raises `SignInRequired` for a token, or the service."""
        if call.is_service or call.principal.token:
            raise SignInRequired
        user = users.find(call.principal.username)
        if user is None:
            raise NotSignedIn
        return user

    def check_password(self, user: User, password: str) -> None:
        """The password of somebody who is signed in, once more. Wrong ones count as they do when signing in."""
        now = self.clock()
        users.refuse_locked(user.locked_until, now)
        if not users.right_password(user, password):
            users.count_failure(user, now)
            self.failed(user)
            raise InvalidRequest("The password is wrong.")

    def failed(self, user: User) -> None:
        """Record a wrong password or code of somebody who is signed in."""
        about = {"in_a_row": str(int(user.failed_sign_ins)), "signed_in": "true"}
        operation = Operation(action=Action.SIGN_IN_FAILED, user=user.username, metadata=about)
        self.ledger.record(operation, Outcome.FAILED)


def subject(user: User) -> dict[str, str]:
    """Whom an event is about, as its metadata says it."""
    return {"user_id": user.user_id or "", "username": user.username}


def text(values: Values, name: str) -> str:
    """Raises `InvalidRequest`."""
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} is missing.")
    return value


def maybe_text(values: Values, name: str) -> str | None:
    """Raises `InvalidRequest`."""
    return text(values, name) if values.get(name) is not None else None


def texts(values: Values, name: str) -> list[str]:
    """A list of texts; empty where it is left out. Raises `InvalidRequest`."""
    value = values.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > 90 or not all(isinstance(item, str) and item for item in value):
        raise InvalidRequest(f"{name} must be a list of texts.")
    return sorted(set(value))


def number(values: Values, name: str) -> float | None:
    """Raises `InvalidRequest`."""
    value = values.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidRequest(f"{name} must be a number.")
    return value


def reason(values: Values, least: int = 1) -> str:
    """Why: one line of at most 500 characters. Raises `InvalidRequest`."""
    line = text(values, "reason").strip()
    if not least <= len(line) <= 500 or not line.isprintable():
        raise InvalidRequest(f"A reason is one line of {least} to 500 characters.")
    return line


def unavailable(error: PynamoDBException) -> NoReturn:
    raise LedgerUnavailable("The tables of users cannot be read or written. Try again in a while.") from error


Change = Callable[[TransactWrite], None]
