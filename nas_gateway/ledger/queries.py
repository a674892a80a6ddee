"""Reading the ledger: one index a question, never a scan, and a page at a time.

Events come in ascending order of time. Indexes follow the table after a moment (DynamoDB global secondary indexes are
eventually consistent), so whoever polls with `since` should overlap a little. Imported by blueprints, jobs and the CLI.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import heapq
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from pynamodb.exceptions import PynamoDBException

from chalicelib.errors import InvalidRequest, LedgerUnavailable
from nas_gateway.ledger.events import MAX_TEXT_BYTES, SHARDS, Intent, Outcome, iso, utcnow
from nas_gateway.ledger.tables import OpenOperation, PHIFileTracking

MAX_LIMIT: Final = 1000
# DynamoDB queries that one call makes at most. A page may therefore be short, or empty, and still have a cursor: a filter
# that matches little, or a stretch of days without events.
MAX_QUERIES: Final = 32
FILTERED_PAGE: Final = 500
# Who asks from longer ago than this is first led to where the ledger begins: a day without events costs a query, too.
LONG_WALK_DAYS: Final = 64
# The index that narrows most comes first; what is also asked for filters.
_SELECTORS: Final = ("tracking_id", "file_id", "user", "cohort", "action")
_AT_KEY: Final = re.compile(r"(\d{4}-\d\d-\d\d)T\d\d:\d\d:\d\d\.\d{6}Z#(\d\d)-(\d{15})")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in ascending order of time. `cursor` is None when there are no more; else pass it with the same question."""

    events: list[PHIFileTracking]
    cursor: str | None


