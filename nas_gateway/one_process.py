"""Both tiers in one process, for the testing role: what the web tier asks, without a network between. Called by app.py."""

from __future__ import annotations

from typing import Any

from chalicelib.config import Settings
from nas_gateway import wiring
from nas_gateway.cleanup.local import LocalCleanup
from nas_gateway.files.access import Call
from nas_gateway.files.audit import Audit, LocalAuditTrail
from nas_gateway.files.catalog import LocalCatalog
from nas_gateway.files.published import LocalCheckpoints
from nas_gateway.jobs.local import LocalSystem
from nas_gateway.people.people import LocalPeople
from nas_gateway.reports.reports import LocalReports
from nas_gateway.uploads.local import LocalUploadSessions


def backend(settings: Settings) -> dict[str, Any]:
    """The parts of `chalicelib.web.tier.Backend`, by name."""
    made = wiring.configure(settings)

    def call() -> Call:
        return wiring.current_call(made)

    return {
        "catalog": LocalCatalog(made.transfers, call),
        "uploads": LocalUploadSessions(settings, made.uploads, made.direct, call),
        "audit": LocalAuditTrail(Audit(made.transfers), call),
        "reports": LocalReports(wiring.reports(settings), call),
        "checkpoints": LocalCheckpoints(made.published, call),
        "cleanup": LocalCleanup(made.cleanup, made.holds, call),
        "people": LocalPeople(made.people, call),
        "system": LocalSystem(settings, made.transfers, made.jobs, call),
    }
