"""`/internal/reports/storage`: what is stored, what is overdue, and what it risks, as far as the caller may see it."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from nas_gateway.api.guard import GatewayOf
from nas_gateway.reports.reports import Reports


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/internal/reports/storage", methods=["GET"])
    def storage() -> Response:
        gate = gateway()
        call = gate.admit(bp.current_request)
        jobs = gate.jobs
        made = Reports(gate.transfers, list(gate.settings.disks), lambda: [job.to_json() for job in jobs.listing(1)])
        return Response(made.storage(call))

    return bp
