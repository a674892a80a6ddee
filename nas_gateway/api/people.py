"""`/internal/users`, `/internal/cohorts` and the other calls of `chalicelib.auth.people`. The use-cases authorise."""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth.people import CALLS, INTERNAL_CALLS, PeopleCall
from chalicelib.hosting.chalice_app import json_body
from nas_gateway.api.guard import GatewayOf


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    def answer(name: str, call: PeopleCall) -> None:
        def view(**where: str) -> Response:
            gate, request = gateway(), bp.current_request
            admitted = gate.admit(request)
            values: dict[str, Any] = json_body(request) if call.body else dict(request.query_params or {})
            return Response(gate.people.ask(name, admitted, values, **where), status_code=call.status)

        view.__name__, view.__doc__ = f"internal_{name}", call.about
        bp.route(call.internal_path, methods=[call.method])(view)

    for name, call in {**CALLS, **INTERNAL_CALLS}.items():
        answer(name, call)
    return bp
