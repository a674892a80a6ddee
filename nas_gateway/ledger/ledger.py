"""The ledger as use-cases see it: say what you are about to do, do it, say how it ended.

No PHI moves without an intent: `begin` either returns or raises, and only then may the first byte go. Each call is one
DynamoDB transaction, which the caller's own changes can join. Dependencies: `append`, `tables`, `events`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib import metrics
from chalicelib.errors import LedgerUnavailable, OperationEnded
from nas_gateway.ledger.append import Appender
from nas_gateway.ledger.chain import Head
from nas_gateway.ledger.events import (
    VERSION,
    Intent,
    Operation,
    Outcome,
    check_count,
    describe,
    shard_of,
    utcnow,
)
from nas_gateway.ledger.tables import OpenOperation, PHIFileTracking
from nas_gateway.ledger.transaction import ChangeRefused, NotOpen, Transaction

__all__ = ["ChangeRefused", "Changes", "Ledger"]

# Adds the caller's own saves, updates, deletes and checks (at most `transaction.MAX_CHANGES`) to the event's transaction. May be
# called more than once (a race for the place in the chain was lost), so it must do nothing else, and must not touch the
# ledger's own rows.
Changes = Callable[[TransactWrite], None]


class Ledger:
    """One a process; thread-safe. `server_role` and `clock` (aware times) go into every event."""

    def __init__(
        self, *, server_role: str, clock: Callable[[], datetime] = utcnow, appender: Appender | None = None
    ) -> None:
        self._role = str(server_role)
        self._clock = clock
        self._appender = appender or Appender()

    def begin(self, operation: Operation, *, tracking_id: str | None = None, changes: Changes | None = None) -> Intent:
        """Record the intent. Nothing may be moved before this returned.

        `tracking_id` is given by a caller whose own rows, written in the same transaction, hold it too.

        Raises `LedgerUnavailable` (then it may or may not stand; if it does, the sweeper will find it open) and
        `ChangeRefused` (then nothing was written).
        """
        tracking_id = tracking_id or uuid.uuid4().hex
        intent = Intent(tracking_id, operation, self._clock(), shard_of(operation, tracking_id))
        row = OpenOperation(
            tracking_id,
            shard=intent.shard,
            opened_at=intent.stream_start,
            server_role=self._role,
            operation=operation.to_json(),
        )

        def attach(transaction: Transaction) -> None:
            transaction.save(row, condition=OpenOperation.tracking_id.does_not_exist())
            _join(transaction, changes)

        try:
            self._append(intent.shard, intent, operation, Outcome.INTENT, attach, stream_start=intent.stream_start)
        except NotOpen as error:  # two equal random ids: not believed, but not passed over either
            raise LedgerUnavailable from error
        return intent

    def finish(
        self,
        intent: Intent,
        outcome: Outcome,
        *,
        bytes_transferred: int = 0,
        file_size: int | None = None,
        file_hash: str | None = None,
        action: str | None = None,
        error: BaseException | str | None = None,
        metadata: Mapping[str, str] | None = None,
        changes: Changes | None = None,
    ) -> PHIFileTracking:
        """Record how the operation ended: exactly one such event is ever written for an intent.

        Raises `OperationEnded` when it has one, `ChangeRefused` (nothing was written), and `LedgerUnavailable`: then the
        outcome may stand or not; calling again is safe, and `OperationEnded` then says that it does.
        """
        if outcome is Outcome.INTENT:
            raise ValueError("an operation ends as completed, failed or unknown")
        known = intent.operation
        operation = replace(
            known,
            action=action or known.action,
            file_size=known.file_size if file_size is None else file_size,
            file_hash=file_hash or known.file_hash,
            metadata={**known.metadata, **(metadata or {})},
        )

        def attach(transaction: Transaction) -> None:
            transaction.delete(OpenOperation(intent.tracking_id), condition=OpenOperation.tracking_id.exists())
            _join(transaction, changes)

        try:
            return self._append(
                intent.shard,
                intent,
                operation,
                outcome,
                attach,
                error=error,
                bytes_transferred=bytes_transferred,
                stream_start=intent.stream_start,
                stream_complete=self._clock(),
            )
        except NotOpen:
            raise OperationEnded from None

    def record(
        self,
        operation: Operation,
        outcome: Outcome = Outcome.COMPLETED,
        *,
        error: BaseException | str | None = None,
        bytes_transferred: int = 0,
        tracking_id: str | None = None,
        changes: Changes | None = None,
    ) -> PHIFileTracking:
        """A single event without intent: refused access, bookkeeping about files that already moved.

        Raises `LedgerUnavailable` and `ChangeRefused`.
        """
        if outcome is Outcome.INTENT:
            raise ValueError("an intent is recorded with begin()")
        tracking_id = tracking_id or uuid.uuid4().hex
        intent = Intent(tracking_id, operation, self._clock(), shard_of(operation, tracking_id))
        return self._append(
            intent.shard,
            intent,
            operation,
            outcome,
            lambda transaction: _join(transaction, changes),
            error=error,
            bytes_transferred=bytes_transferred,
        )

    def open_intent(self, tracking_id: str) -> Intent | None:
        """The intent, if it has no outcome yet; in any process. Raises `LedgerUnavailable`."""
        if not tracking_id:
            return None
        try:
            return OpenOperation.get(tracking_id, consistent_read=True).to_intent()
        except DoesNotExist:
            return None
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    def _append(
        self,
        shard: int,
        intent: Intent,
        operation: Operation,
        outcome: Outcome,
        attach: Callable[[Transaction], None],
        *,
        error: BaseException | str | None = None,
        bytes_transferred: int = 0,
        **times: datetime,
    ) -> PHIFileTracking:
        check_count("bytes_transferred", bytes_transferred)
        values: dict[str, Any] = {
            **operation.to_json(),
            **times,
            "v": VERSION,
            "shard": shard,
            "tracking_id": intent.tracking_id,
            "outcome": outcome,
            "server_role": self._role,
            "bytes_transferred": bytes_transferred,
        }
        if error is not None:
            values["error_code"], values["error_message"] = describe(error)

        def build(head: Head) -> PHIFileTracking:
            # A new id for each place that is tried: it is also the request's token, and tells our event from an equal one.
            return PHIFileTracking.linked(
                **values, event_id=uuid.uuid4().hex, seq=head.seq + 1, prev_hash=head.hash, at=self._clock()
            )

        try:
            return self._appender.append(shard, build, attach)
        except LedgerUnavailable:
            metrics.count("depot_ledger_unavailable_total")
            raise


def _join(transaction: Transaction, changes: Changes | None) -> None:
    transaction.end_of_own()
    if changes is not None:
        changes(transaction)
