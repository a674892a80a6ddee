"""Limits: what a cohort and a user may have stored and under way (exact), and how often one may do what is costly.

Usage is counted in the transactions that announce, complete, withdraw, replace and delete files, so it is neither lost nor
counted twice, whatever crashes. It begins when a quota is set: files from before are not counted, and take nothing off
when they go. Imported by the registry, the use-cases of this folder, and the wiring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException
from pynamodb.expressions.condition import Condition
from pynamodb.transactions import TransactWrite

from chalicelib.auth.policy import SERVICE, Principal
from chalicelib.auth.rates import Limit, Rates
from chalicelib.config import Settings
from chalicelib.errors import LedgerUnavailable, QuotaExceeded, TooManyRequests, TooManyUploads
from nas_gateway.files.tables import TrackedFile, Usage

Change = Callable[[TransactWrite], None]


@dataclass(frozen=True, slots=True)
class Quota:
    """What one cohort, or one user, may have: bytes and files stored (those under way count), uploads at once."""

    stored: int | None = None
    files: int | None = None
    uploads: int | None = None

    def __bool__(self) -> bool:
        return (self.stored, self.files, self.uploads) != (None, None, None)


@dataclass(slots=True)
class _Delta:
    stored: int = 0
    files: int = 0
    uploads: int = 0


class Quotas:
    """The changes that keep count. Without a quota nothing is counted that was not counted before."""

    def __init__(self, cohort: Quota | None = None, user: Quota | None = None) -> None:
        self._quotas = {"cohort": cohort or Quota(), "user": user or Quota()}

    @classmethod
    def of(cls, settings: Settings) -> Quotas:
        """As the settings say."""
        return cls(
            Quota(settings.quota_cohort_bytes, settings.quota_cohort_files, settings.quota_cohort_uploads),
            Quota(settings.quota_user_bytes, settings.quota_user_files, settings.quota_user_uploads),
        )

    def announced(self, file: TrackedFile, size: int | None) -> Change:
        """An upload begins; `size` in bytes where it is known. Refused (one of this change's) beyond a quota.

        Of unknown size, it is counted when it is there: so many uploads of unknown size may go beyond the quota together.
        """
        if not any(self._quotas.values()):
            return _nothing
        file.reserved = size or 0
        return self._change({key: _Delta(int(file.reserved), 1, 1) for key in _keys(file)}, bounded=True)

    def arrived(self, file: TrackedFile, old: TrackedFile | None) -> Change:
        """The upload ended well; `old` was replaced by it."""
        deltas: dict[str, _Delta] = {}
        reserved, before = _bytes(file.reserved), _bytes(old.counted) if old is not None else None
        if reserved is not None:
            file.counted = int(file.size or 0)
            for key in _keys(file):
                deltas[key] = _Delta(int(file.counted) - reserved, 0, -1)
        if old is not None and before is not None:
            for key in _keys(old):
                delta = deltas.setdefault(key, _Delta())
                delta.stored -= before
                delta.files -= 1
        return self._change(deltas)

    def withdrawn(self, file: TrackedFile) -> Change:
        """The upload ended without a file."""
        reserved = _bytes(file.reserved)
        if reserved is None:
            return _nothing
        return self._change({key: _Delta(-reserved, -1, -1) for key in _keys(file)})

    def deleted(self, file: TrackedFile) -> Change:
        """A stored file is gone."""
        counted = _bytes(file.counted)
        if counted is None:
            return _nothing
        return self._change({key: _Delta(-counted, -1, 0) for key in _keys(file)})

    def why(self, file: TrackedFile, size: int | None) -> QuotaExceeded | TooManyUploads | None:
        """Which quota `announced` met; None where, as it stands now, none. Raises `LedgerUnavailable`."""
        for key in _keys(file):
            quota, used = self._quotas[key.partition(":")[0]], usage(key)
            if quota.uploads is not None and used["uploads"] >= quota.uploads:
                return TooManyUploads()
            if quota.files is not None and used["files"] >= quota.files:
                return QuotaExceeded()
            if quota.stored is not None and used["stored"] + (size or 0) > quota.stored:
                return QuotaExceeded()
        return None

    def _change(self, deltas: dict[str, _Delta], *, bounded: bool = False) -> Change:
        def change(transaction: TransactWrite) -> None:
            for key, delta in sorted(deltas.items()):  # a fixed order, as locks are taken in
                actions: list[Any] = [
                    Usage.stored.add(delta.stored),
                    Usage.files.add(delta.files),
                    Usage.uploads.add(delta.uploads),
                ]
                condition = self._room(self._quotas[key.partition(":")[0]], delta) if bounded else None
                transaction.update(Usage(key), actions, condition=condition)

        return change

    def _room(self, quota: Quota, delta: _Delta) -> Condition | None:
        found: Condition | None = None
        for attribute, most, more in (
            (Usage.stored, quota.stored, delta.stored),
            (Usage.files, quota.files, delta.files),
            (Usage.uploads, quota.uploads, delta.uploads),
        ):
            if most is None:
                continue
            room: Condition = attribute <= most - more
            if more <= most:
                room |= attribute.does_not_exist()
            found = room if found is None else found & room
        return found


class Throttle:
    """How often one user may announce an upload, and be refused something, which is an event of the ledger each time."""

    def __init__(self, rates: Rates, *, uploads_per_minute: int | None, denials_per_minute: int) -> None:
        self._rates = rates
        self._uploads = Limit("upload", uploads_per_minute, 60) if uploads_per_minute else None
        self._denials = Limit("denial", denials_per_minute, 60)

    def upload(self, principal: Principal) -> None:
        """Raises `TooManyRequests`."""
        if self._uploads is not None and principal is not SERVICE:
            self._rates.take(self._uploads, principal.username)

    def denial(self, principal: Principal) -> bool:
        """Count a refusal; whether it is the last that is recorded in this minute. Raises `TooManyRequests` after that."""
        if principal is SERVICE:
            return False
        try:
            return self._rates.take(self._denials, principal.username) == self._denials.most
        except TooManyRequests as error:
            wait = error.retry_after
            raise TooManyRequests(
                f"Too much was refused to you in a short time. Try again in {wait} seconds.", retry_after=wait
            ) from None


def usage(key: str) -> dict[str, int]:
    """What is counted for `cohort:NAME` or `user:NAME`. Raises `LedgerUnavailable`."""
    try:
        row = Usage.get(key, consistent_read=True)
    except DoesNotExist:
        return {"stored": 0, "files": 0, "uploads": 0}
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return {"stored": int(row.stored or 0), "files": int(row.files or 0), "uploads": int(row.uploads or 0)}


def _bytes(value: float | None) -> int | None:
    return None if value is None else int(value)


def _keys(file: TrackedFile) -> list[str]:
    cohort = [f"cohort:{file.cohort}"] if file.cohort else []
    return cohort + ([f"user:{file.owner}"] if file.owner != SERVICE.username else [])


def _nothing(transaction: TransactWrite) -> None:
    """No change."""
