"""The registry: reads of current state, and the changes that go into the ledger's transactions.

A change is a function that adds its writes to a `TransactWrite`; the ledger commits it together with the event that
explains it. The write of the path's claim always comes first, so that a refused change 0 means "the path is taken".
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException, TransactWriteError, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.transactions import TransactWrite

from chalicelib import dynamo
from chalicelib.errors import (
    FileExists,
    InvalidRequest,
    LeaseLost,
    LedgerUnavailable,
    UploadInProgress,
)
from chalicelib.limits import INTEGRITY_PERIOD_DAYS
from nas_gateway.files.tables import CHECK_BUCKETS, PathClaim, State, TrackedFile

Change = Callable[[TransactWrite], None]
Clock = Callable[[], float]

NO_COHORT = "-"


def claim_key(disk: str, path: str) -> str:
    """Key of the row that says who holds a path."""
    return f"{disk}:{hashlib.sha256(path.encode()).hexdigest()}"


class Registry:
    """State rows. Stateless itself; one a process. A stored file is read again within `check_seconds`."""

    def __init__(self, clock: Clock = time.time, *, check_seconds: float = INTEGRITY_PERIOD_DAYS * 86400) -> None:
        self._clock, self._check_seconds = clock, check_seconds

    # --- reads -----------------------------------------------------------------------------------------------

    def get(self, file_id: str) -> TrackedFile | None:
        """A file by its id, read consistently. Raises `LedgerUnavailable`."""
        try:
            return TrackedFile.get(file_id, consistent_read=True)
        except DoesNotExist:
            return None
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    def claim(self, disk: str, path: str) -> PathClaim | None:
        """Who holds a path. Raises `LedgerUnavailable`."""
        try:
            return PathClaim.get(claim_key(disk, path), consistent_read=True)
        except DoesNotExist:
            return None
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    def at(self, disk: str, path: str) -> TrackedFile | None:
        """The available file at a path, or None where no row knows one."""
        claim = self.claim(disk, path)
        return self.get(claim.file_id) if claim is not None and claim.file_id else None

    def listed(self, cohort: str, cursor: str | None, limit: int) -> tuple[list[TrackedFile], str | None]:
        """Available files of a cohort, oldest first; the next page's cursor. Raises `InvalidRequest` for a bad one."""
        try:
            found = TrackedFile.by_cohort.query(cohort, limit=limit, last_evaluated_key=_decode(cursor))
            files = list(found)
            return files, _encode(found.last_evaluated_key)
        except PynamoDBException as error:
            if "ValidationException" in str(dynamo.code_of(error)):
                raise InvalidRequest("The cursor is not one of this list's.") from None
            raise LedgerUnavailable from error

    def due_for_cleanup(self, disks: Sequence[str], before: float, limit: int) -> list[TrackedFile]:
        """Temporary files whose deadline has passed at `before` (epoch seconds), longest overdue first."""
        found: list[TrackedFile] = []
        try:
            for disk in disks:
                due = TrackedFile.cleanup_due < before
                found.extend(TrackedFile.by_cleanup.query(disk, range_key_condition=due, limit=limit))
        except PynamoDBException as error:
            raise LedgerUnavailable from error
        return sorted(found, key=lambda file: file.cleanup_due or 0)[:limit]

    # --- changes ---------------------------------------------------------------------------------------------

    def announce(self, file: TrackedFile, *, if_absent: bool, hold_seconds: float) -> Change:
        """An upload to the file's path begins: take the path (change 0), put the row."""
        now = self._clock()
        free: Condition = PathClaim.pending.does_not_exist() | (PathClaim.pending_until < now)
        if if_absent:
            free &= PathClaim.file_id.does_not_exist()

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                PathClaim(claim_key(file.disk, file.path)),
                [PathClaim.pending.set(file.file_id), PathClaim.pending_until.set(now + hold_seconds)],
                condition=free,
            )
            transaction.save(file, condition=TrackedFile.file_id.does_not_exist())

        return change

    def refused(self, file: TrackedFile, *, if_absent: bool) -> FileExists | UploadInProgress:
        """Why `announce` was refused: what stands at the path now."""
        claim = self.claim(file.disk, file.path)
        if if_absent and claim is not None and claim.file_id:
            return FileExists()
        return UploadInProgress()

    def arrived(self, file: TrackedFile) -> Change:
        """The bytes are on the NAS: the path is this file's (change 0, while the hold is ours), older one replaced."""
        claim = self.claim(file.disk, file.path)
        old = claim.file_id if claim is not None and claim.file_id != file.file_id else None
        now = self._clock()
        file.state, file.updated_at = State.AVAILABLE, now
        file.check_bucket = zlib.crc32(file.file_id.encode()) % CHECK_BUCKETS
        file.check_due = now + self._check_seconds
        file.listed_in = file.cohort or NO_COHORT
        file.listed_at = f"{datetime.fromtimestamp(now, UTC).isoformat(timespec='microseconds')}#{file.file_id}"

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                PathClaim(claim_key(file.disk, file.path)),
                [PathClaim.file_id.set(file.file_id), PathClaim.pending.remove(), PathClaim.pending_until.remove()],
                condition=PathClaim.pending == file.file_id,
            )
            transaction.save(file)
            if old:
                transaction.update(TrackedFile(old), _gone(State.REPLACED, now))

        return change

    def withdrawn(self, file: TrackedFile, state: str) -> Change:
        """The upload failed or was aborted. The path is let go where it is still ours; the row says how it ended."""
        now = self._clock()
        claim = self.claim(file.disk, file.path)
        ours = claim is not None and claim.pending == file.file_id

        def change(transaction: TransactWrite) -> None:
            if ours:
                transaction.update(
                    PathClaim(claim_key(file.disk, file.path)),
                    [PathClaim.pending.remove(), PathClaim.pending_until.remove()],
                    condition=PathClaim.pending == file.file_id,
                )
            transaction.update(TrackedFile(file.file_id), _gone(state, now))

        return change

    def deleted(self, file: TrackedFile, *, holder: str | None = None) -> Change:
        """The file is gone from the NAS: its path is free (change 0, unless an upload to it is under way).

        `holder`: what `hold` took the path with; its hold ends too.
        """
        now = self._clock()

        def change(transaction: TransactWrite) -> None:
            actions: list[Any] = [PathClaim.file_id.remove()]
            condition: Condition = PathClaim.file_id == file.file_id
            if holder is not None:
                actions += [PathClaim.pending.remove(), PathClaim.pending_until.remove()]
                condition &= PathClaim.pending == holder
            transaction.update(PathClaim(claim_key(file.disk, file.path)), actions, condition=condition)
            transaction.update(TrackedFile(file.file_id), _gone(State.DELETED, now))

        return change

    # --- holds -----------------------------------------------------------------------------------------------

    def hold(self, file: TrackedFile, holder: str, hold_seconds: float) -> None:
        """Keep uploads away from the path of an available file. Raises `UploadInProgress`, also when it is another's now."""
        now = self._clock()
        free: Condition = PathClaim.pending.does_not_exist() | (PathClaim.pending_until < now)
        try:
            PathClaim(claim_key(file.disk, file.path)).update(
                [PathClaim.pending.set(holder), PathClaim.pending_until.set(now + hold_seconds)],
                condition=(PathClaim.file_id == file.file_id) & (free | (PathClaim.pending == holder)),
            )
        except UpdateError as error:
            if dynamo.code_of(error) == "ConditionalCheckFailedException":
                raise UploadInProgress from None
            raise LedgerUnavailable from error

    def renew(self, file: TrackedFile, hold_seconds: float) -> None:
        """Hold the path longer. Raises `LeaseLost` when another upload has taken it, `LedgerUnavailable`."""
        claim = PathClaim(claim_key(file.disk, file.path))
        try:
            claim.update(
                [PathClaim.pending_until.set(self._clock() + hold_seconds)],
                condition=PathClaim.pending == file.file_id,
            )
        except UpdateError as error:
            if dynamo.code_of(error) == "ConditionalCheckFailedException":
                raise LeaseLost from None
            raise LedgerUnavailable from error


