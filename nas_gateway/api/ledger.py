"""`/internal/ledger/*`: the signed checkpoints, and the key to check them with."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib import http
from nas_gateway.api.guard import GatewayOf


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/internal/ledger/checkpoints", methods=["GET"])
    def checkpoints() -> Response:
        """`?after=&limit=` -> `{checkpoints: [line, …], next}`: the lines as they are kept, without their ends."""
        gate, query = gateway(), dict(bp.current_request.query_params or {})
        call = gate.admit(bp.current_request)
        page = gate.published.page(call, http.count(query.get("after"), "after"), http.page_limit(query.get("limit")))
        return Response({"checkpoints": list(page.lines), "next": page.next})

    @bp.route("/internal/ledger/public-key", methods=["GET"])
    def public_key() -> Response:
        """-> `{public_key}`: base64 of the Ed25519 key of the first checkpoint."""
        gate = gateway()
        return Response({"public_key": gate.published.public_key(gate.admit(bp.current_request))})

    return bp
