"""Legal holds as deletions and uploads see them: the rows that must not be there. The use-cases are in `cleanup.holds`.

Imported by the registry, `deletion` and the clean-up.
"""

from __future__ import annotations

from collections.abc import Iterable

from pynamodb.exceptions import PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib.errors import LedgerUnavailable
from nas_gateway.files.tables import Hold, TrackedFile


def file_scope(file_id: str) -> str:
    return f"file:{file_id}"


def cohort_scope(cohort: str) -> str:
    return f"cohort:{cohort}"


def scopes_of(file: TrackedFile) -> list[str]:
    """What a hold on this file may be called."""
    return [file_scope(file.file_id), *([cohort_scope(file.cohort)] if file.cohort else [])]


def require_none(transaction: TransactWrite, file: TrackedFile) -> None:
    """Add the checks that no hold stands on a file. With them no hold can be set between looking and writing."""
    for scope in scopes_of(file):
        transaction.condition_check(Hold, scope, condition=Hold.scope.does_not_exist())


def standing(scopes: Iterable[str]) -> set[str]:
    """Those of these scopes on which a hold stands, read consistently. Raises `LedgerUnavailable`."""
    wanted = list(dict.fromkeys(scopes))
    try:
        # BatchGetItem takes 100 keys; PynamoDB cuts a longer list.
        return {hold.scope for hold in Hold.batch_get(wanted, consistent_read=True)} if wanted else set()
    except PynamoDBException as error:
        raise LedgerUnavailable from error
