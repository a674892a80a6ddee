"""`/internal/workspace/*`: temporary files with a deadline, and what lies in the workspaces."""

from __future__ import annotations

import math

from chalice.app import Blueprint, Response

from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import json_body
from nas_gateway.api import asked
from nas_gateway.api.guard import Gateway, GatewayOf
from nas_gateway.workspace import Workspaces


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    def workspaces(gate: Gateway) -> Workspaces:
        settings = gate.settings
        return Workspaces(gate.transfers, (settings.workspace_disk, settings.scratch_disk, settings.default_disk))

    @bp.route("/internal/workspace/files", methods=["POST"])
    def save() -> Response:
        """`?disk=&path=&cleanup_hours=`, raw body -> 201 as an upload."""
        gate, query = gateway(), dict(bp.current_request.query_params or {})
        call = gate.admit(bp.current_request)
        hours = _hours(query["cleanup_hours"]) if "cleanup_hours" in query else None
        disk, path = asked.disk(gate, query), asked.needed(query, "path")
        content_type = bp.current_request.headers.get("content-type")
        saved = workspaces(gate).save(call, disk, path, asked.body(bp.current_request), content_type, hours)
        return Response(asked.saved(saved), status_code=201)

    @bp.route("/internal/workspace/files/delete", methods=["POST"])
    def delete() -> Response:
        """`{disk, path, user}` -> `{tracking_id}` of what created it: deleted, seen gone, and marked cleaned up."""
        gate = gateway()
        call, body = gate.admit(bp.current_request), json_body(bp.current_request)
        disk, path = asked.disk(gate, body), asked.needed(body, "path")
        return Response({"tracking_id": workspaces(gate).clean(call, disk, path, asked.optional(body, "user"))})

    @bp.route("/internal/workspace/usage", methods=["GET"])
    def usage() -> Response:
        gate = gateway()
        return Response(workspaces(gate).usage(gate.admit(bp.current_request)))

    return bp


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not math.isfinite(hours):
        raise InvalidRequest("cleanup_hours must be a number of hours.")
    return hours
