"""The transaction in which an event is written, and what its refusal means. Imported by `append` and `ledger` only."""

from __future__ import annotations

from typing import Any

from pynamodb.exceptions import CancellationReason, TransactWriteError
from pynamodb.transactions import TransactWrite

# DynamoDB: 100 actions a transaction, two of which are the ledger's own.
MAX_CHANGES = 98

_FAILED = "ConditionalCheckFailed"


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

    def in_place_of_event(self, error: TransactWriteError) -> dict[str, Any] | None:
        """The row that stands where the event was to go, if the refusal shows it; the event is added first."""
        reason = self._reasons(error).get(0)
        return reason.raw_item if reason is not None and reason.code == _FAILED else None

    def raise_refusal(self, error: TransactWriteError) -> None:
        """Raise for a failed condition of the operation's row or of the caller; the event's own is no refusal."""
        failed = {number for number, reason in self._reasons(error).items() if reason.code == _FAILED}
        if any(0 < number < self._own for number in failed):
            raise NotOpen
        theirs = sorted(number - self._own for number in failed if number >= self._own)
        if theirs:
            raise ChangeRefused(theirs[0]) from None

    def _reasons(self, error: TransactWriteError) -> dict[int, CancellationReason]:
        """By the order in which the items were added."""
        place = [(name, i) for name in self._LISTS for i in range(len(getattr(self, name)))]
        return {
            self._added.index(place[position]): reason
            for position, reason in enumerate(error.cancellation_reasons)
            if reason is not None
        }
