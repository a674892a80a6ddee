"""Clean-up and holds as the web tier asks for them: it coordinates, the services tier decides and does.

`RemoteCleanup` asks over the transport; in the testing role the services tier's own object stands in its place. Answers are
JSON objects that are handed on as they are (docs/api.md). Imports the contract only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

from chalicelib.storage.remote import Transport

# Seconds that one call may go on applying a plan: below API Gateway's 29 s for the web tier's own answer. What is left is
# done when it is asked for again.
APPLY_SECONDS = 20


class CleanupCalls(Protocol):
    """Each call is on behalf of the signed-in user. All raise `Forbidden` (recorded), `LedgerUnavailable`, and the remote
    one `ServicesUnavailable` besides."""

    def plan(self, hours: float | None) -> dict[str, Any]:
        """Raises `InvalidRequest`."""
        ...

    def show(self, plan_id: str, after: int, limit: int) -> dict[str, Any]:
        """Raises `PlanMissing`."""
        ...

    def apply(self, plan_id: str, hash: str, limits: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `PlanMissing`, `PlanExpired`, `PlanChanged`, `PlanInProgress`. `outcome` is `stopped` where there is more."""
        ...

    def receipts(self, plan_id: str) -> dict[str, Any]:
        """Raises `PlanMissing`."""
        ...

    def holds(self) -> dict[str, Any]: ...

    def set_hold(self, scope: Mapping[str, str], reason: str) -> dict[str, Any]:
        """`scope` is `file_id` or `cohort`. Raises `HoldExists`, `FileMissing`, `UploadInProgress`, `InvalidRequest`."""
        ...

    def lift_hold(self, scope: Mapping[str, str], reason: str) -> dict[str, Any]:
        """Raises `HoldMissing`."""
        ...


class RemoteCleanup:
    """The services tier's, for the user whose assertion the transport forwards."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def plan(self, hours: float | None) -> dict[str, Any]:
        return self._transport.json("POST", "/internal/cleanup/plans", json={"hours": hours})

    def show(self, plan_id: str, after: int, limit: int) -> dict[str, Any]:
        query = {"after": str(after), "limit": str(limit)}
        return self._transport.json("GET", f"/internal/cleanup/plans/{quote(plan_id, safe='')}", query)

    def apply(self, plan_id: str, hash: str, limits: Mapping[str, Any]) -> dict[str, Any]:
        told = {"hash": hash, "limits": dict(limits), "seconds": APPLY_SECONDS}
        return self._transport.json("POST", f"/internal/cleanup/plans/{quote(plan_id, safe='')}/apply", json=told)

    def receipts(self, plan_id: str) -> dict[str, Any]:
        return self._transport.json("GET", f"/internal/cleanup/plans/{quote(plan_id, safe='')}/receipts")

    def holds(self) -> dict[str, Any]:
        return self._transport.json("GET", "/internal/holds")

    def set_hold(self, scope: Mapping[str, str], reason: str) -> dict[str, Any]:
        return self._transport.json("POST", "/internal/holds", json={**scope, "reason": reason})

    def lift_hold(self, scope: Mapping[str, str], reason: str) -> dict[str, Any]:
        return self._transport.json("POST", "/internal/holds/lift", json={**scope, "reason": reason})
