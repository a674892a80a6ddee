"""Clean-up of temporary files that are due, and the health of disks and ledger. Use-cases of the internal API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from chalicelib.auth.policy import Permission
from chalicelib.config import Settings
from chalicelib.errors import DepotError, Forbidden
from nas_gateway.files.access import Call
from nas_gateway.files.tables import TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import Action, Operation, Outcome

# One run deletes at most this many; the next goes on (an operator's mistake stays bounded).
MAX_ITEMS = 1000


def clean_up(transfers: Transfers, call: Call, *, hours: float, dry_run: bool) -> dict[str, Any]:
    """Delete temporary files older than `hours` (0: all of them now); a dry run only lists them.

    Submissions are never candidates. One file that cannot be deleted does not stop the others. The answer lists every item
    with its age and, when applied, its outcome.
    """
    if not call.is_service and not call.principal.may(Permission.CLEANUP, None):
        raise Forbidden
    now = transfers.clock()
    found = transfers.temporary_files(created_before=now - hours * 3600, limit=MAX_ITEMS)
    items = [_item(file, now) for file in found]
    deleted = failed = 0
    if not dry_run and found:
        operation = Operation(
            action=Action.WORKSPACE_CLEANUP,
            user=call.principal.username,
            metadata={"hours": str(hours), "files": str(len(found))},
            request_id=call.request_id,
        )
        intent = transfers.ledger.begin(operation)
        for file, item in zip(found, items, strict=True):
            try:
                transfers.delete(call, file.disk, file.path)
                item["outcome"], deleted = "deleted", deleted + 1
            except DepotError as error:
                item["outcome"], failed = error.code, failed + 1
        counts = {"deleted": str(deleted), "failed": str(failed)}
        transfers.ledger.finish(intent, Outcome.FAILED if failed else Outcome.COMPLETED, metadata=counts)
    return {
        "dry_run": dry_run,
        "hours": hours,
        "found": len(found),
        "deleted": deleted,
        "failed": failed,
        "items": items,
    }


def _item(file: TrackedFile, now: float) -> dict[str, Any]:
    return {
        "file_id": file.file_id,
        "disk": file.disk,
        "purpose": file.purpose,
        "size": int(file.size or 0),
        "age_hours": round((now - file.created_at) / 3600, 2),
        "overdue": bool(file.cleanup_due and file.cleanup_due < now),
    }


def health(transfers: Transfers, settings: Settings, disks: Sequence[str]) -> dict[str, Any]:
    """A round trip per disk (save, read back, delete) and a read of the ledger, with latencies in milliseconds."""
    checked: dict[str, Any] = {}
    for name in disks:
        result = transfers.disk(name).health()
        checked[name] = {
            "status": "healthy" if result.ok else "unhealthy",
            "latency_ms": {step: round(value, 1) for step, value in result.latency_ms.items()},
            **({"error": result.error} if result.error else {}),
        }
    begun = time.monotonic()
    try:
        # Counted up to a bound: a health check must not read a table.
        open_intents = sum(1 for _ in islice(queries.open_operations(), MAX_ITEMS))
        ledger: dict[str, Any] = {"status": "healthy", "open_intents": open_intents}
    except DepotError as error:
        ledger = {"status": "unhealthy", "error": error.code}
    ledger["latency_ms"] = round((time.monotonic() - begun) * 1000, 1)
    good = all(part["status"] == "healthy" for part in (*checked.values(), ledger))
    return {
        "status": "healthy" if good else "unhealthy",
        "server_role": settings.role.value,
        "disks": checked,
        "ledger": ledger,
    }
