"""Sessions: opaque, revocable, with an idle and an absolute end.

The token is 256 random bits; the table holds its HMAC under SESSION_SECRET. The web tier forwards the token itself as the
user's assertion, and the services tier resolves it again: a role that was taken away, a disabled user or a signed-out
session stops there too, and nothing the web tier could make up on its own is believed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from pynamodb.exceptions import DoesNotExist, PynamoDBException, UpdateError

from chalicelib import dynamo
from chalicelib.auth import users
from chalicelib.auth.policy import Principal
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
        )
        try:
            row.save()
        except PynamoDBException as error:
            raise LedgerUnavailable("The session table cannot be written. Try again in a while.") from error
        return token, self._absolute

    def resolve(self, token: str) -> Principal:
        """Who a token stands for, as of now. Raises `NotSignedIn`, `LedgerUnavailable`."""
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
        user = users.find(row.username)
        if user is None or user.disabled:
            raise NotSignedIn
        if now - row.last_seen >= TOUCH_SECONDS:
            self._touch(row, int(now))
        return Principal(user.username, user.role, frozenset(user.cohorts or ()), key[:12])

    def end(self, token: str) -> None:
        """Sign out. A session that is not there is no error."""
        try:
            SessionRow(self._key(token)).delete()
        except PynamoDBException as error:
            raise LedgerUnavailable("The session table cannot be written. Try again in a while.") from error

    def _touch(self, row: SessionRow, now: int) -> None:
        try:
            row.update([SessionRow.last_seen.set(now)], condition=SessionRow.key.exists())
        except UpdateError as error:
            if dynamo.code_of(error) == "ConditionalCheckFailedException":  # signed out meanwhile
                raise NotSignedIn("The session has ended. Sign in again.") from None
            raise LedgerUnavailable("The session table cannot be written. Try again in a while.") from error

    def _key(self, token: str) -> str:
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()
