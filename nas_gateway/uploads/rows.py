"""Rows of upload sessions: reading, the lease, the conditional advance of the offset.

Every write is conditional on the epoch of the writer that makes it, so that one which slept past its lease and woke up is
refused. A refusal is believed only after looking whether the row already says what was to be written: botocore repeats a
request whose answer did not come. Used inside this package only.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException, TransactWriteError, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.transactions import TransactWrite

from chalicelib import dynamo
from chalicelib.auth.policy import SERVICE, Permission, Principal
from chalicelib.errors import (
    DepotError,
    LeaseLost,
    LedgerUnavailable,
    OffsetConflict,
    UploadEnded,
    UploadInProgress,
    UploadMissing,
    UploadStateConflict,
)
from chalicelib.storage.base import Part
from nas_gateway.files.registry import Change
from nas_gateway.files.tables import State
from nas_gateway.uploads.tables import ENDED as OVER
from nas_gateway.uploads.tables import LIVE, UploadPart, UploadSession

Clock = Callable[[], float]

# A session that nobody adds to ends after a day.
SESSION_SECONDS = 24 * 3600
# ... and its end is moved only when that gains an hour, so that the index by expiry is not written with every chunk.
_EXTEND_SECONDS = 3600
# Rows of a session that ended go so long after it would have expired: receipts are asked for within days.
KEEP_SECONDS = 7 * 24 * 3600
# How long a call waits for another to let go of the session: a client that reconnects is faster than the news that its old
# connection broke. Longer waits are the client's (423, Retry-After).
WAIT_SECONDS, _POLL_SECONDS = 3.0, 0.05

ENDED = (State.ABORTED, State.FAILED, State.LOST)
_REFUSED = "ConditionalCheckFailedException"

# [offset, size, sha256]: acknowledged bytes that are not in a part yet.
Tail = tuple[int, int, str]


# --- reading --------------------------------------------------------------------------------------------------------


def get(upload_id: str, principal: Principal) -> UploadSession:
    """A session of this user's (the services tier itself may see any). Raises `UploadMissing`, `LedgerUnavailable`.

    Whoever lost the right to upload since, and a token that never had it, does not go on with its owner's uploads either.
    """
    try:
        session = UploadSession.get(upload_id, consistent_read=True)
    except DoesNotExist:
        raise UploadMissing from None
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    if principal is not SERVICE and (session.owner != principal.username or not _may_upload(principal, session.path)):
        raise UploadMissing
    return session


def _may_upload(principal: Principal, path: str) -> bool:
    folders = path.split("/")
    if folders[0] == "submissions" and len(folders) > 1:
        return principal.may(Permission.UPLOAD, folders[1])
    return principal.scope(Permission.UPLOAD) != frozenset()  # of other purposes the path does not name the cohort


def parts(upload_id: str) -> list[Part]:
    """The acknowledged parts of a session, in order. Raises `LedgerUnavailable`."""
    try:
        rows = UploadPart.query(upload_id, consistent_read=True)
        return [Part(int(row.number), int(row.offset), int(row.size), row.etag, row.sha256) for row in rows]
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def live() -> list[UploadSession]:
    """Every session that has not ended, read consistently, those first that expire first. Raises `LedgerUnavailable`.

    The index by expiry may be a moment behind: a session that was opened or written to just now can be missing.
    """
    try:
        ids = dict.fromkeys(row.upload_id for row in UploadSession.by_expiry.query(LIVE))
        found = {row.upload_id: row for row in UploadSession.batch_get(ids, consistent_read=True) if row.live}
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return [found[upload_id] for upload_id in ids if upload_id in found]


def tails(session: UploadSession) -> list[Tail]:
    """The acknowledged bytes behind the last part."""
    return [(int(offset), int(size), str(sha256)) for offset, size, sha256 in session.tails or ()]


def size_of(session: UploadSession) -> int | None:
    """The announced length in bytes, or None while it is open."""
    return None if session.size is None else int(session.size)


def is_over(session: UploadSession, now: float) -> bool:
    """Whether the session ended without a file, or has expired."""
    return session.state in ENDED or (session.state != State.AVAILABLE and session.expires_at < now)


# --- the lease ------------------------------------------------------------------------------------------------------


def take(
    upload_id: str,
    principal: Principal,
    states: Sequence[str],
    *,
    clock: Clock,
    lease: float,
    offset: int | None = None,
    wait: float = WAIT_SECONDS,
    nudge: Callable[[], None] = lambda: None,
    even_expired: bool = False,
) -> UploadSession:
    """Hold a session for one call; its row as it is then. Taking it raises the epoch. One round trip when it is free.

    While another call holds it, waits up to `wait` seconds; `nudge` is called in between. Raises `UploadMissing`,
    `UploadEnded`, `OffsetConflict`, `UploadStateConflict`, `UploadInProgress`, `LedgerUnavailable`. `even_expired` is for the
    sweep, which ends sessions or finishes them.
    """
    holder, deadline = uuid.uuid4().hex, time.monotonic() + wait
    while True:
        session = UploadSession(upload_id)
        now = clock()
        # Also false where there is no such row.
        free: Condition = (UploadSession.lease_until < now) & UploadSession.state.is_in(*states)
        if not even_expired:
            free &= UploadSession.expires_at >= now
        if offset is not None:
            free &= UploadSession.offset == offset
        if principal is not SERVICE:
            free &= UploadSession.owner == principal.username
        actions: list[Any] = [
            UploadSession.epoch.add(1),
            UploadSession.lease_until.set(now + lease),
            UploadSession.holder.set(holder),
        ]
        try:
            session.update(actions, condition=free)
            return session
        except UpdateError as error:
            if dynamo.code_of(error) != _REFUSED:
                raise LedgerUnavailable from error
        found = get(upload_id, principal)
        if found.holder == holder:
            return found
        refusal = _why(found, states, offset, clock(), even_expired)
        if not isinstance(refusal, UploadInProgress) or time.monotonic() >= deadline:
            raise refusal
        nudge()
        time.sleep(_POLL_SECONDS)


def _why(
    session: UploadSession, states: Sequence[str], offset: int | None, now: float, even_expired: bool
) -> DepotError:
    if session.state in ENDED or (is_over(session, now) and not even_expired):
        return UploadEnded()
    if session.state not in states:
        if offset is not None and int(session.offset) != offset:
            return OffsetConflict()
        return UploadStateConflict(f"The upload is {session.state}. Ask for its status.")
    if session.lease_until >= now:
        return UploadInProgress("Another call is writing to this upload. Ask for its status and go on from there.")
    # Free now: either the offset was wrong all along, or the holder let go a moment ago.
    if offset is not None and int(session.offset) != offset:
        return OffsetConflict()
    return UploadInProgress()


@contextmanager
def released(session: UploadSession) -> Iterator[None]:
    """Let go at the end, if the block did not do so with its last write."""
    try:
        yield
    finally:
        if session.lease_until:
            # Where this fails the lease simply runs out.
            with suppress(LeaseLost, LedgerUnavailable):
                update(session, letting_go(session), UploadSession.epoch == session.epoch)


def letting_go(session: UploadSession) -> list[Any]:
    """Updates that end this holder's lease."""
    # Where a holder before this one never let go and nothing was stored since, the next one has to know of it too.
    clean = [] if unclean_epochs(session) else [UploadSession.clean_epoch.set(session.epoch)]
    return [UploadSession.lease_until.set(0), *clean]


