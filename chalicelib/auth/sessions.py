"""Sessions: opaque, revocable, with an idle and an absolute end.

The token is 256 random bits; the table holds its HMAC under SESSION_SECRET. The web tier forwards the token itself as the
user's assertion, and the services tier resolves it again: a role that was taken away, a disabled user or a signed-out
session stops there too, and nothing the web tier could make up on its own is believed. Personal tokens (`tokens`) are
resolved here too, so that both tiers take them wherever they take a session.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable

from pynamodb.exceptions import DoesNotExist, PynamoDBException, UpdateError
from pynamodb.expressions.update import Action

from chalicelib import dynamo
from chalicelib.auth import tokens, users
from chalicelib.auth.policy import Grant, Principal
from chalicelib.auth.tables import SessionRow, User
from chalicelib.config import Settings
from chalicelib.errors import LedgerUnavailable, NotSignedIn

# `last_seen` is written at most this often, so that reading a page does not cost a table write each time.
TOUCH_SECONDS = 60


class Sessions:
    """Opens, resolves and ends sessions. One a process."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._secret = settings.session_secret.reveal().encode()
        self._idle, self._absolute = settings.session_idle_seconds, settings.session_absolute_seconds
        self._now = now
        self.tokens = tokens.Tokens(settings, now)

    def open(self, user: User) -> tuple[str, int]:
        """A new session: its token (shown to nobody else) and the seconds until its absolute end."""
        token = secrets.token_urlsafe(32)
        now = int(self._now())
        row = SessionRow(
            key=self._key(token),
            username=user.username,
            created_at=now,
            last_seen=now,
            expires_at=now + self._absolute,
            generation=generation_of(user),
        )
        try:
            row.save()
        except PynamoDBException as error:
            raise LedgerUnavailable("The session table cannot be written. Try again in a while.") from error
        return token, self._absolute

    def resolve(self, token: str) -> Principal:
        """Who a token stands for, as of now. Raises `NotSignedIn`, `LedgerUnavailable`."""
        if token.startswith(tokens.PREFIX):
            held = self.tokens.row_of(token)
            return self.tokens.principal(held, _enabled(held.username))
        key = self._key(token)
        try:
            row = SessionRow.get(key, consistent_read=True)
        except DoesNotExist:
            raise NotSignedIn from None
        except PynamoDBException as error:
            raise LedgerUnavailable("The session table cannot be read. Try again in a while.") from error
        now = self._now()
        if now >= row.expires_at or now >= row.last_seen + self._idle:
            raise NotSignedIn("The session has ended. Sign in again.")
        user = _enabled(row.username)
        if generation_of(row) != generation_of(user):  # every session was ended: a new password, say
            raise NotSignedIn("The session has ended. Sign in again.")
        if now - row.last_seen >= TOUCH_SECONDS:
            self._touch(row, int(now))
        return Principal(
            user.username,
            user.role,
            frozenset(user.cohorts or ()),
            session_id(row),
            user_id=user.user_id or "",
            grants=tuple(grant for grant in grants_of(user) if now < grant.until),
        )

    def of(self, username: str) -> list[SessionRow]:
        """A user's sessions that have not ended, oldest first. Raises `LedgerUnavailable`."""
        user, now = users.find(username), self._now()
        try:
            rows = list(SessionRow.by_user.query(username))
        except PynamoDBException as error:
            raise LedgerUnavailable("The session table cannot be read. Try again in a while.") from error
        return [
            row
            for row in rows
            if user is not None
            and generation_of(row) == generation_of(user)
            and now < min(row.expires_at, row.last_seen + self._idle)
        ]

    def carry_over(self, token: str, generation: int) -> None:
        """Keep this one session when all others of its user ended. Raises `LedgerUnavailable`."""
        self._update(SessionRow(self._key(token)), [SessionRow.generation.set(generation)])

    def end(self, token: str) -> None:
        """Sign out. A session that is not there is no error."""
        try:
            SessionRow(self._key(token)).delete()
        except PynamoDBException as error:
            raise LedgerUnavailable("The session table cannot be written. Try again in a while.") from error

    def _touch(self, row: SessionRow, now: int) -> None:
        self._update(row, [SessionRow.last_seen.set(now)])

    def _update(self, row: SessionRow, actions: list[Action]) -> None:
        try:
            row.update(actions, condition=SessionRow.key.exists())
        except UpdateError as error:
            if dynamo.code_of(error) == "ConditionalCheckFailedException":  # signed out meanwhile
                raise NotSignedIn("The session has ended. Sign in again.") from None
            raise LedgerUnavailable("The session table cannot be written. Try again in a while.") from error

    def _key(self, token: str) -> str:
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()


def generation_of(row: User | SessionRow) -> int:
    """Rows from before there were generations have none."""
    return int(getattr(row, "generation", None) or 0)


def session_id(row: SessionRow) -> str:
    """What a session is called in lists; it cannot be used to sign in."""
    return str(row.key)[:12]


def grants_of(user: User) -> list[Grant]:
    """The glasses that a user's row says are broken, also those whose time is over."""
    return [
        Grant(grant_id, cohort, int(until)) for cohort, (grant_id, until) in json.loads(user.grants or "{}").items()
    ]


def _enabled(username: str) -> User:
    user = users.find(username)
    if user is None or user.disabled:
        raise NotSignedIn
    return user
