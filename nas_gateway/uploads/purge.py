"""Removes the rows of upload sessions that ended long ago: the session, its parts, its idempotency key.

The ledger and the file's own row keep what happened. Found by an index that holds ended sessions alone, oldest first, so the
cost grows with what is due. Run by the job `expiry`; safe at any time, several at once, and to repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pynamodb.exceptions import DeleteError, DoesNotExist, PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib import dynamo
from chalicelib.errors import LedgerUnavailable
from nas_gateway.files.registry import Clock, Registry
from nas_gateway.files.tables import State
from nas_gateway.uploads.tables import ENDED, UploadKey, UploadPart, UploadSession

# When rows that are still needed are looked at again, at the soonest.
LATER_SECONDS = 24 * 3600
# DynamoDB takes 100 actions a transaction.
_TRANSACTION = 100
_REFUSED = "ConditionalCheckFailedException"


class Purge:
    """One a process. Stateless."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry, self._clock = registry, clock

    def run(self, over: Callable[[], bool] = lambda: False) -> dict[str, int]:
        """Remove what is due until `over`; counts. Raises `LedgerUnavailable`; what was removed until then stays so."""
        counts = {"sessions": 0, "parts": 0, "kept": 0}
        try:
            for upload_id in self._due():
                if over():
                    break
                self._remove(upload_id, counts)
        except PynamoDBException as error:
            raise LedgerUnavailable from error
        return counts

    def _due(self) -> Iterator[str]:
        for row in UploadSession.by_end.query(ENDED, UploadSession.forget_at < self._clock()):
            yield row.upload_id

    def _remove(self, upload_id: str, counts: dict[str, int]) -> None:
        try:
            session = UploadSession.get(upload_id, consistent_read=True)
        except DoesNotExist:  # the index lags, or another run was faster
            return
        if not session.ended or session.forget_at >= self._clock():  # the index lags
            return
        if (later := self._needed_until(session)) is not None:
            session.update([UploadSession.forget_at.set(int(later))], condition=UploadSession.upload_id.exists())
            counts["kept"] += 1
            return
        # The session's row last: a crash before leaves it to be found again.
        counts["parts"] += _remove_parts(upload_id)
        if session.key:
            _remove_key(session.key, upload_id)
        session.delete()
        counts["sessions"] += 1

    def _needed_until(self, session: UploadSession) -> float | None:
        """The parts' digests are what the first check of a stored file goes by: they stay until it was made."""
        file = self._registry.get(session.file_id) if session.state == State.AVAILABLE else None
        if file is None or file.checked_at or file.state not in (State.AVAILABLE, State.CORRUPT, State.DELETING):
            return None
        return max(self._clock(), file.check_due or 0) + LATER_SECONDS


def _remove_parts(upload_id: str) -> int:
    gone = 0
    while rows := list(UploadPart.query(upload_id, limit=_TRANSACTION, consistent_read=True)):
        with TransactWrite(connection=dynamo.connection(UploadPart)) as transaction:
            for row in rows:
                transaction.delete(UploadPart(upload_id, row.number))
        gone += len(rows)
    return gone


def _remove_key(key: str, upload_id: str) -> None:
    """Unless the key has opened another upload since."""
    try:
        UploadKey(key).delete(condition=(UploadKey.upload_id == upload_id))
    except DeleteError as error:
        if dynamo.code_of(error) != _REFUSED:
            raise