def query(
    *,
    file_id: str | None = None,
    cohort: str | None = None,
    user: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    tracking_id: str | None = None,
    outcome: Outcome | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> EventPage:
    """Events that match all that is given, from `since` (inclusive) to `until` (exclusive).

    One of the selectors or `since` is needed. Raises `InvalidRequest` for a bad question or cursor, and
    `LedgerUnavailable`.
    """
    asked = {"tracking_id": tracking_id, "file_id": file_id, "user": user, "cohort": cohort, "action": action}
    given = {name: _value(name, value) for name, value in asked.items() if value is not None}
    selector = next((name for name in _SELECTORS if name in given), None)
    filters = {name: value for name, value in given.items() if name != selector}
    if outcome is not None:
        filters["outcome"] = str(Outcome(outcome))
    if selector is None and since is None:
        raise InvalidRequest("Ask by file_id, cohort, user, action, tracking_id or since.")
    if selector is None and outcome in (Outcome.FAILED, Outcome.UNKNOWN):
        return _Walk("failed_day", since, until, filters, limit).days(cursor)  # the filter tells the two apart
    walk = _Walk(selector or "day", since, until, filters, limit)
    if selector is None:
        return walk.days(cursor)
    return walk.one(given[selector], cursor)


def failed(*, since: datetime, until: datetime | None = None, limit: int = 100, cursor: str | None = None) -> EventPage:
    """Events whose outcome is `failed` or `unknown`. Raises as `query` does."""
    return _Walk("failed_day", since, until, {}, limit).days(cursor)


def open_operations(*, older_than: datetime | None = None) -> Iterator[Intent]:
    """Intents without outcome that were begun before `older_than` (None: all), the oldest first.

    One query a shard; pages are fetched as the iterator goes. Raises `LedgerUnavailable`.
    """
    condition = None if older_than is None else OpenOperation.opened_at < older_than
    rows = heapq.merge(
        *(OpenOperation.by_age.query(shard, range_key_condition=condition) for shard in range(SHARDS)),
        key=lambda row: row.opened_at,
    )
    try:
        for row in rows:
            yield row.to_intent()
    except PynamoDBException as error:
        raise LedgerUnavailable("The tracking ledger cannot be read. Try again in a while.") from error


def to_json(event: PHIFileTracking) -> dict[str, Any]:
    """An event as the API answers it: every field of the format that is there, times as ISO 8601 UTC."""
    return event.to_dict()


_INDEXES: Final = {
    "tracking_id": PHIFileTracking.by_tracking,
    "file_id": PHIFileTracking.by_file,
    "user": PHIFileTracking.by_user,
    "cohort": PHIFileTracking.by_cohort,
    "action": PHIFileTracking.by_action,
    "day": PHIFileTracking.by_day,
    "failed_day": PHIFileTracking.by_failure,
}


class _Walk:
    """One question: which index, which stretch of time, which filters; and how to go on with it from a cursor."""

    def __init__(
        self, selector: str, since: datetime | None, until: datetime | None, filters: dict[str, str], limit: int
    ) -> None:
        if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
            raise InvalidRequest(f"limit must be 1 to {MAX_LIMIT}.")
        if any(moment is not None and moment.tzinfo is None for moment in (since, until)):
            raise InvalidRequest("since and until need a time zone.")
        if since is not None and until is not None and until <= since:
            raise InvalidRequest("until must be later than since.")
        self.selector, self.since, self.until = selector, since, until
        self.filters, self.limit = filters, limit
        self.events: list[PHIFileTracking] = []
        self.queries = 0

    def one(self, value: str, cursor: str | None) -> EventPage:
        """All in one partition of the index."""
        question = self.digest(value)
        after = _open_cursor(cursor, question) if cursor else None
        if after is not None and not _AT_KEY.fullmatch(after):
            raise _bad_cursor()
        rest = self.partition(value, after)
        return EventPage(self.events, _seal_cursor(rest, question) if rest else None)

    def days(self, cursor: str | None) -> EventPage:
        """Day after day; a cursor stands behind an event, or at the start of a day."""
        assert self.since is not None
        question = self.digest("")
        day = self.since.astimezone(UTC).date()
        last = min(self.until or utcnow(), utcnow() + timedelta(days=1)).astimezone(UTC).date()
        after = None
        if cursor:
            place = _open_cursor(cursor, question)
            match = _AT_KEY.fullmatch(place)
            day = _date(match.group(1) if match else place)
            after = place if match else None
        elif (last - day).days > LONG_WALK_DAYS and (first := self.first_day()) is not None:
            day = max(day, first)
        while day <= last:
            after = self.partition(day.isoformat(), after)
            if after or (self.full() and day < last):
                place = after or (day + timedelta(days=1)).isoformat()
                return EventPage(self.events, _seal_cursor(place, question))
            day += timedelta(days=1)
        return EventPage(self.events, None)

    def first_day(self) -> date | None:
        """The day before the ledger's first event (clocks differ), None while there is none. One small read a shard."""
        self.queries += SHARDS
        try:
            firsts = [event.at for shard in range(SHARDS) for event in PHIFileTracking.query(shard, limit=1)]
        except PynamoDBException as error:
            raise LedgerUnavailable("The tracking ledger cannot be read. Try again in a while.") from error
        return min(firsts).astimezone(UTC).date() - timedelta(days=1) if firsts else None

    def full(self) -> bool:
        return len(self.events) >= self.limit or self.queries >= MAX_QUERIES

    def partition(self, value: str, after: str | None) -> str | None:
        """Collect from one partition until enough; where to go on in it, or None at its end."""
        while True:
            wanted = self.limit - len(self.events)
            start = None if after is None else self.start_key(value, after)
            rows = _INDEXES[self.selector].query(
                value,
                range_key_condition=self.stretch(),
                filter_condition=self.filter(),
                last_evaluated_key=start,
                # DynamoDB counts before it filters: with a filter, look at more than is wanted.
                page_size=max(wanted, FILTERED_PAGE) if self.filters else wanted,
            )
            try:
                page = next(rows.page_iter)
            except PynamoDBException as error:
                raise LedgerUnavailable("The tracking ledger cannot be read. Try again in a while.") from error
            self.queries += 1
            items = page["Items"][:wanted]
            self.events += [PHIFileTracking.from_raw_data(item) for item in items]
            end = items[-1] if len(items) < len(page["Items"]) else page.get("LastEvaluatedKey")
            after = end["at_key"]["S"] if end else None
            if after is None or self.full():
                return after

    def stretch(self) -> Any:
        # "…Z#shard-seq" sorts behind "…Z": so the lower bound takes its own instant in, and the upper leaves it out.
        key = PHIFileTracking.at_key
        if self.since is not None and self.until is not None:
            return key.between(iso(self.since), iso(self.until))
        if self.since is not None:
            return key >= iso(self.since)
        return key < iso(self.until) if self.until is not None else None

    def filter(self) -> Any:
        condition: Any = None
        for name, value in self.filters.items():
            term = getattr(PHIFileTracking, name) == value
            condition = term if condition is None else condition & term
        return condition

    def start_key(self, value: str, after: str) -> dict[str, dict[str, str]]:
        match = _AT_KEY.fullmatch(after)
        assert match is not None
        shard, seq = str(int(match.group(2))), str(int(match.group(3)))
        return {"shard": {"N": shard}, "seq": {"N": seq}, "at_key": {"S": after}, self.selector: {"S": value}}

    def digest(self, value: str) -> str:
        """Ties a cursor to its question, so that it cannot be used with another."""
        bounds = [None if moment is None else iso(moment) for moment in (self.since, self.until)]
        text = json.dumps([self.selector, value, bounds, sorted(self.filters.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _value(name: str, value: str) -> str:
    if not isinstance(value, str) or not value or len(value.encode(errors="replace")) > MAX_TEXT_BYTES:
        raise InvalidRequest(f"{name} must be text of 1 to {MAX_TEXT_BYTES} bytes.")
    return value


def _seal_cursor(place: str, question: str) -> str:
    return base64.urlsafe_b64encode(f"{question}{place}".encode()).decode().rstrip("=")


def _open_cursor(cursor: str, question: str) -> str:
    """The place a cursor stands at. It holds no names; whatever is not exactly ours is refused."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        raise _bad_cursor() from None
    place = text[16:]
    if text[:16] != question or not (_AT_KEY.fullmatch(place) or _DAY.fullmatch(place)):
        raise _bad_cursor()
    return place


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest("The cursor does not belong to this question. Ask again without it.")


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _bad_cursor() from None
