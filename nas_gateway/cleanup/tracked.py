"""Tracked files that are to go, and why others are not. The same questions are asked for the plan and at the deletion.

The cost grows with what is due: the indexes `by-cleanup` and `by-deleting` begin with it. Only where somebody says `hours`,
every temporary file is looked at, since what counts then is when it was made. For this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from pynamodb.exceptions import PynamoDBException

from chalicelib.errors import LedgerUnavailable
from nas_gateway.cleanup.activity import Readers, claims, is_piece
from nas_gateway.cleanup.guards import Places, is_submission
from nas_gateway.cleanup.items import SKEW_SECONDS, Item, Options, Rule, Skip
from nas_gateway.files import held
from nas_gateway.files.deletion import LONGEST_RETRY
from nas_gateway.files.registry import Registry, claim_key
from nas_gateway.files.tables import PathClaim, State, TrackedFile

# Backup copies that a clean-up made (`backup`): their own deadline alone counts.
BACKUP_OF = "backup_of"


class TrackedFiles:
    """Over the registry's rows."""

    def __init__(self, registry: Registry, places: Places, readers: Readers, *, clock: Callable[[], float]) -> None:
        self._registry, self._places, self._readers, self._clock = registry, places, readers, clock

    def find(self, options: Options, limit: int) -> Iterator[Item]:
        """Candidates, and with a reason those that stay, at most `limit` rows. Raises `LedgerUnavailable`."""
        rows = list(islice(self._rows(options), limit))
        known = claims((file.disk, file.path) for file in rows)
        on_hold = held.standing(scope for file in rows for scope in held.scopes_of(file))
        for file in rows:
            rule, reason = self.judge(file, options)
            if reason is None:
                reason = self._stopped(file, known, on_hold)
            yield self._item(file, rule, reason)

    def judge(self, file: TrackedFile, options: Options) -> tuple[Rule, Skip | None]:
        """Why it would go, and what stops that; but for holds and leases, which the deletion's own transaction checks."""
        now = self._clock()
        if file.state == State.DELETING:
            # Somebody with the right to has decided this already, a submission's deletion too; it only has to be ended.
            waiting = int(file.cleanup_tries or 0) and float(file.cleanup_after or 0) > now
            return Rule.DELETING, Skip.BACKING_OFF if waiting else None
        rule = Rule.OVERDUE if options.hours is None else Rule.AGE
        if is_submission(file) or self._places.is_submission_place(file.disk, file.path):
            return rule, Skip.SUBMISSION
        if file.state not in (State.AVAILABLE, State.CORRUPT):
            return rule, Skip.LIVE_LEASE  # on its way: it ends with its upload
        if float(file.cleanup_due or now) + SKEW_SECONDS <= now:
            rule = Rule.OVERDUE
        elif options.hours is None or is_piece(file) or BACKUP_OF in (file.metadata or {}):
            return Rule.OVERDUE, Skip.TOO_YOUNG  # its own deadline alone counts
        elif float(file.created_at) + options.hours * 3600 + (SKEW_SECONDS if options.hours else 0) > now:
            return rule, Skip.TOO_YOUNG  # with 0, now is now
        return rule, Skip.BEING_READ if self._readers.of(file.file_id) else None

    @staticmethod
    def on_hold(file: TrackedFile) -> bool:
        """Raises `LedgerUnavailable`."""
        return bool(held.standing(held.scopes_of(file)))

    # --- steps -----------------------------------------------------------------------------------------------

    def _rows(self, options: Options) -> Iterator[TrackedFile]:
        now, seen = self._clock(), set[str]()
        # All whose deletion has begun, those too that are to wait.
        for file in self._registry.deletions_begun(before=now + 2 * LONGEST_RETRY):
            seen.add(file.file_id)
            yield file
        for disk in self._places.disks:
            for file in self._due(disk, now, options):
                if file.file_id not in seen:
                    yield file

    def _due(self, disk: str, now: float, options: Options) -> Iterator[TrackedFile]:
        index = TrackedFile.by_cleanup
        try:
            if options.hours is None:
                yield from index.query(disk, range_key_condition=TrackedFile.cleanup_due < now)
            else:
                older = TrackedFile.created_at <= now - options.hours * 3600
                yield from index.query(disk, filter_condition=older | (TrackedFile.cleanup_due < now))
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    def _stopped(self, file: TrackedFile, known: Mapping[str, PathClaim], on_hold: set[str]) -> Skip | None:
        if on_hold & set(held.scopes_of(file)):
            return Skip.ON_HOLD
        claim = known.get(claim_key(file.disk, file.path))
        if claim is not None and claim.pending and float(claim.pending_until or 0) >= self._clock():
            return Skip.LIVE_LEASE
        return None

    @staticmethod
    def _item(file: TrackedFile, rule: Rule, reason: Skip | None) -> Item:
        return Item(
            id=file.file_id,
            rule=rule,
            disk=file.disk,
            path=file.path,
            size=int(file.size or 0),
            created_at=float(file.created_at),
            active_at=float(file.updated_at),
            due_at=None if file.cleanup_due is None else float(file.cleanup_due),
            tries=int(file.cleanup_tries or 0),
            reason=reason,
        )
