"""Rows of upload sessions: reading, the lease, the conditional advance of the offset.

Every write is conditional on the epoch of the writer that makes it, so that one which slept past its lease and woke up is
refused. Used by `uploads` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException, TransactWriteError, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.transactions import TransactWrite

from chalicelib import dynamo
from chalicelib.auth.policy import SERVICE, Principal
from chalicelib.errors import LeaseLost, LedgerUnavailable, UploadInProgress, UploadMissing
from chalicelib.limits import LEASE_SECONDS
from chalicelib.storage.base import Part
from nas_gateway.files.registry import Change
from nas_gateway.files.tables import State, UploadPart, UploadSession

Clock = Callable[[], float]


def get(upload_id: str, principal: Principal) -> UploadSession:
    """A session of this user's (the services tier itself may see any). Raises `UploadMissing`, `LedgerUnavailable`."""
    try:
        session = UploadSession.get(upload_id, consistent_read=True)
    except DoesNotExist:
        raise UploadMissing from None
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    if principal is not SERVICE and session.owner != principal.username:
        raise UploadMissing
    return session


def update(session: UploadSession, actions: list[Any], condition: Condition) -> None:
    """One conditional write; `session` holds the new values after it. Raises `LeaseLost`, `LedgerUnavailable`."""
    try:
        session.update(actions, condition=condition)
    except UpdateError as error:
        if error.cause_response_code == "ConditionalCheckFailedException":
            raise LeaseLost from None
        raise LedgerUnavailable from error


@contextmanager
def leased(session: UploadSession, clock: Clock, *, renumber: bool = False) -> Iterator[None]:
    """Hold the session for one call. Taking it raises the epoch. Raises `UploadInProgress` while another holds it.

    A holder that did not let go may still be writing a part. With `renumber` its number is skipped, so that what it writes
    late lands beside the upload and not over an acknowledged part (see `PartStorage`).
    """
    now = clock()
    taken: list[Any] = [UploadSession.epoch.add(1), UploadSession.lease_until.set(now + LEASE_SECONDS)]
    if renumber and session.lease_until:
        taken.append(UploadSession.parts.add(1))
    try:
        update(
            session,
            taken,
            (UploadSession.lease_until < now)
            & (UploadSession.lease_until == session.lease_until)
            & (UploadSession.state == session.state)
            & (UploadSession.offset == session.offset),
        )
    except LeaseLost:
        raise UploadInProgress(
            "Another call is writing to this upload. Ask for its status and go on from there."
        ) from None
    try:
        yield
    finally:
        # Where this fails the lease simply runs out.
        with suppress(LeaseLost, LedgerUnavailable):
            update(session, [UploadSession.lease_until.set(0)], UploadSession.epoch == session.epoch)


def renew(session: UploadSession, clock: Clock) -> None:
    """Hold on while a slow body arrives. Raises `LeaseLost`."""
    update(session, [UploadSession.lease_until.set(clock() + LEASE_SECONDS)], UploadSession.epoch == session.epoch)


def advance(session: UploadSession, part: Part, *, closes: bool, clock: Clock) -> None:
    """Acknowledge a part that is durable: its row, and the offset moved past it, in one transaction.

    Raises `LeaseLost` when the epoch or the offset is no longer what this writer knows.
    """
    offset, lease_until = part.offset + part.size, clock() + LEASE_SECONDS
    row = UploadPart(
        session.upload_id, part.number, offset=part.offset, size=part.size, etag=part.etag, sha256=part.sha256
    )
    mine = (
        (UploadSession.epoch == session.epoch)
        & (UploadSession.offset == part.offset)
        & (UploadSession.state == State.OPEN)
    )
    moved: list[Any] = [
        UploadSession.offset.set(offset),
        UploadSession.parts.set(part.number),
        UploadSession.closed.set(closes),
        UploadSession.lease_until.set(lease_until),
    ]
    try:
        with TransactWrite(connection=dynamo.connection(UploadSession)) as transaction:
            transaction.save(row)
            transaction.update(UploadSession(session.upload_id), moved, condition=mine)
    except TransactWriteError as error:
        if any(reason is not None and reason.code == "ConditionalCheckFailed" for reason in error.cancellation_reasons):
            raise LeaseLost from None
        raise LedgerUnavailable from error
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    session.offset, session.parts, session.closed, session.lease_until = offset, part.number, closes, lease_until


def parts(upload_id: str) -> list[Part]:
    """The acknowledged parts of a session, in order. Raises `LedgerUnavailable`."""
    try:
        rows = UploadPart.query(upload_id, consistent_read=True)
        return [Part(int(row.number), int(row.offset), int(row.size), row.etag, row.sha256) for row in rows]
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def ended(session: UploadSession, state: str) -> Change:
    """The change that ends a session, for the transaction of its outcome."""

    def change(transaction: TransactWrite) -> None:
        transaction.update(UploadSession(session.upload_id), [UploadSession.state.set(state)])

    return change
