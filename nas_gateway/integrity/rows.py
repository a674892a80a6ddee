"""Rows of files as the integrity check sees them: what is due, the hold on one, and how a check ends.

A hold is a conditional write that names its holder. Every later write, and the transaction of a finding, asks for that
holder and for a file that is still stored: so no file is checked twice at once, and none that was replaced or deleted
meanwhile is written to. Used inside this package only.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Iterator
from typing import Any

from pynamodb.exceptions import PynamoDBException, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.transactions import TransactWrite

from chalicelib import dynamo
from chalicelib.errors import LeaseLost, LedgerUnavailable
from nas_gateway.files.registry import Change, claim_key
from nas_gateway.files.tables import CHECK_BUCKETS, PathClaim, State, TrackedFile

STORED = (State.AVAILABLE, State.CORRUPT)
# Rows of one answer: there is one of each bucket in memory at a time.
_PAGE = 100


def is_checked(file: TrackedFile) -> bool:
    """Stored through Depot, and still there. Of a work copy that was only reported to the ledger nobody knows the bytes."""
    return file.state in STORED and file.check_bucket is not None


def due(before: float) -> Iterator[TrackedFile]:
    """Stored files whose check is due before a moment (epoch seconds), the longest due first; fetched as it goes.

    One query a bucket; the index follows the table after a moment. Raises `LedgerUnavailable`.
    """
    rows = heapq.merge(
        *(
            TrackedFile.by_check.query(bucket, TrackedFile.check_due < before, page_size=_PAGE)
            for bucket in range(CHECK_BUCKETS)
        ),
        key=lambda row: row.check_due,
    )
    try:
        yield from rows
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def stored() -> Iterator[TrackedFile]:
    """Every stored file. Raises `LedgerUnavailable`."""
    try:
        for bucket in range(CHECK_BUCKETS):
            yield from TrackedFile.by_check.query(bucket, page_size=_PAGE)
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def count_due(*before: float, limit: int) -> list[int]:
    """How many checks are due before each of these moments, counted up to `limit` a bucket. Raises `LedgerUnavailable`."""
    counts = [0] * len(before)
    try:
        for bucket in range(CHECK_BUCKETS):
            # Sizes of index entries are what is paid for, whichever attributes are asked for: one walk for all moments.
            for row in TrackedFile.by_check.query(
                bucket, TrackedFile.check_due < max(before), limit=limit, attributes_to_get=["check_due"]
            ):
                counts = [count + (row.check_due < moment) for count, moment in zip(counts, before, strict=True)]
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return counts


def take(file: TrackedFile, now: float, lease: float, *, seen_due: float | None) -> TrackedFile | None:
    """Hold a file for a check: its row as it is now, or None where another has it or it is no longer stored.

    `seen_due`: the moment at which it was found to be due; if it is another now, it has been checked since.
    """
    row = TrackedFile(file.file_id)
    free: Condition = TrackedFile.state.is_in(*STORED)
    free &= TrackedFile.check_until.does_not_exist() | (TrackedFile.check_until < now)
    if seen_due is not None:
        free &= TrackedFile.check_due == seen_due
    holder = uuid.uuid4().hex
    wanted = [TrackedFile.check_holder.set(holder), TrackedFile.check_until.set(now + lease)]
    return row if _update(row, wanted, free | (TrackedFile.check_holder == holder)) else None


def renew(file: TrackedFile, until: float) -> None:
    """Hold it longer. Raises `LeaseLost` when the file is another's, or gone."""
    if not _update(TrackedFile(file.file_id), [TrackedFile.check_until.set(until)], held(file)):
        raise LeaseLost


def let_go(file: TrackedFile, *actions: Any) -> bool:
    """End the hold, with these changes besides. False, and nothing is written, when the file is no longer ours."""
    return _update(TrackedFile(file.file_id), [*actions, *_no_hold()], held(file))


def held(file: TrackedFile) -> Condition:
    """The check is still ours, and the file is in the state in which it was taken."""
    mine: Condition = TrackedFile.check_holder == file.check_holder
    both: Condition = mine & (TrackedFile.state == file.state)
    return both


def concluded(file: TrackedFile, *actions: Any) -> Change:
    """What goes into the transaction of a finding: the file still holds its path, with no upload on its way to it."""

    def change(transaction: TransactWrite) -> None:
        transaction.condition_check(
            PathClaim,
            claim_key(file.disk, file.path),
            condition=(PathClaim.file_id == file.file_id) & PathClaim.pending.does_not_exist(),
        )
        transaction.update(TrackedFile(file.file_id), [*actions, *_no_hold()], condition=held(file))

    return change


def _no_hold() -> list[Any]:
    return [TrackedFile.check_holder.remove(), TrackedFile.check_until.remove()]


def _update(row: TrackedFile, actions: list[Any], condition: Condition) -> bool:
    try:
        row.update(actions, condition=condition)
    except UpdateError as error:
        if dynamo.code_of(error) == "ConditionalCheckFailedException":
            return False
        raise LedgerUnavailable from error
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return True