def commit(*changes: Change) -> None:
    """Write changes whose event the ledger holds already (a crash, or a race, kept them out of its transaction).

    Raises `LeaseLost` when one is refused, `LedgerUnavailable`.
    """
    try:
        with TransactWrite(
            connection=dynamo.connection(TrackedFile), client_request_token=uuid.uuid4().hex
        ) as transaction:
            for change in changes:
                change(transaction)
    except TransactWriteError as error:
        if any(reason is not None and reason.code == "ConditionalCheckFailed" for reason in error.cancellation_reasons):
            raise LeaseLost from None
        raise LedgerUnavailable from error
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def _gone(state: str, now: float) -> list[Any]:
    """Updates that take a file out of the listings."""
    return [
        TrackedFile.state.set(state),
        TrackedFile.updated_at.set(now),
        TrackedFile.listed_in.remove(),
        TrackedFile.listed_at.remove(),
        TrackedFile.cleanup_disk.remove(),
        TrackedFile.cleanup_due.remove(),
        TrackedFile.check_bucket.remove(),
        TrackedFile.check_due.remove(),
    ]


def _encode(key: dict[str, Any] | None) -> str | None:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode() if key else None


def _decode(cursor: str | None) -> dict[str, Any] | None:
    if not cursor:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except ValueError:
        raise InvalidRequest("The cursor is not one of this list's.") from None
    if not key or not isinstance(key, dict) or not all(isinstance(value, dict) for value in key.values()):
        raise InvalidRequest("The cursor is not one of this list's.")
    return key