def unclean_epochs(session: UploadSession) -> int:
    """How many holders there were since the last of which none can still be writing a part behind the recorded ones."""
    return max(0, int(session.epoch) - 1 - int(session.clean_epoch))


def renew(session: UploadSession, clock: Clock, lease: float) -> None:
    """Hold on while a slow body arrives. Raises `LeaseLost`."""
    update(session, [UploadSession.lease_until.set(clock() + lease)], UploadSession.epoch == session.epoch)


# --- writing --------------------------------------------------------------------------------------------------------


def update(session: UploadSession, actions: list[Any], condition: Condition) -> None:
    """One conditional write; `session` holds the new values after it. Raises `LeaseLost`, `LedgerUnavailable`."""
    try:
        session.update(actions, condition=condition)
    except UpdateError as error:
        if dynamo.code_of(error) == _REFUSED:
            raise LeaseLost from None
        raise LedgerUnavailable from error


def advance(
    session: UploadSession,
    *,
    offset: int,
    new: Sequence[Part] = (),
    tails: Sequence[Tail] = (),
    clock: Clock,
    lease: float,
    release: bool = False,
    state: str | None = None,
    forwarded: tuple[int, str | None] | None = None,
) -> None:
    """Acknowledge what is durable: the parts' rows, the tails, and the offset moved to `offset`, in one write.

    `release` lets go of the session in the same write; `state` is the state it goes into; `forwarded` is what the web tier
    has confirmed by now: the session's bytes, and their digest where it is known. At most 99 parts (DynamoDB: 100
    actions a transaction). Raises `LeaseLost` when the epoch or the offset is no longer what this writer knows.
    """
    now = clock()
    mine = (
        (UploadSession.epoch == session.epoch)
        & (UploadSession.offset == session.offset)
        & (UploadSession.state == State.OPEN)
    )
    values: dict[str, Any] = {"offset": offset, "tails": [list(tail) for tail in tails] or None}
    values["hold_until"] = session.hold_until
    values["lease_until"] = 0 if release else now + lease
    if new:
        values["parts"] = new[-1].number
        values["clean_epoch"] = int(session.epoch) - 1  # earlier holders' numbers are below these now
    if release and (new or not unclean_epochs(session)):
        values["clean_epoch"] = int(session.epoch)
    if state:
        values["state"] = state
    if forwarded is not None:
        values["forwarded"], values["forwarded_sha256"] = forwarded
    if now + SESSION_SECONDS - session.expires_at > _EXTEND_SECONDS:
        values["expires_at"] = int(now + SESSION_SECONDS)
    actions = [
        getattr(UploadSession, name).remove() if value is None else getattr(UploadSession, name).set(value)
        for name, value in values.items()
    ]
    try:
        _write(session, actions, mine, new)
    except LeaseLost:
        found = get(session.upload_id, SERVICE)
        if not (found.epoch == session.epoch and found.offset == offset):
            raise
    for name, value in values.items():
        setattr(session, name, value)


