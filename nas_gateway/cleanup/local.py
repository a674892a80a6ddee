"""Clean-up and holds without a network between: for the testing role, where both tiers are one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nas_gateway.cleanup.holds import Holds, Scope
from nas_gateway.cleanup.service import Cleanup
from nas_gateway.files.access import Call


class LocalCleanup:
    """See `storage.cleanup.CleanupCalls`."""

    def __init__(self, cleanup: Cleanup, holds: Holds, call: Callable[[], Call]) -> None:
        self._cleanup, self._holds, self._call = cleanup, holds, call

    def plan(self, hours: float | None) -> dict[str, Any]:
        return self._cleanup.plan(self._call(), hours)

    def show(self, plan_id: str, after: int, limit: int) -> dict[str, Any]:
        return self._cleanup.show(self._call(), plan_id, limit, after)

    def apply(self, plan_id: str, hash: str, limits: Mapping[str, Any]) -> dict[str, Any]:
        return self._cleanup.apply(self._call(), plan_id, hash, limits)

    def receipts(self, plan_id: str) -> dict[str, Any]:
        return self._cleanup.receipts(self._call(), plan_id)

    def holds(self) -> dict[str, Any]:
        return {"holds": self._holds.list(self._call())}

    def set_hold(self, scope: Mapping[str, str], reason: str) -> dict[str, Any]:
        return self._holds.set(self._call(), Scope(**scope), reason)

    def lift_hold(self, scope: Mapping[str, str], reason: str) -> dict[str, Any]:
        return self._holds.lift(self._call(), Scope(**scope), reason)
