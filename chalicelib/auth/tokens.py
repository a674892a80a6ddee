"""Personal API tokens: made once, shown once, kept as an HMAC; what one may is worked out anew at every call.

The prefix makes a leaked token recognisable to scanners of source code. Imports the auth tables, policy and errors.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException, UpdateError

from chalicelib import dynamo
from chalicelib.auth.policy import TOKEN_PERMISSIONS, Permission, Principal
from chalicelib.auth.tables import TokenRow, User
from chalicelib.config import Settings
from chalicelib.errors import InvalidRequest, LedgerUnavailable, NotSignedIn

PREFIX = "depot_"

DEFAULT_DAYS, MAX_DAYS = 90, 366
# A person needs one a script; the list of them is read whole.
MAX_TOKENS = 50
# `last_used` is written at most this often.
_TOUCH_SECONDS = 60
_DAY = 24 * 3600


class Tokens:
    """Makes and resolves tokens. Storing a new row is the caller's, together with the ledger's event."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._secret, self._now = settings.session_secret.reveal().encode(), now

    def new(
        self, user: User, name: str, permissions: Collection[str], cohorts: Collection[str] | None, days: float | None
    ) -> tuple[TokenRow, str]:
        """A row to store, and the token. Raises `InvalidRequest` for a scope wider than the owner's rights are now."""
        wanted = _permissions(permissions)
        owner = Principal(user.username, user.role, frozenset(user.cohorts or ()))
        if beyond := [permission.value for permission in wanted if owner.scope(permission) == frozenset()]:
            raise InvalidRequest(f"You may not do this yourself: {', '.join(sorted(beyond))}.")
        for cohort in cohorts or ():
            if not any(owner.may(permission, cohort) for permission in wanted):
                raise InvalidRequest("A token can be for your own cohorts only.")
        days = DEFAULT_DAYS if days is None else days
        if not 0 < days <= MAX_DAYS:
            raise InvalidRequest(f"A token lasts up to {MAX_DAYS} days.")
        name = name.strip()
        if not 1 <= len(name) <= 100 or not name.isprintable():
            raise InvalidRequest("A token's name has 1 to 100 printable characters.")
        token, now = PREFIX + secrets.token_urlsafe(32), int(self._now())
        row = TokenRow(
            self._key(token),
            token_id=uuid.uuid4().hex,
            username=user.username,
            name=name,
            permissions={permission.value for permission in wanted},
            cohorts=set(cohorts) if cohorts else None,
            created_at=now,
            expires_at=int(now + days * _DAY),
        )
        return row, token

    def row_of(self, token: str) -> TokenRow:
        """The row of a token that holds at this moment. Raises `NotSignedIn`, `LedgerUnavailable`."""
        try:
            row = TokenRow.get(self._key(token), consistent_read=True)
        except DoesNotExist:
            raise NotSignedIn("The token is unknown or was revoked. Make a new one.") from None
        except PynamoDBException as error:
            raise LedgerUnavailable("The token table cannot be read. Try again in a while.") from error
        now = int(self._now())
        if now >= row.expires_at:
            raise NotSignedIn("The token has expired. Make a new one.")
        if now - (row.last_used or 0) >= _TOUCH_SECONDS:
            self._touch(row, now)
        return row

    def principal(self, row: TokenRow, user: User) -> Principal:
        """The owner's rights as they are now, within the token's scope."""
        return Principal(
            user.username,
            user.role,
            frozenset(user.cohorts or ()),
            row.token_id[:12],
            user_id=user.user_id or "",
            token=True,
            only=frozenset(Permission(name) for name in row.permissions if name in _NAMES) & TOKEN_PERMISSIONS,
            within=frozenset(row.cohorts) if row.cohorts else None,
        )

    def _touch(self, row: TokenRow, now: int) -> None:
        try:
            row.update([TokenRow.last_used.set(now)], condition=TokenRow.key.exists())
        except UpdateError as error:
            if dynamo.code_of(error) == "ConditionalCheckFailedException":  # revoked meanwhile
                raise NotSignedIn("The token was revoked. Make a new one.") from None
            raise LedgerUnavailable("The token table cannot be written. Try again in a while.") from error

    def _key(self, token: str) -> str:
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()


_NAMES = frozenset(permission.value for permission in Permission)


def of(username: str) -> list[TokenRow]:
    """A user's tokens, oldest first. Raises `LedgerUnavailable`."""
    try:
        return list(TokenRow.by_user.query(username))
    except PynamoDBException as error:
        raise LedgerUnavailable("The token table cannot be read. Try again in a while.") from error


def view(row: TokenRow) -> dict[str, Any]:
    """A token as its owner sees it; times are epoch seconds."""
    return {
        "token_id": row.token_id,
        "name": row.name,
        "permissions": sorted(row.permissions),
        "cohorts": sorted(row.cohorts) if row.cohorts else None,
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        "last_used": int(row.last_used) if row.last_used else None,
    }


def _permissions(names: Collection[str]) -> frozenset[Permission]:
    wanted = frozenset(Permission(name) for name in names if name in _NAMES)
    if not wanted or len(wanted) != len(set(names)) or wanted - TOKEN_PERMISSIONS:
        known = ", ".join(permission.value for permission in Permission if permission in TOKEN_PERMISSIONS)
        raise InvalidRequest(f"A token needs permissions, each one of: {known}.")
    return wanted
