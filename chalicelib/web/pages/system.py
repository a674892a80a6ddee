"""`/app/system`: the health of both tiers, disks and ledger, and the scheduled jobs with a button to run one now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import Permission
from chalicelib.errors import DepotError, NotFound
from chalicelib.hosting import sandbox
from chalicelib.web.pages.kit import FORM, Kit
from chalicelib.web.tier import Tier


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    @bp.route("/app/system", methods=["GET"])
    @kit.page
    def system() -> Response:
        return shown(None)

    @bp.route("/app/system", methods=["POST"], content_types=[FORM])
    @kit.page
    def run() -> Response:
        """Run the job `name` now; the answer comes when it has ended."""
        kit.sign_in().require(Permission.CLEANUP, None)
        name = kit.form().get("name", "")
        if name not in {job["name"] for job in tier().system.jobs()["jobs"]}:
            raise NotFound
        return shown(tier().system.run(name))

    def shown(ran: dict[str, object] | None) -> Response:
        principal = kit.sign_in()
        principal.require(Permission.CLEANUP, None)
        health, problem = {}, None
        try:
            health = tier().system.health()
        except DepotError as error:
            problem = error
        jobs = tier().system.jobs() if problem is None else {"jobs": [], "schedules": "unknown"}
        return kit.show(
            "system.html",
            principal=principal,
            health=health,
            problem=problem,
            jobs=jobs,
            ran=ran,
            sandbox=words(sandbox.report()),
        )

    return bp


def words(report: Mapping[str, Any]) -> str:
    """What keeps this tier from writing, in a line.

    >>> words({"landlock": {"enforced": True, "abi": 7}, "rlimit_fsize": 0, "audit_hook": True, "write_attempts": 0})
    'Landlock in force (ABI 7) · file size limit 0 · 0 attempts to write'
    """
    landlock = report.get("landlock") or {}
    parts = [f"Landlock in force (ABI {landlock.get('abi')})" if landlock.get("enforced") else "Landlock not in force"]
    if report.get("rlimit_fsize") is not None:
        parts.append(f"file size limit {report['rlimit_fsize']}")
    if report.get("audit_hook"):
        parts.append(f"{report.get('write_attempts', 0)} attempts to write")
    return " · ".join(parts)
