"""Break-glass: READ on one cohort for a while, for whoever may break the glass, with a reason, and always recorded.

The start, every file that is read under it (metadata `break_glass`), and the end are events. The user's row holds what
stands, so that both tiers see it with the session; it holds no longer than it says, whether or not its end is recorded
yet. Imported by `people`.
"""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib import observability
from chalicelib.auth import users
from chalicelib.auth.policy import Permission
from chalicelib.auth.sessions import grants_of
from chalicelib.auth.tables import BrokenGlass, User
from chalicelib.errors import AlreadyThere, GrantMissing, InvalidRequest
from chalicelib.storage import paths
from nas_gateway.files.access import Call
from nas_gateway.ledger.events import Action
from nas_gateway.ledger.ledger import ChangeRefused
from nas_gateway.people.records import Records, Values, number, reason, subject, text, unavailable

DEFAULT_HOURS, MAX_HOURS = 1.0, 8.0
# "asdf" is no reason.
_LEAST_REASON = 10
STANDING = "standing"


class BreakGlass:
    """The use-cases."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def grants(self, call: Call, values: Values) -> dict[str, Any]:
        """What stands: one's own; everybody's for who administers people."""
        self._records.require(call, Permission.BREAK_GLASS)
        everybody = call.principal.may(Permission.ADMIN, None)
        now = self._records.clock()
        try:
            rows = list(BrokenGlass.by_end.query(STANDING, range_key_condition=BrokenGlass.until > now))
        except PynamoDBException as error:
            unavailable(error)
        return {"grants": [_view(row) for row in rows if everybody or row.username == call.principal.username]}

    def begin(self, call: Call, values: Values) -> dict[str, Any]:
        """Raises `InvalidRequest`, `AlreadyThere` while one for the cohort stands."""
        self._records.require(call, Permission.BREAK_GLASS)
        user, now = self._records.me(call), int(self._records.clock())
        cohort, why = paths.segment(text(values, "cohort"), "cohort"), reason(values, _LEAST_REASON)
        hours = number(values, "hours")
        hours = DEFAULT_HOURS if hours is None else hours
        if not 0 < hours <= MAX_HOURS:
            raise InvalidRequest(f"hours must be above 0 and at most {MAX_HOURS:g}.")
        standing = [grant for grant in grants_of(user) if now < grant.until]
        if any(grant.cohort == cohort for grant in standing):
            raise AlreadyThere("You have broken the glass for this cohort already.")
        row = BrokenGlass(
            uuid.uuid4().hex,
            username=user.username,
            cohort=cohort,
            reason=why,
            begun_at=now,
            until=int(now + hours * 3600),
            standing=STANDING,
        )
        kept = {grant.cohort: [grant.grant_id, grant.until] for grant in standing}

        def change(transaction: TransactWrite) -> None:
            transaction.save(row, condition=BrokenGlass.grant_id.does_not_exist())
            _set_grants(transaction, user, {**kept, cohort: [row.grant_id, int(row.until)]})

        about = {"break_glass": row.grant_id, "reason": why, "until": str(int(row.until))}
        try:
            self._records.write(call, Action.BREAK_GLASS_BEGUN, about, change, cohort=cohort)
        except ChangeRefused:
            raise AlreadyThere("Your account was changed at the same moment. Look again.") from None
        observability.log_event("break_glass_begun", logging.WARNING, user_id=user.user_id, hours=hours)
        return _view(row)

    def end(self, call: Call, values: Values, grant_id: str) -> dict[str, Any]:
        """End it now: one's own, or anybody's for who administers people. Raises `GrantMissing`."""
        self._records.require(call, Permission.BREAK_GLASS)
        try:
            row = BrokenGlass.get(grant_id, consistent_read=True)
        except DoesNotExist:
            raise GrantMissing from None
        except PynamoDBException as error:
            unavailable(error)
        mine = row.username == call.principal.username
        if row.standing is None or not (mine or call.principal.may(Permission.ADMIN, None)):
            raise GrantMissing
        if not self._end(call, row, "by hand"):
            raise GrantMissing
        return {"grant_id": grant_id, "ended": True}

    def end_lapsed(self) -> int:
        """Record the end of those whose time is over; how many. For the scheduled job."""
        try:
            rows = list(
                BrokenGlass.by_end.query(STANDING, range_key_condition=BrokenGlass.until <= self._records.clock())
            )
        except PynamoDBException as error:
            unavailable(error)
        return sum(self._end(Call(), row, "time") for row in rows)

    def _end(self, call: Call, row: BrokenGlass, how: str) -> bool:
        user = users.find(row.username)
        kept = {
            grant.cohort: [grant.grant_id, grant.until]
            for grant in (grants_of(user) if user is not None else ())
            if grant.grant_id != row.grant_id
        }

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                BrokenGlass(row.grant_id), [BrokenGlass.standing.remove()], condition=BrokenGlass.standing.exists()
            )
            if user is not None:
                _set_grants(transaction, user, kept)

        about = {"break_glass": row.grant_id, "ended": how, "begun_by": row.username}
        if user is not None:
            about |= subject(user)
        try:
            self._records.write(call, Action.BREAK_GLASS_ENDED, about, change, cohort=row.cohort)
        except ChangeRefused:  # somebody else ended it, or the next run of the job does
            return False
        return True


def _set_grants(transaction: TransactWrite, user: User, grants: dict[str, list[Any]]) -> None:
    seen = User.grants == user.grants if user.grants is not None else User.grants.does_not_exist()
    transaction.update(
        User(user.username), [User.grants.set(json.dumps(grants)) if grants else User.grants.remove()], condition=seen
    )


def _view(row: BrokenGlass) -> dict[str, Any]:
    return {
        "grant_id": row.grant_id,
        "username": row.username,
        "cohort": row.cohort,
        "reason": row.reason,
        "begun_at": int(row.begun_at),
        "until": int(row.until),
    }
