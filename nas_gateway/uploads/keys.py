"""Idempotency keys: the same creation, sent again, finds the upload that it opened the first time. Used by `service`.

The draft standard is "The Idempotency-Key HTTP Header Field" (IETF httpapi): same key and payload, same result; another
payload under a known key is refused (422).
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from pynamodb.exceptions import DoesNotExist, PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib.auth.policy import SERVICE
from chalicelib.errors import IdempotencyMismatch, InvalidRequest, LedgerUnavailable, UploadMissing
from chalicelib.storage.uploads import NewUpload
from nas_gateway.files.registry import Change
from nas_gateway.uploads import rows
from nas_gateway.uploads.tables import UploadKey, UploadSession

MAX_KEY_CHARS = 255


def key_of(owner: str, key: str | None) -> str | None:
    """The row's key: a user's keys are nobody else's. Raises `InvalidRequest`."""
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise InvalidRequest(f"An Idempotency-Key is 1 to {MAX_KEY_CHARS} printable ASCII characters.")
    return hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()


def payload_of(new: NewUpload, sources: list[str] | None) -> str:
    """A digest of everything that was asked for, but the key."""
    values = {**new.to_json(), "idempotency_key": None, "sources": sources}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Found(NamedTuple):
    """What a key stands for: the upload that it opened, and the one that it names though that is over without a file."""

    upload_id: str | None = None
    over: str | None = None


def find(key: str, payload: str, now: float) -> Found:
    """The upload that this key opened. Raises `IdempotencyMismatch`."""
    try:
        row = UploadKey.get(key, consistent_read=True)
    except DoesNotExist:
        return Found()
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    try:
        session = rows.get(row.upload_id, SERVICE)
    except UploadMissing:
        return Found(over=row.upload_id)
    if rows.is_over(session, now):
        return Found(over=row.upload_id)
    if row.payload != payload:
        raise IdempotencyMismatch
    return Found(row.upload_id)


def saved(key: str, payload: str, session: UploadSession, old: str | None) -> Change:
    """The change that binds a key to a new session, for the transaction that opens it. `old` is what `find` found over.

    Refused when the key was bound since `find` looked: the caller looks again.
    """
    row = UploadKey(key, upload_id=session.upload_id, payload=payload, expires_at=session.expires_at)

    def change(transaction: TransactWrite) -> None:
        condition = UploadKey.key.does_not_exist() if old is None else UploadKey.upload_id == old
        transaction.save(row, condition=condition)

    return change
