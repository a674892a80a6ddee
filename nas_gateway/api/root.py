"""`/` of the services tier: says that it is running, to whoever can reach it, and nothing else."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from nas_gateway.api.guard import GatewayOf


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/", methods=["GET"])
    def root() -> Response:
        answer = {"name": "Depot", "server_role": gateway().settings.role.value, "health": "/internal/storage/health"}
        return Response(answer)

    return bp
