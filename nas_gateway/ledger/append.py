"""Appending to a chain: one transaction an event, exactly once, whoever else writes.

The rules, in the order they matter:
1. An event is put at (shard, last + 1) if nothing is there, with the hash of the event before it.
2. After a failure that may have come after the commit (time-out, broken connection, 5xx), the *same* transaction is sent
   again, with the same token; another place is tried only when the place is seen to be taken by somebody else.
3. A refusal is believed only after looking whether the event that stands there is our own.
Imported by `ledger` only.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, TypeVar, cast

from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import HTTPClientError
from botocore.parsers import ResponseParserError
from pynamodb.connection import TableConnection
from pynamodb.exceptions import PynamoDBException, TransactWriteError

from chalicelib.dynamo import CONNECT_TIMEOUT, READ_TIMEOUT
from chalicelib.errors import LedgerUnavailable
from nas_gateway.ledger.chain import EMPTY, Head
from nas_gateway.ledger.events import SHARDS
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.ledger.transaction import ChangeRefused, NotOpen, Transaction
from nas_gateway.ledger.turns import Turns

__all__ = ["Appender", "ChangeRefused", "NotOpen", "Transaction"]

# Seconds after which no new attempt is begun, waiting for the process's own writers included. A caller that waits
# longer for "503, try again" is worse off; an attempt under way may add CONNECT_TIMEOUT + READ_TIMEOUT.
BUDGET = 10.0
# A connection that failed so many times in a row is not going to come back within the budget.
TRANSPORT_ATTEMPTS = 3
# Seconds: full jitter, doubling from the first to the last (AWS Architecture Blog, "Exponential Backoff And Jitter").
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
# Appends in a row that start from memory before the head is read all the same: see `Appender`.
STREAK = 32
# Places in a row that are tried from what a refusal showed, before the head is read again.
CHASES = 3
# Lost races after which a writer no longer waits before it tries again.
YIELDS = 4

_T = TypeVar("_T")


class Failure(Enum):
    REFUSED = auto()  # a condition failed: nothing was written by this request
    BUSY = auto()  # throttled or in conflict: nothing was written, try again
    BROKEN = auto()  # no usable answer: may or may not have been written
    FATAL = auto()  # will not get better by itself


_BUSY_REASONS = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
_BUSY_CODES = {
    "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestLimitExceeded", "LimitExceededException",
    "ProvisionedThroughputExceededException", "TransactionConflictException", "TransactionInProgressException",
}  # fmt: skip
_BROKEN_CODES = {"InternalServerError", "InternalFailure", "ServiceUnavailable", "500", "502", "503", "504"}


def classify(error: Exception) -> Failure:
    """What a failed call means for the next one."""
    cause = error.cause if isinstance(error, PynamoDBException) else error
    if isinstance(cause, (HTTPClientError, BotoConnectionError, ResponseParserError)):
        return Failure.BROKEN
    code = error.cause_response_code if isinstance(error, PynamoDBException) else None
    if code == "TransactionCanceledException" and isinstance(error, TransactWriteError):
        reasons = {reason.code for reason in error.cancellation_reasons if reason is not None}
        if "ConditionalCheckFailed" in reasons:
            return Failure.REFUSED
        return Failure.BUSY if reasons and reasons <= _BUSY_REASONS else Failure.FATAL
    if code in _BUSY_CODES:
        return Failure.BUSY
    return Failure.BROKEN if code in _BROKEN_CODES else Failure.FATAL


class Appender:
    """Writes to the 16 chains for one process. Thread-safe; the process's own writers take turns at a shard, in order.

    The head of each chain is kept in memory, so an append is one round trip as long as no other process writes to the
    same shard. Once one was seen to, the head is read first (two round trips) until that is over. Who loses a race is shown
    by the refusal what stands there, and tries the next place at once: one round trip, against the winner's two. And as a
    winner may not know of the others, `STREAK` bounds how long it goes on from memory. So nobody is starved.
    """

    def __init__(
        self,
        *,
        table: TableConnection | None = None,
        pause: Callable[[float], object] = time.sleep,
        budget: float | None = None,
    ) -> None:
        self._pause, self._budget = pause, budget
        self._turns = [Turns() for _ in range(SHARDS)]
        self._heads: dict[int, Head] = {}
        self._streaks = [0] * SHARDS
        self._shared: set[int] = set()
        self._connecting = threading.Lock()
        self._table = table  # None: made at the first append, when the tables have been bound

    def append(
        self, shard: int, build: Callable[[Head], PHIFileTracking], attach: Callable[[Transaction], None]
    ) -> PHIFileTracking:
        """Write the event that `build` makes for the head it is given, together with what `attach` adds.

        Both may be called again after a lost race. Raises `NotOpen`, `ChangeRefused` (nothing was written) and
        `LedgerUnavailable` (then it may or may not have been written).
        """
        budget = BUDGET if self._budget is None else self._budget
        deadline = time.monotonic() + budget
        if not self._turns[shard].acquire(budget):
            raise LedgerUnavailable
        try:
            # Taken out until the write is known to have worked: no failure leaves a wrong head behind.
            head, chases, losses = self._remembered(shard), CHASES, 0
            if head is None:
                head, chases = self._look(shard, deadline), 0
            while True:
                event = build(head)
                transaction = Transaction(connection=self._connection().connection, client_request_token=event.event_id)
                transaction.save(event, condition=PHIFileTracking.shard.does_not_exist(), return_values="ALL_OLD")
                attach(transaction)
                transaction.check_size()
                began = time.monotonic()
                there = self._commit(transaction, event, deadline)
                if there is None:
                    self._heads[shard] = Head(int(event.seq), event.hash)
                    return event
                self._shared.add(shard)
                if time.monotonic() > deadline:
                    raise LedgerUnavailable
                losses += 1
                # Who just came lets those pass who have lost more often, who do not wait at all.
                self._pause(random.uniform(0, max(0, YIELDS - losses) * (time.monotonic() - began)))  # noqa: S311
                # What stands in our place is the chain's end, or close to it, only if we had looked a moment ago.
                if chases < CHASES:
                    head, chases = there, chases + 1
                else:
                    head, chases = self._look(shard, deadline), 0
        finally:
            self._turns[shard].release()

    def _remembered(self, shard: int) -> Head | None:
        """The head as this process left it, if that is to be believed."""
        if shard in self._shared or self._streaks[shard] >= STREAK:
            return None
        self._streaks[shard] += 1
        return self._heads.pop(shard, None)

    def _look(self, shard: int, deadline: float) -> Head:
        """The head in the table."""
        known = self._heads.pop(shard, None)
        page = self._patiently(
            lambda: self._connection().query(shard_key(shard), consistent_read=True, scan_index_forward=False, limit=1),
            deadline,
        )
        head = _head_of(page["Items"][0]) if page["Items"] else EMPTY
        self._streaks[shard] = 0
        if head == known:
            self._shared.discard(shard)
        elif known is not None:
            self._shared.add(shard)
        return head

    def _commit(self, transaction: Transaction, event: PHIFileTracking, deadline: float) -> Head | None:
        """None when the event stands, else what stands in its place."""
        try:
            self._patiently(transaction.commit, deadline)
        except TransactWriteError as error:
            # An earlier attempt of ours, or one that the client repeated by itself, may have got through.
            row = transaction.in_place_of_event(error) or self._row(event, deadline)
            if row is not None and row.get("event_id") == {"S": event.event_id}:
                return None
            transaction.raise_refusal(error)
            return _head_of(row) if row is not None else self._look(int(event.shard), deadline)
        return None

    def _row(self, event: PHIFileTracking, deadline: float) -> dict[str, Any] | None:
        # A query, though it is one row: the services tier needs no other right to read events (design, section 6).
        page = self._patiently(
            lambda: self._connection().query(
                shard_key(int(event.shard)), range_key_condition=PHIFileTracking.seq == event.seq, consistent_read=True
            ),
            deadline,
        )
        return next(iter(page["Items"]), None)

    def _patiently(self, call: Callable[[], _T], deadline: float) -> _T:
        """The call's answer; repeats what can be repeated. A refused transaction is raised as it came."""
        broken, longest = 0, FIRST_PAUSE
        while True:
            try:
                return call()
            except (PynamoDBException, ResponseParserError) as error:
                failure = classify(error)
                broken = broken + 1 if failure is Failure.BROKEN else 0
                if failure is Failure.REFUSED:
                    raise
                if failure is Failure.FATAL or broken >= TRANSPORT_ATTEMPTS or time.monotonic() > deadline:
                    raise LedgerUnavailable from error
                self._pause(random.uniform(0, longest))  # noqa: S311
                longest = min(2 * longest, LONGEST_PAUSE)

    def _connection(self) -> TableConnection:
        with self._connecting:
            if self._table is None:
                self._table = connect()
            return self._table


def _head_of(row: dict[str, Any]) -> Head:
    return Head(int(row["seq"]["N"]), row["hash"]["S"])


def connect() -> TableConnection:
    """A connection apart from the models' own: here every attempt counts, so botocore must not repeat any by itself."""
    model, meta = PHIFileTracking._get_connection(), cast(Any, PHIFileTracking.Meta)
    table = TableConnection(
        model.table_name,
        region=meta.region,
        host=meta.host,
        connect_timeout_seconds=CONNECT_TIMEOUT,
        read_timeout_seconds=READ_TIMEOUT,
        max_retry_attempts=0,
        max_pool_connections=32,
        meta_table=model.get_meta_table(),
    )
    _ = table.connection.client  # creating botocore clients in several threads at once is not safe
    return table


def shard_key(shard: int) -> str:
    """The number as `TableConnection` takes it, which adds the type by itself."""
    return str(shard)
