"""Operations that the ledger holds open though whoever began them is gone: single uploads, deletions, downloads.

An upload session's operation is not among them: it ends with its session. Used by `sweep` only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial

from chalicelib import observability
from chalicelib.auth.policy import SERVICE
from chalicelib.errors import FileMissing, OperationEnded, ServicesInterrupted, UploadMissing
from nas_gateway.files.deletion import DELETABLE
from nas_gateway.files.registry import Change
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import Action, Intent, Operation, Outcome
from nas_gateway.ledger.ledger import ChangeRefused
from nas_gateway.uploads import rows
from nas_gateway.uploads.report import Finding, Rule

# Nothing tells a long download from a dead one: after a day it counts as dead.
LONG_SECONDS = 24 * 3600
# What a crash left so early that not even its path was written down; drivers abort it under any name.
NAMELESS = "unnamed"

# Ended by deleting once more; of a temporary file that is the clean-up's.
_DELETIONS = (Action.FILE_DELETED_VIA_API, Action.TEMPORARY_FILE_DELETED)

_GONE = "Whoever did this went away in the middle, and nobody can say how far it came. The sweep closed it."


class LeftOpen:
    """Finds and ends them. `stale` in seconds: what was begun later is not looked at."""

    def __init__(self, transfers: Transfers, *, stale: float, hold: float) -> None:
        self._transfers, self._stale, self._hold = transfers, stale, hold

    def find(self) -> Iterator[Finding]:
        """Raises `LedgerUnavailable`."""
        now, deleting = self._transfers.clock(), set[str]()
        for intent in list(queries.open_operations(older_than=datetime.fromtimestamp(now - self._stale, UTC))):
            finding = self._diagnose(intent, now)
            if finding is not None:
                yield finding
            if finding is not None and finding.rule is Rule.DELETED:
                deleting.add(str(intent.operation.file_id))
        # Deletions that ended as failed: the row says that the file is to go.
        for file in list(self._transfers.registry.deletions_begun(before=now - self._stale)):
            if file.file_id not in deleting:
                yield Finding(Rule.DELETED, file.disk, file.file_id, partial(self._delete_anew, file.file_id))

    def _diagnose(self, intent: Intent, now: float) -> Finding | None:
        operation, disk, ident = intent.operation, intent.operation.disk or "", intent.tracking_id
        if operation.action == Action.ORPHAN_UPLOAD_ABORTED:
            return Finding(Rule.ORPHAN, disk, ident, lambda: self._abort_again(intent))
        if operation.action == Action.ORPHAN_OBJECT_DELETED or (operation.action in _DELETIONS and operation.file_id):
            return Finding(Rule.DELETED, disk, ident, lambda: self._delete_again(intent))
        file = self._transfers.registry.get(operation.file_id) if operation.file_id else None
        if file is not None and file.tracking_id == intent.tracking_id:
            if self._under_way(operation.upload_id, file, now):
                return None
            return Finding(Rule.UPLOAD_FAILED, disk, ident, lambda: self._fail(intent, file))
        if intent.stream_start.timestamp() + LONG_SECONDS < now:
            return Finding(Rule.OUTCOME_UNKNOWN, disk, ident, lambda: self._unknown(intent))
        return None

    def _under_way(self, upload_id: str | None, file: TrackedFile, now: float) -> bool:
        if upload_id:
            try:
                return rows.get(upload_id, SERVICE).live is not None  # then it ends with its session
            except UploadMissing:
                return False
        claim = self._transfers.registry.claim(file.disk, file.path)
        ours = claim is not None and claim.pending == file.file_id
        # A single upload holds its path as long as bytes arrive; one that lost it cannot be recorded any more.
        return ours and claim is not None and (claim.pending_until or 0) + self._stale >= now

    # --- repairs ------------------------------------------------------------------------------------------------------

    def _fail(self, intent: Intent, file: TrackedFile) -> Rule | None:
        """Let the path go. Nobody promised what the bytes would be, so one that may have arrived is `unknown`."""
        unknown = self._left_an_object(file)
        outcome = Outcome.UNKNOWN if unknown else Outcome.FAILED
        changes = self._transfers.registry.withdrawn(file, State.FAILED)
        if not self._finish(intent, outcome, error=ServicesInterrupted(_GONE), changes=changes):
            return None
        if unknown:
            fields = {"file_id": file.file_id, "tracking_id": intent.tracking_id, "disk": file.disk}
            observability.log_event("object_that_no_row_knows", logging.ERROR, **fields)
        return Rule.OUTCOME_UNKNOWN if unknown else Rule.UPLOAD_FAILED

    def _left_an_object(self, file: TrackedFile) -> bool:
        """Whether something else stands at the path than what the registry knows to be there."""
        claim = self._transfers.registry.claim(file.disk, file.path)
        if claim is None or claim.pending != file.file_id:
            return False  # another upload has taken the path: what stands there is its business
        known = self._transfers.registry.get(claim.file_id) if claim.file_id else None
        try:
            found = self._transfers.disk(file.disk).get_metadata(file.path)
        except FileMissing:
            return False
        return known is None or known.etag != found.etag

    def _delete_again(self, intent: Intent) -> Rule | None:
        """Delete and look. The path is held meanwhile, so that no new file there is taken for the old one."""
        file_id, transfers = intent.operation.file_id, self._transfers
        file = transfers.registry.get(file_id) if file_id else None
        if file_id and (file is None or file.state not in DELETABLE):
            if file is not None and file.state == State.DELETED:
                return Rule.DELETED if self._finish(intent, Outcome.COMPLETED, note={"already_gone": "true"}) else None
            return self._unknown(intent)
        if transfers.ledger.open_intent(intent.tracking_id) is None:
            return None
        try:
            transfers.deletion.go_on(intent, file)
        except OperationEnded:
            return None
        return Rule.DELETED

    def _delete_anew(self, file_id: str) -> Rule | None:
        """A deletion whose last try failed, as an operation of its own."""
        transfers, file = self._transfers, self._transfers.registry.get(file_id)
        if file is None or file.state != State.DELETING or (file.cleanup_after or 0) >= transfers.clock():
            return None
        operation = Operation(
            action=Action.FILE_DELETED_VIA_API,
            user=None,
            cohort=file.cohort,
            file_id=file.file_id,
            disk=file.disk,
            file_path=file.path,
            file_type=file.file_type,
            file_size=None if file.size is None else int(file.size),
            file_hash=file.sha256 or file.parts_sha256,
            metadata={"tries": str(int(file.cleanup_tries or 0))},
        )
        transfers.deletion.delete(operation, file)
        return Rule.DELETED

    def _abort_again(self, intent: Intent) -> Rule | None:
        operation = intent.operation
        storage = self._transfers.disk(str(operation.disk))
        storage.abort_parts(operation.file_path or NAMELESS, operation.metadata["handle"])
        return Rule.ORPHAN if self._finish(intent, Outcome.COMPLETED) else None

    def _unknown(self, intent: Intent) -> Rule | None:
        ended = self._finish(intent, Outcome.UNKNOWN, error=ServicesInterrupted(_GONE))
        return Rule.OUTCOME_UNKNOWN if ended else None

    def _finish(
        self,
        intent: Intent,
        outcome: Outcome,
        *,
        error: BaseException | None = None,
        note: Mapping[str, str] | None = None,
        changes: Change | None = None,
    ) -> bool:
        """False where somebody else was faster, or the path changed hands: the next sweep looks again."""
        try:
            self._transfers.ledger.finish(intent, outcome, error=error, metadata=note, changes=changes)
        except (OperationEnded, ChangeRefused):
            return False
        return True
