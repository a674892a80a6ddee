"""`/internal/uploads/*` and `/internal/files/{id}/url`: what the web tier needs for transfers straight to the store."""

from __future__ import annotations

from dataclasses import asdict

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import json_body
from nas_gateway.api import asked
from nas_gateway.api.guard import GatewayOf


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/internal/uploads/config", methods=["GET"])
    def config() -> Response:
        """`{presigning, origin}`: whether clients can reach the submissions' store, and where (scheme, host, port)."""
        gate = gateway()
        gate.admit(bp.current_request)
        disk = asked.disk(gate, {"disk": "submissions"})
        origin = gate.settings.disks[disk].public_endpoint or None
        return Response({"presigning": gate.direct.on(disk), "origin": origin})

    @bp.route("/internal/uploads/{upload_id}/parts", methods=["POST"])
    def sign_part(upload_id: str) -> Response:
        """`{number, size?, sha256?}` -> `{method, url, headers, expires_in}`: a PUT of one part of a direct upload."""
        gate = gateway()
        call, body = gate.admit(bp.current_request), json_body(bp.current_request)
        signed = gate.direct.sign_part(
            call,
            upload_id,
            asked.count(body, "number") or 0,
            size=asked.count(body, "size"),
            sha256=http.check_sha256(asked.optional(body, "sha256")),
        )
        return Response(signed.to_json(), status_code=201)

    @bp.route("/internal/uploads/{upload_id}/parts", methods=["GET"])
    def stored_parts(upload_id: str) -> Response:
        """`{parts: [{number, size, etag}]}` of a direct upload, as the store lists them."""
        gate = gateway()
        call = gate.admit(bp.current_request)
        return Response({"parts": [asdict(part) for part in gate.direct.stored_parts(call, upload_id)]})

    @bp.route("/internal/files/{file_id}/url", methods=["POST"])
    def file_url(file_id: str) -> Response:
        """`{expires_in}` -> `{method, url, headers, expires_in}`: a GET of an available file."""
        gate = gateway()
        call, body = gate.admit(bp.current_request), json_body(bp.current_request)
        seconds = asked.count(body, "expires_in")
        if seconds is None:
            raise InvalidRequest("expires_in is missing.")
        return Response(gate.direct.file_url(call, file_id, seconds).to_json(), status_code=201)

    return bp