def _write(session: UploadSession, actions: list[Any], condition: Condition, new: Sequence[Part]) -> None:
    if not new:
        update(UploadSession(session.upload_id), actions, condition)
        return
    try:
        with TransactWrite(
            connection=dynamo.connection(UploadSession), client_request_token=uuid.uuid4().hex
        ) as transaction:
            for part in new:
                transaction.save(
                    UploadPart(
                        session.upload_id,
                        part.number,
                        offset=part.offset,
                        size=part.size,
                        etag=part.etag,
                        sha256=part.sha256,
                    )
                )
            transaction.update(UploadSession(session.upload_id), actions, condition=condition)
    except TransactWriteError as error:
        if any(reason is not None and reason.code == "ConditionalCheckFailed" for reason in error.cancellation_reasons):
            raise LeaseLost from None
        raise LedgerUnavailable from error
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def opened(session: UploadSession, handle: str) -> None:
    """The store has begun: the session can take bytes, and is let go of. Raises `LeaseLost`, `LedgerUnavailable`."""
    begun = [UploadSession.handle.set(handle), UploadSession.state.set(State.OPEN), *letting_go(session)]
    try:
        update(session, begun, (UploadSession.state == State.INTENT) & (UploadSession.epoch == session.epoch))
    except LeaseLost:
        if get(session.upload_id, SERVICE).handle != handle:
            raise
        session.handle, session.state, session.lease_until = handle, State.OPEN, 0


def completing(session: UploadSession) -> None:
    """The bytes are all there and the file is about to be made visible. Raises `LeaseLost`, `LedgerUnavailable`."""
    if session.state != State.COMPLETING:
        update(session, [UploadSession.state.set(State.COMPLETING)], UploadSession.epoch == session.epoch)


def condemn(session: UploadSession) -> None:
    """Whatever fails from here on, nobody can go on with it: for all but the sweep it has expired. Raises as `update`."""
    update(session, [UploadSession.expires_at.set(0)], UploadSession.epoch == session.epoch)


def reopened(session: UploadSession) -> None:
    """The store refused to complete what was there: more may be sent. Raises `LeaseLost`, `LedgerUnavailable`."""
    update(session, [UploadSession.state.set(State.OPEN)], UploadSession.epoch == session.epoch)


def ended(session: UploadSession, state: str) -> Change:
    """The change that ends a session, for the transaction of its outcome; the lease ends with it.

    Conditional on the epoch: a holder that slept past its lease must not end what another is going on with.
    """

    # (A condemned session has no expiry of its own any more.)
    forget_at = int(max(session.expires_at, session.created_at + SESSION_SECONDS) + KEEP_SECONDS)
    over = [UploadSession.live.remove(), UploadSession.ended.set(OVER), UploadSession.forget_at.set(forget_at)]

    def change(transaction: TransactWrite) -> None:
        transaction.update(
            UploadSession(session.upload_id),
            [UploadSession.state.set(state), *over, *letting_go(session)],
            condition=UploadSession.epoch == session.epoch,
        )

    return change


def note_ended(session: UploadSession, state: str) -> None:
    """What `ended` wrote, put into the row in memory."""
    session.state, session.live, session.lease_until = state, None, 0


def new_row(**values: Any) -> UploadSession:
    return UploadSession(live=LIVE, **values)
