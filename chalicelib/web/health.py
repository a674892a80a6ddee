"""`/health` and `/`: what this tier is, whether it can do its job, and what keeps it from writing."""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.errors import DepotError
from chalicelib.hosting import sandbox
from chalicelib.storage.manager import StorageManager
from chalicelib.web.tier import Tier


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/health", methods=["GET"])
    def health() -> Response:
        """200 or 503: the services tier's reachability, and which parts of the no-write sandbox are in force.

        Needs no sign-in, so it says nothing about files, disks or users.
        """
        settings = tier().settings
        reached = services_reachable()
        answer: dict[str, Any] = {
            "status": "healthy" if reached else "unhealthy",
            "server_role": settings.role.value,
            "services": "reachable" if reached else "unreachable",
            "sandbox": sandbox.report(),
        }
        return Response(answer, status_code=200 if reached else 503, headers={"Cache-Control": "no-store"})

    @bp.route("/", methods=["GET"])
    def root() -> Response:
        """What this server is, and where things are. A browser is sent to the application."""
        if "text/html" in bp.current_request.headers.get("accept", ""):
            return Response("", {"Location": "/app"}, 303)
        answer = {
            "name": "Depot",
            "server_role": tier().settings.role.value,
            "sign_in": "POST /session",
            "files": "/files",
            "health": "/health",
        }
        return Response(answer)

    def services_reachable() -> bool:
        try:
            StorageManager.get_workspace_storage().exists("depot-health/none")
        except DepotError:
            return False
        return True

    return bp
