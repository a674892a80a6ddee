"""Health and jobs without a network between: for the testing role, where both tiers are one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chalicelib.auth.policy import Permission
from chalicelib.config import Settings
from nas_gateway.files import maintenance
from nas_gateway.files.access import Call
from nas_gateway.files.transfers import Transfers
from nas_gateway.jobs.jobs import Jobs, run_json


class LocalSystem:
    """See `storage.system.SystemCalls`."""

    def __init__(self, settings: Settings, transfers: Transfers, jobs: Jobs, call: Callable[[], Call]) -> None:
        self._settings, self._transfers, self._jobs, self._call = settings, transfers, jobs, call

    def health(self) -> dict[str, Any]:
        return maintenance.health(self._transfers, self._settings, list(self._settings.disks))

    def jobs(self) -> dict[str, Any]:
        self._require()
        schedules = "on" if self._settings.schedules else "off"
        return {"jobs": [item.to_json() for item in self._jobs.listing()], "schedules": schedules}

    def run(self, name: str) -> dict[str, Any]:
        self._require()
        return run_json(self._jobs.run_now(name))

    def _require(self) -> None:
        call = self._call()
        if not call.is_service and not call.principal.may(Permission.CLEANUP, None):
            self._transfers.access.deny(call, Permission.CLEANUP, "", "", None)
