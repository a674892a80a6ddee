"""`/internal/jobs`: the scheduled jobs, their last runs, and running one now. For the service and who may clean up."""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import Permission
from nas_gateway.api.guard import Gateway, GatewayOf
from nas_gateway.jobs import Deadline
from nas_gateway.jobs.jobs import run_json


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    def admitted() -> Gateway:
        gate = gateway()
        call = gate.admit(bp.current_request)
        if not call.is_service and not call.principal.may(Permission.CLEANUP, None):
            gate.transfers.access.deny(call, Permission.CLEANUP, "", "", None)
        return gate

    @bp.route("/internal/jobs", methods=["GET"])
    def jobs() -> Response:
        """-> `{jobs: [{name, every_seconds, about, next_due, overdue, runs: […]}], schedules}`."""
        gate = admitted()
        found: list[dict[str, Any]] = [item.to_json() for item in gate.jobs.listing()]
        return Response({"jobs": found, "schedules": "on" if gate.settings.schedules else "off"})

    @bp.route("/internal/jobs/{name}/run", methods=["POST"])
    def run(name: str) -> Response:
        """-> the run's record, once it has ended: 200 also for one that failed. 409 `job_running`."""
        return Response(run_json(admitted().jobs.run_now(name, Deadline.of(bp.lambda_context))))

    return bp
