"""The registry: reads of current state, and the changes that go into the ledger's transactions.

A change is a function that adds its writes to a `TransactWrite`; the ledger commits it together with the event that
explains it. The write of the path's claim always comes first, so that a refused change 0 means "the path is taken".
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pynamodb.exceptions import PynamoDBException, TransactWriteError, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.transactions import TransactWrite

from chalicelib import dynamo
from chalicelib.errors import (
    FileExists,
    LeaseLost,
    LedgerUnavailable,
    OnHold,
    QuotaExceeded,
    TooManyUploads,
    UploadInProgress,
)
from chalicelib.limits import INTEGRITY_PERIOD_DAYS
from nas_gateway.files import held
from nas_gateway.files.checks import bucket_of, first_check
from nas_gateway.files.quotas import Quotas
from nas_gateway.files.reads import Reads, claim_key
from nas_gateway.files.tables import DELETING_KEY, PathClaim, State, TrackedFile

__all__ = ["Change", "Registry", "claim_key", "commit"]

Change = Callable[[TransactWrite], None]
Clock = Callable[[], float]

NO_COHORT = "-"


class Registry(Reads):
    """State rows. Stateless itself; one a process. A stored file is read again within `check_seconds`."""

    def __init__(
        self,
        clock: Clock = time.time,
        *,
        check_seconds: float = INTEGRITY_PERIOD_DAYS * 86400,
        quotas: Quotas | None = None,
    ) -> None:
        self._clock, self._check_seconds = clock, check_seconds
        self._quotas = quotas or Quotas()

    # --- changes ---------------------------------------------------------------------------------------------

    def announce(self, file: TrackedFile, *, if_absent: bool, hold_seconds: float, size: int | None = None) -> Change:
        """An upload to the file's path begins: take the path (change 0), put the row.

        What stands there and is on hold, or is being deleted, is not replaced.
        """
        now = self._clock()
        free: Condition = PathClaim.pending.does_not_exist() | (PathClaim.pending_until < now)
        old = None if if_absent else self.at(file.disk, file.path)
        counted = self._quotas.announced(file, size)
        free &= PathClaim.file_id == old.file_id if old is not None else PathClaim.file_id.does_not_exist()

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                PathClaim(claim_key(file.disk, file.path)),
                [PathClaim.pending.set(file.file_id), PathClaim.pending_until.set(now + hold_seconds)],
                condition=free,
            )
            transaction.save(file, condition=TrackedFile.file_id.does_not_exist())
            if old is not None:
                transaction.condition_check(TrackedFile, old.file_id, condition=TrackedFile.state != State.DELETING)
                held.require_none(transaction, old)
            counted(transaction)

        return change

    def refused(
        self, file: TrackedFile, *, if_absent: bool, index: int = 0, size: int | None = None
    ) -> FileExists | UploadInProgress | OnHold | QuotaExceeded | TooManyUploads:
        """Why `announce` was refused: what stands at the path now, or (not its change 0) a quota."""
        if index and (met := self._quotas.why(file, size)):
            return met
        old = self.at(file.disk, file.path)
        if old is not None and old.state == State.DELETING:
            return UploadInProgress("The file of that name is being deleted. Try again in a few minutes.")
        if old is not None and if_absent:
            return FileExists()
        if old is not None and held.standing(held.scopes_of(old)):
            return OnHold()
        return UploadInProgress()

    def check_replaceable(self, file: TrackedFile) -> None:
        """Raises `OnHold` where the bytes of `file` would take the place of a file on hold."""
        old = self.at(file.disk, file.path)
        if old is not None and old.file_id != file.file_id and held.standing(held.scopes_of(old)):
            raise OnHold

    def arrived(self, file: TrackedFile) -> Change:
        """The bytes are on the NAS: the path is this file's (change 0, while the hold is ours), older one replaced.

        Refused (another change) where the older one is under a legal hold: its row stays.
        """
        found = self.at(file.disk, file.path)
        old = found if found is not None and found.file_id != file.file_id else None
        now = self._clock()
        file.state, file.updated_at = State.AVAILABLE, now
        counted = self._quotas.arrived(file, old)
        file.check_bucket = bucket_of(file.file_id)
        file.check_due = first_check(file.file_id, now, self._check_seconds, whole_known=bool(file.sha256))
        file.listed_in = file.cohort or NO_COHORT
        file.listed_at = f"{datetime.fromtimestamp(now, UTC).isoformat(timespec='microseconds')}#{file.file_id}"

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                PathClaim(claim_key(file.disk, file.path)),
                [PathClaim.file_id.set(file.file_id), PathClaim.pending.remove(), PathClaim.pending_until.remove()],
                condition=PathClaim.pending == file.file_id,
            )
            transaction.save(file)
            if old is not None:
                transaction.update(TrackedFile(old.file_id), _gone(State.REPLACED, now))
                held.require_none(transaction, old)
            counted(transaction)

        return change

    def withdrawn(self, file: TrackedFile, state: str) -> Change:
        """The upload failed or was aborted. The path is let go where it is still ours; the row says how it ended."""
        now = self._clock()
        claim = self.claim(file.disk, file.path)
        ours = claim is not None and claim.pending == file.file_id
        counted = self._quotas.withdrawn(file)

        def change(transaction: TransactWrite) -> None:
            if ours:
                transaction.update(
                    PathClaim(claim_key(file.disk, file.path)),
                    [PathClaim.pending.remove(), PathClaim.pending_until.remove()],
                    condition=PathClaim.pending == file.file_id,
                )
            transaction.update(TrackedFile(file.file_id), _gone(state, now))
            counted(transaction)

        return change

    def deleting(self, file: TrackedFile, holder: str, hold_seconds: float) -> Change:
        """The file is going to be deleted: its path is taken (change 0), it leaves the listings (1), no hold stands (2, 3)."""
        now = self._clock()
        free: Condition = PathClaim.pending.does_not_exist() | (PathClaim.pending_until < now)

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                PathClaim(claim_key(file.disk, file.path)),
                [PathClaim.pending.set(holder), PathClaim.pending_until.set(now + hold_seconds)],
                condition=(PathClaim.file_id == file.file_id) & free,
            )
            transaction.update(
                TrackedFile(file.file_id),
                [
                    TrackedFile.state.set(State.DELETING),
                    TrackedFile.updated_at.set(now),
                    TrackedFile.listed_in.remove(),
                    TrackedFile.listed_at.remove(),
                    TrackedFile.check_bucket.remove(),
                    TrackedFile.check_due.remove(),
                    TrackedFile.deleting.set(DELETING_KEY),
                    TrackedFile.cleanup_after.set(now + hold_seconds),
                ],
                condition=TrackedFile.state.is_in(State.AVAILABLE, State.CORRUPT, State.DELETING),
            )
            held.require_none(transaction, file)

        return change

    def not_deleted(self, file: TrackedFile, holder: str, tries: int, after: float) -> Change:
        """A deletion failed: the path is let go where it is still ours, and it is tried again `after` (epoch seconds)."""
        claim = self.claim(file.disk, file.path)

        def change(transaction: TransactWrite) -> None:
            if claim is not None and claim.pending == holder:
                transaction.update(
                    PathClaim(claim_key(file.disk, file.path)),
                    [PathClaim.pending.remove(), PathClaim.pending_until.remove()],
                    condition=PathClaim.pending == holder,
                )
            transaction.update(
                TrackedFile(file.file_id),
                [TrackedFile.cleanup_tries.set(tries), TrackedFile.cleanup_after.set(after)],
                condition=TrackedFile.state == State.DELETING,
            )

        return change

    def clearing(self, disk: str, path: str, holder: str, hold_seconds: float) -> Change:
        """An object that no row knows is going to be deleted: its path is taken (change 0), unless somebody has it."""
        now = self._clock()
        free: Condition = PathClaim.pending.does_not_exist() | (PathClaim.pending_until < now)

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                PathClaim(claim_key(disk, path)),
                [PathClaim.pending.set(holder), PathClaim.pending_until.set(now + hold_seconds)],
                condition=PathClaim.file_id.does_not_exist() & free,
            )

        return change

    def cleared(self, disk: str, path: str, holder: str) -> Change:
        """The end of `clearing`: the path is nobody's, where it is still ours."""
        claim = self.claim(disk, path)

        def change(transaction: TransactWrite) -> None:
            if claim is not None and claim.pending == holder:
                transaction.delete(PathClaim(claim_key(disk, path)), condition=PathClaim.pending == holder)

        return change

    def deleted(self, file: TrackedFile, *, holder: str | None = None) -> Change:
        """The file is gone from the NAS: its path is free (change 0, unless an upload to it is under way).

        `holder`: what `hold` took the path with; its hold ends too.
        """
        now, counted = self._clock(), self._quotas.deleted(file)

        def change(transaction: TransactWrite) -> None:
            actions: list[Any] = [PathClaim.file_id.remove()]
            condition: Condition = PathClaim.file_id == file.file_id
            if holder is not None:
                actions += [PathClaim.pending.remove(), PathClaim.pending_until.remove()]
                condition &= PathClaim.pending == holder
            transaction.update(PathClaim(claim_key(file.disk, file.path)), actions, condition=condition)
            transaction.update(TrackedFile(file.file_id), _gone(State.DELETED, now))
            counted(transaction)

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

    def hold_empty(self, disk: str, path: str, holder: str, hold_seconds: float) -> None:
        """As `hold`, for a path where no row knows a file."""
        now = self._clock()
        free: Condition = PathClaim.pending.does_not_exist() | (PathClaim.pending_until < now)
        try:
            PathClaim(claim_key(disk, path)).update(
                [PathClaim.pending.set(holder), PathClaim.pending_until.set(now + hold_seconds)],
                condition=PathClaim.file_id.does_not_exist() & (free | (PathClaim.pending == holder)),
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
        TrackedFile.deleting.remove(),
        TrackedFile.cleanup_after.remove(),
    ]
