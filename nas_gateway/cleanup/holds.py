"""Legal holds: set and lifted with a reason, in the ledger; listed. What a hold stops is in `files.held`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pynamodb.exceptions import PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib.auth.policy import Permission
from chalicelib.errors import FileMissing, HoldExists, HoldMissing, InvalidRequest, LedgerUnavailable, UploadInProgress
from chalicelib.storage import paths
from nas_gateway.files import held
from nas_gateway.files.access import Call
from nas_gateway.files.registry import claim_key
from nas_gateway.files.tables import Hold, PathClaim, State, TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger.events import Action, Operation
from nas_gateway.ledger.ledger import ChangeRefused

MAX_REASON_CHARS = 500


@dataclass(frozen=True, slots=True)
class Scope:
    """What a hold is on: one of the two."""

    file_id: str | None = None
    cohort: str | None = None

    def __post_init__(self) -> None:
        if bool(self.file_id) == bool(self.cohort):
            raise InvalidRequest("Say what the hold is on: either file_id or cohort.")

    @property
    def key(self) -> str:
        if self.file_id:
            return held.file_scope(paths.segment(self.file_id, "file_id"))
        return held.cohort_scope(paths.segment(str(self.cohort), "cohort"))


class Holds:
    """The use-cases. Administrators set and lift; who reads the whole ledger may list."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers, self._ledger = transfers, transfers.ledger

    def set(self, call: Call, scope: Scope, reason: str) -> dict[str, Any]:
        """From here on nothing in `scope` is deleted or replaced. Raises `Forbidden`, `HoldExists`, `FileMissing`.

        A file that an upload is about to replace is `UploadInProgress`: set the hold again when that has ended. A deletion
        that was recorded before the hold goes on.
        """
        self._require(call, Permission.ADMIN)
        reason, now = _reason(reason), self._transfers.clock()
        file = self._file(scope)
        row = Hold(scope.key, set_at=now, set_by=call.principal.username, reason=reason, tracking_id="")

        def change(transaction: TransactWrite) -> None:
            transaction.save(row, condition=Hold.scope.does_not_exist())
            if file is not None:
                stored = TrackedFile.state.is_in(State.AVAILABLE, State.CORRUPT)
                transaction.condition_check(TrackedFile, file.file_id, condition=stored)
                # Whoever slept past its lease while replacing the file must not wake up and do so.
                transaction.update(
                    PathClaim(claim_key(file.disk, file.path)),
                    [PathClaim.pending.remove(), PathClaim.pending_until.remove()],
                    condition=(PathClaim.file_id == file.file_id)
                    & (PathClaim.pending.does_not_exist() | (PathClaim.pending_until < now)),
                )

        try:
            self._record(call, Action.HOLD_SET, scope, file, reason, change)
        except ChangeRefused as refused:
            raise (HoldExists(), FileMissing(), UploadInProgress())[refused.index] from None
        return view(row)

    def lift(self, call: Call, scope: Scope, reason: str) -> dict[str, Any]:
        """Raises `Forbidden`, `HoldMissing`."""
        self._require(call, Permission.ADMIN)
        reason = _reason(reason)
        file = self._transfers.registry.get(scope.file_id) if scope.file_id else None

        def change(transaction: TransactWrite) -> None:
            transaction.delete(Hold(scope.key), condition=Hold.scope.exists())

        try:
            self._record(call, Action.HOLD_LIFTED, scope, file, reason, change)
        except ChangeRefused:
            raise HoldMissing from None
        return {"scope": scope.key, "lifted": True}

    def list(self, call: Call) -> list[dict[str, Any]]:
        """Every hold that stands, the oldest first. Raises `Forbidden`."""
        self._require(call, Permission.LEDGER)
        try:
            return [view(hold) for hold in Hold.by_set.query("hold")]
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    # --- steps -----------------------------------------------------------------------------------------------

    def _require(self, call: Call, permission: Permission) -> None:
        if not call.is_service and not call.principal.may(permission, None):
            self._transfers.access.deny(call, permission, "", "", None)
        return

    def _file(self, scope: Scope) -> TrackedFile | None:
        if not scope.file_id:
            return None
        file = self._transfers.registry.get(scope.file_id)
        if file is None or file.state not in (State.AVAILABLE, State.CORRUPT):
            raise FileMissing
        return file

    def _record(
        self,
        call: Call,
        action: str,
        scope: Scope,
        file: TrackedFile | None,
        reason: str,
        change: Callable[[TransactWrite], None],
    ) -> None:
        operation = Operation(
            action=action,
            user=call.principal.username,
            cohort=scope.cohort or (file.cohort if file else None),
            file_id=scope.file_id,
            disk=file.disk if file else None,
            file_path=file.path if file else None,
            metadata={"reason": reason},
            request_id=call.request_id,
        )
        self._ledger.record(operation, changes=change)


def view(hold: Hold) -> dict[str, Any]:
    """A hold as it is shown."""
    kind, _, name = hold.scope.partition(":")
    return {
        "scope": hold.scope,
        "file_id": name if kind == "file" else None,
        "cohort": name if kind == "cohort" else None,
        "reason": hold.reason,
        "set_by": hold.set_by,
        "set_at": datetime.fromtimestamp(float(hold.set_at), UTC).isoformat(timespec="milliseconds"),
    }


def _reason(text: str) -> str:
    text = text.strip()
    if not text or len(text) > MAX_REASON_CHARS or not text.isprintable():
        raise InvalidRequest(f"A hold needs a reason: one line of at most {MAX_REASON_CHARS} characters.")
    return text
