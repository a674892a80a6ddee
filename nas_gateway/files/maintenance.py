"""The health of disks, ledger and clean-up. A use-case of the internal API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from chalicelib import metrics
from chalicelib.config import Settings
from chalicelib.errors import DepotError
from nas_gateway.files.deletion import LONGEST_RETRY, STUCK_TRIES
from nas_gateway.files.registry import Registry
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import queries

# Counted up to this: a health check must not read a table.
MAX_ITEMS = 1000


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
        open_intents = sum(1 for _ in islice(queries.open_operations(), MAX_ITEMS))
        metrics.gauge("depot_open_intents", open_intents)
        ledger: dict[str, Any] = {"status": "healthy", "open_intents": open_intents}
    except DepotError as error:
        ledger = {"status": "unhealthy", "error": error.code}
    ledger["latency_ms"] = round((time.monotonic() - begun) * 1000, 1)
    stuck: dict[str, Any] = {"status": "healthy"}
    try:
        stuck["stuck_files"] = stuck_files(transfers.registry, transfers.clock())
        if stuck["stuck_files"]:
            stuck["status"] = "degraded"  # uploads and downloads go on; somebody has to look at the NAS
    except DepotError as error:
        stuck = {"status": "unhealthy", "error": error.code}
    good = all(part["status"] == "healthy" for part in (*checked.values(), ledger))
    return {
        "status": "healthy" if good else "unhealthy",
        "server_role": settings.role.value,
        "disks": checked,
        "ledger": ledger,
        "cleanup": stuck,
    }


def stuck_files(registry: Registry, now: float) -> int:
    """How many files could not be deleted in `STUCK_TRIES` tries, of a thousand whose deletion has begun at most.

    One query of a sparse index. Raises `LedgerUnavailable`.
    """
    begun = registry.deletions_begun(before=now + 2 * LONGEST_RETRY, limit=MAX_ITEMS)
    return sum(int(file.cleanup_tries or 0) >= STUCK_TRIES for file in begun)
