"""Rates: how often somebody may do something in a fixed window. One atomic ADD each; rows go by themselves (TTL).

Used by the web tier's sign-in and by the services tier's uploads and denials. Imports the auth tables and errors.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pynamodb.exceptions import DoesNotExist, PynamoDBException

from chalicelib.auth import users
from chalicelib.auth.tables import RateRow
from chalicelib.config import Settings
from chalicelib.errors import LedgerUnavailable, TooManyRequests

_GHOST_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` of `kind` by one who in `seconds`."""

    kind: str
    most: int
    seconds: int


class Rates:
    """Counts. `who` (an address, a user name) is kept as an HMAC only."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._secret, self._now = settings.session_secret.reveal().encode(), now

    def take(self, limit: Limit, who: str) -> int:
        """Count one; how many that makes. Raises `TooManyRequests` (with `retry_after`), `LedgerUnavailable`.

        Exact: of any number of calls at once in a window, `most` get through.
        """
        now = self._now()
        row = self._row(limit, who, now)
        try:
            row.update([RateRow.taken.add(1), RateRow.expires_at.set(int(now) + 2 * limit.seconds)])
        except PynamoDBException as error:
            raise LedgerUnavailable("The table of rates cannot be written. Try again in a while.") from error
        if row.taken > limit.most:
            wait = limit.seconds - int(now) % limit.seconds
            raise TooManyRequests(f"Too many requests. Try again in {wait} seconds.", retry_after=wait)
        return int(row.taken)

    def give_back(self, limit: Limit, who: str) -> None:
        """Take one back that was not meant to count. Where that fails it stays counted."""
        with suppress(PynamoDBException):
            row = self._row(limit, who, self._now())
            row.update([RateRow.taken.add(-1)], condition=RateRow.taken > 0)

    # --- names that nobody has -------------------------------------------------------------------------------

    def refuse_ghost(self, name: str) -> None:
        """Raises `TooManyRequests` as for a user whose password was tried too often, and `LedgerUnavailable`."""
        try:
            row = RateRow.get(self._ghost(name).key, consistent_read=True)
        except DoesNotExist:
            return
        except PynamoDBException as error:
            raise LedgerUnavailable("The table of rates cannot be read. Try again in a while.") from error
        users.refuse_locked(row.locked_until or 0, self._now())

    def count_ghost(self, name: str) -> None:
        """A wrong password for a name that nobody has costs what it costs for one that somebody has."""
        row, now = self._ghost(name), int(self._now())
        try:
            row.update([RateRow.taken.add(1), RateRow.expires_at.set(now + _GHOST_SECONDS)])
            if wait := users.wait_after(int(row.taken)):
                row.update([RateRow.locked_until.set(now + wait)])
        except PynamoDBException as error:
            raise LedgerUnavailable("The table of rates cannot be written. Try again in a while.") from error

    def _ghost(self, name: str) -> RateRow:
        return RateRow(f"ghost:{hmac.new(self._secret, f'ghost:{name}'.encode(), hashlib.sha256).hexdigest()}")

    def _row(self, limit: Limit, who: str, now: float) -> RateRow:
        digest = hmac.new(self._secret, f"{limit.kind}:{who}".encode(), hashlib.sha256).hexdigest()
        return RateRow(f"{limit.kind}:{digest}:{int(now) // limit.seconds}")
