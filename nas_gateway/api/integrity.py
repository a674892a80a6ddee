"""`POST /internal/files/{file_id}/verify`: an administrator has one file read again, now."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import Permission
from nas_gateway.api.guard import GatewayOf
from nas_gateway.integrity.integrity import Integrity, rate_of
from nas_gateway.jobs.deadline import Deadline

# API Gateway gives up on a handler after 29 s (Amazon API Gateway quotas, "Integration timeout"). What takes longer goes on
# in the next run of the job, or with `depot verify --file`.
SECONDS = 20.0


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/internal/files/{file_id}/verify", methods=["POST"])
    def verify(file_id: str) -> Response:
        """-> `{file_id, state, counts, damaged: [{file_id, reason}], unread: [{file_id, why}]}`; 404 for no stored file."""
        gate = gateway()
        call = gate.admit(bp.current_request)
        file = gate.transfers.file(call, file_id)
        if not call.is_service and not call.principal.may(Permission.ADMIN, file.cohort):
            gate.transfers.access.deny(call, Permission.ADMIN, file.disk, file.path, file.cohort)
        rate, days = rate_of(gate.settings.integrity_mib_per_second), gate.settings.integrity_period_days
        report = Integrity(gate.transfers, period_days=days, rate=rate).verify(
            file_id=file_id, user=call.principal.username, deadline=Deadline.after(SECONDS)
        )
        now = gate.transfers.registry.get(file_id)
        return Response({"file_id": file_id, "state": now.state if now else None, **report.to_json()})

    return bp
