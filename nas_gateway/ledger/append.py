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
from pynamodb.transactions import TransactWrite

from chalicelib.dynamo import CONNECT_TIMEOUT, READ_TIMEOUT
from chalicelib.errors import LedgerUnavailable
from nas_gateway.ledger.chain import EMPTY, Head
from nas_gateway.ledger.events import SHARDS
from nas_gateway.ledger.tables import PHIFileTracking

# Seconds after which no new attempt is begun, waiting for the process's own writers included. A caller that waits
# longer for "503, try again" is worse off; an attempt under way may add CONNECT_TIMEOUT + READ_TIMEOUT.
BUDGET = 10.0
# A connection that failed so many times in a row is not going to come back within the budget.
TRANSPORT_ATTEMPTS = 3
# Seconds: full jitter, doubling from the first to the last (AWS Architecture Blog, "Exponential Backoff And Jitter").
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
# DynamoDB: 100 actions a transaction, two of which are the ledger's own.
MAX_CHANGES = 98

_T = TypeVar("_T")


class ChangeRefused(Exception):
    """The condition of one of the caller's own changes failed, so neither the changes nor the event were written.

    `index` counts the caller's changes from 0 in the order they were added. (DynamoDB answers one reason an item in
    the order of the request; PynamoDB sorts a request into checks, deletes, puts and updates; `Transaction` maps back.)
    When several failed, it is the first.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"the condition of change {index} failed")
        self.index = index


class NotOpen(Exception):
    """The operation's row is not as it must be: it has an outcome already."""


class Transaction(TransactWrite):
    """A `TransactWrite` that remembers in which order its items were added, and which are the caller's."""

    _LISTS = ("_condition_check_items", "_delete_items", "_put_items", "_update_items")  # the order of the request

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._added: list[tuple[str, int]] = []
        self._own = 0

    def _note(self, name: str) -> None:
        self._added.append((name, len(getattr(self, name)) - 1))

    def condition_check(self, *args: Any, **options: Any) -> None:
        super().condition_check(*args, **options)
        self._note("_condition_check_items")

    def delete(self, *args: Any, **options: Any) -> None:
        super().delete(*args, **options)
        self._note("_delete_items")

    def save(self, *args: Any, **options: Any) -> None:
        super().save(*args, **options)
        self._note("_put_items")

    def update(self, *args: Any, **options: Any) -> None:
        super().update(*args, **options)
        self._note("_update_items")

    def end_of_own(self) -> None:
        """What is added from here on is the caller's."""
        self._own = len(self._added)

    def check_size(self) -> None:
        if len(self._added) - self._own > MAX_CHANGES:
            raise ValueError(f"at most {MAX_CHANGES} changes fit into one transaction with an event")

    def commit(self) -> None:
        self._commit()

    def raise_refusal(self, error: TransactWriteError) -> None:
        """Raise for a failed condition of the operation's row or of the caller; the event's own is no refusal."""
        place = [(name, i) for name in self._LISTS for i in range(len(getattr(self, name)))]
        failed = {
            self._added.index(place[position])
            for position, reason in enumerate(error.cancellation_reasons)
            if reason is not None and reason.code == "ConditionalCheckFailed"
        }
        if any(0 < number < self._own for number in failed):
            raise NotOpen
        theirs = sorted(number - self._own for number in failed if number >= self._own)
        if theirs:
            raise ChangeRefused(theirs[0]) from None


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
    """Writes to the 16 chains for one process. Thread-safe; the process's own writers queue for a shard.

    The head of each chain is kept in memory, so an append is one round trip as long as no other process writes to the
    same shard. Once one was seen to, the head is read first (two round trips rather than three) until that is over.
    """

    def __init__(
        self,
        *,
        table: TableConnection | None = None,
        pause: Callable[[float], object] = time.sleep,
        budget: float | None = None,
    ) -> None:
        self._pause, self._budget = pause, budget
        self._locks = [threading.Lock() for _ in range(SHARDS)]
        self._heads: dict[int, Head] = {}
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
        if not self._locks[shard].acquire(timeout=budget):
            raise LedgerUnavailable
        try:
            while True:
                # Taken out until the write is known to have worked: no failure leaves a wrong head behind.
                event = build(self._head(shard, deadline))
                transaction = Transaction(connection=self._connection().connection, client_request_token=event.event_id)
                transaction.save(event, condition=PHIFileTracking.shard.does_not_exist())
                attach(transaction)
                transaction.check_size()
                if self._commit(transaction, event, deadline):
                    self._heads[shard] = Head(int(event.seq), event.hash)
                    return event
                self._shared.add(shard)
                if time.monotonic() > deadline:
                    raise LedgerUnavailable
                self._pause(random.uniform(0, FIRST_PAUSE))  # noqa: S311 - spreads writers out, guards nothing
        finally:
            self._locks[shard].release()

    def _commit(self, transaction: Transaction, event: PHIFileTracking, deadline: float) -> bool:
        """True when the event stands, False when another stands in its place."""
        try:
            self._patiently(transaction.commit, deadline)
        except TransactWriteError as error:
            # An earlier attempt of ours, or one that the client repeated by itself, may have got through.
            if self._is_ours(event, deadline):
                return True
            transaction.raise_refusal(error)
            return False
        return True

    def _head(self, shard: int, deadline: float) -> Head:
        cached = self._heads.pop(shard, None)
        if cached is not None and shard not in self._shared:
            return cached
        page = self._patiently(
            lambda: self._connection().query(shard_key(shard), consistent_read=True, scan_index_forward=False, limit=1),
            deadline,
        )
        items = page["Items"]
        head = Head(int(items[0]["seq"]["N"]), items[0]["hash"]["S"]) if items else EMPTY
        if head == cached:
            self._shared.discard(shard)
        return head

    def _is_ours(self, event: PHIFileTracking, deadline: float) -> bool:
        # A query, though it is one row: the services tier needs no other right to read events (design, section 6).
        page = self._patiently(
            lambda: self._connection().query(
                shard_key(int(event.shard)), range_key_condition=PHIFileTracking.seq == event.seq, consistent_read=True
            ),
            deadline,
        )
        return any(item.get("event_id") == {"S": event.event_id} for item in page["Items"])

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
