"""One file's check: hold it, read it, and record what came of it. Used by `integrity` only.

A finding is written in the transaction of its ledger event, and only while the file is still the one that was read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from chalicelib import metrics, observability
from chalicelib.errors import DepotError, LeaseLost, LedgerUnavailable, ObjectCorrupt
from chalicelib.limits import GIB
from nas_gateway.files.checks import DAY_SECONDS, next_check
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.integrity import known as basis
from nas_gateway.integrity import reading, rows
from nas_gateway.integrity.known import Known
from nas_gateway.integrity.reading import OutOfTime, Reading, Reason, Start, Unsettled
from nas_gateway.ledger.events import Action, Operation, Outcome
from nas_gateway.ledger.ledger import ChangeRefused

# A hold lasts so long without being renewed; it is renewed at a third of it.
LEASE_SECONDS = 300.0
# A file that could not be read is tried again after this, and twice as long after each further time, up to a day.
FIRST_BACK_OFF_SECONDS = 3600.0
# A file whose whole SHA-256 is still to be found is read from the beginning again, rather than gone on with, up to this size:
# in one call of 15 minutes that takes little over 1 MiB/s.
ONE_PASS_BYTES = GIB


class Deadline(Protocol):
    """What a job is told of time (`nas_gateway.jobs.deadline`)."""

    @property
    def over(self) -> bool: ...


class Outlook(StrEnum):
    """How the check of one file ended."""

    RIGHT = "right"
    DAMAGED = "damaged"
    RESTORED = "restored"  # it had been damaged, and its bytes are right again
    UNFINISHED = "unfinished"  # no time was left; it goes on in the next run
    UNREADABLE = "unreadable"  # the storage does not give it: no finding, tried again later
    SKIPPED = "skipped"  # another check holds it, or it was replaced, deleted or changed meanwhile


@dataclass(frozen=True, slots=True)
class Result:
    """`read` in bytes. `new`: this check found the damage. `digest`: it found the whole file's SHA-256."""

    file_id: str
    outlook: Outlook
    reason: Reason | None = None
    read: int = 0
    new: bool = False
    digest: bool = False
    error_code: str = ""
    retryable: bool = False


class Checker:
    """Checks files one at a time. `period` in seconds; `pace` is called with the bytes of every block."""

    def __init__(
        self,
        transfers: Transfers,
        *,
        period: float,
        pace: Callable[[int], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transfers, self._period, self._pace = transfers, period, pace
        self._clock, self._monotonic = transfers.clock, monotonic

    def check(
        self,
        found: TrackedFile,
        deadline: Deadline,
        *,
        seen_due: float | None = None,
        user: str | None = None,
        told: Callable[[int], None] = lambda _: None,
    ) -> Result:
        """Check one file. `seen_due` as in `rows.take`; `user` is who asked; `told` hears of the bytes of every block.

        Raises `LedgerUnavailable`: then nothing was recorded, and the hold runs out by itself.
        """
        file = rows.take(found, self._clock(), LEASE_SECONDS, seen_due=seen_due)
        if file is None:
            return Result(found.file_id, Outlook.SKIPPED)
        progress = _Progress(self._keeper(file), deadline, self._pace, told)
        try:
            known = basis.of(file)
            start = None if seen_due is None else _start(file)  # who asks for a check now wants all of it
            read = reading.read(self._transfers.disk(file.disk), file.path, known, start, progress)
        except LedgerUnavailable:
            raise
        except LeaseLost:
            result = Result(file.file_id, Outlook.SKIPPED, read=progress.count)
        except Unsettled:
            rows.let_go(file, *self._put_off(file))
            result = Result(file.file_id, Outlook.SKIPPED, read=progress.count)
        except DepotError as error:
            result = self._unreadable(file, error, progress.count)
        else:
            result = self._conclude(file, known, read, progress.count, user)
        if result.read:
            metrics.count("depot_integrity_bytes_total", result.read)
        return result

    def _keeper(self, file: TrackedFile) -> Callable[[], None]:
        last = self._monotonic()

        def keep() -> None:
            nonlocal last
            if self._monotonic() - last >= LEASE_SECONDS / 3:
                rows.renew(file, self._clock() + LEASE_SECONDS)
                last = self._monotonic()

        return keep

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _conclude(self, file: TrackedFile, known: Known, read: Reading, count: int, user: str | None) -> Result:
        if not read.finished:
            return self._unfinished(file, known, read, count)
        try:
            if read.reason is None:
                return self._right(file, known, read, count, user)
            return self._damaged(file, read.reason, count, user)
        except ChangeRefused:
            # Replaced or deleted meanwhile, or an upload to its path is under way: what was read is not this file's.
            rows.let_go(file, *self._put_off(file))
            return Result(file.file_id, Outlook.SKIPPED, read=count)

    def _right(self, file: TrackedFile, known: Known, read: Reading, count: int, user: str | None) -> Result:
        ranges = known.ranges or read.made
        if ranges and not known.kept:
            basis.keep(file.file_id, ranges)
        sha256 = read.sha256 if not file.sha256 else None
        now = self._clock()
        done = [
            TrackedFile.checked_at.set(now),
            TrackedFile.check_due.set(next_check(file.file_id, now, self._period)),
            *_forget_progress(),
            *([TrackedFile.sha256.set(sha256)] if sha256 else []),
        ]
        restored = file.state == State.CORRUPT
        if restored or sha256:
            about = {"basis": _basis(known, read)}
            changes = rows.concluded(file, *done, *([TrackedFile.state.set(State.AVAILABLE)] if restored else []))
            action = Action.INTEGRITY_RESTORED if restored else Action.DIGEST_RECORDED
            event = self._event(file, action, user, about, sha256 or file.sha256)
            self._transfers.ledger.record(event, bytes_transferred=count, changes=changes)
        elif not rows.let_go(file, *done):
            return Result(file.file_id, Outlook.SKIPPED, read=count)
        if restored:
            observability.log_event("integrity_restored", logging.WARNING, file_id=file.file_id, disk=file.disk)
        metrics.count("depot_integrity_checked_total")
        outlook = Outlook.RESTORED if restored else Outlook.RIGHT
        return Result(file.file_id, outlook, read=count, digest=bool(sha256))

    def _damaged(self, file: TrackedFile, reason: Reason, count: int, user: str | None) -> Result:
        # Looked at again within a day: whoever restores the bytes should not have to wait for the file's next slot.
        again = self._clock() + min(DAY_SECONDS, self._period)
        actions = [TrackedFile.check_due.set(again), *_forget_progress()]
        if file.state == State.CORRUPT:
            rows.let_go(file, *actions)
            return Result(file.file_id, Outlook.DAMAGED, reason, count)
        changes = rows.concluded(file, TrackedFile.state.set(State.CORRUPT), *actions)
        event = self._event(file, Action.INTEGRITY_FAILED, user, {"reason": reason.value}, None)
        self._transfers.ledger.record(
            event, Outcome.FAILED, error=ObjectCorrupt(), bytes_transferred=count, changes=changes
        )
        metrics.count("depot_integrity_failed_total", reason=reason.value)
        fields = {"file_id": file.file_id, "tracking_id": file.tracking_id, "disk": file.disk}
        observability.log_event("integrity_failed", logging.ERROR, rule=reason.value, **fields)
        return Result(file.file_id, Outlook.DAMAGED, reason, count, new=True)

    def _unfinished(self, file: TrackedFile, known: Known, read: Reading, count: int) -> Result:
        # Due as before, so it comes first in the next run. One that can only be read in one go and did not fit is put off
        # from the second time on, so that the others get their turn.
        if read.offset and (known.sha256 or known.size > ONE_PASS_BYTES):
            if read.made:
                basis.keep(file.file_id, read.made)
            actions = [TrackedFile.check_offset.set(read.offset), TrackedFile.check_object.set(read.object)]
        else:
            actions = self._put_off(file) if file.check_tries else [TrackedFile.check_tries.set(1)]
        rows.let_go(file, *actions)
        if file.check_tries and not read.offset:
            observability.log_event("integrity_needs_longer", logging.WARNING, file_id=file.file_id, disk=file.disk)
        return Result(file.file_id, Outlook.UNFINISHED, read=count)

    def _unreadable(self, file: TrackedFile, error: DepotError, count: int) -> Result:
        rows.let_go(file, *self._put_off(file))
        fields = {"file_id": file.file_id, "disk": file.disk, "error_code": error.code, "retryable": error.retryable}
        observability.log_event("integrity_unreadable", logging.WARNING, **fields)
        return Result(file.file_id, Outlook.UNREADABLE, read=count, error_code=error.code, retryable=error.retryable)

    def _put_off(self, file: TrackedFile) -> list[Any]:
        tries = int(file.check_tries or 0)
        pause = min(FIRST_BACK_OFF_SECONDS * 2 ** min(tries, 10), DAY_SECONDS)
        return [TrackedFile.check_due.set(self._clock() + pause), TrackedFile.check_tries.set(tries + 1)]

    def _event(
        self, file: TrackedFile, action: str, user: str | None, about: dict[str, str], sha256: str | None
    ) -> Operation:
        return Operation(
            action=action,
            user=user,
            cohort=file.cohort,
            file_id=file.file_id,
            disk=file.disk,
            file_path=file.path,
            file_type=file.file_type,
            file_size=int(file.size or 0),
            file_hash=sha256 or file.sha256 or file.parts_sha256,
            metadata=about,
        )


class _Progress:
    """What is done at every block: the pace, the hold, the deadline."""

    def __init__(
        self, keep: Callable[[], None], deadline: Deadline, pace: Callable[[int], None], told: Callable[[int], None]
    ) -> None:
        self._keep, self._deadline, self._pace, self._told = keep, deadline, pace, told
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count
        self._told(count)
        self._pace(count)
        self._keep()
        if self._deadline.over:
            raise OutOfTime


def _start(file: TrackedFile) -> Start | None:
    return Start(int(file.check_offset), str(file.check_object)) if file.check_offset and file.check_object else None


def _basis(known: Known, read: Reading) -> str:
    """What the bytes were compared with, as the ledger tells it."""
    if known.ranges:
        return "parts"
    return "whole" if known.sha256 else "store_digests" if read.by_store else "first_reading"


def _forget_progress() -> list[Any]:
    return [TrackedFile.check_tries.remove(), TrackedFile.check_offset.remove(), TrackedFile.check_object.remove()]
