"""`/internal/storage/upload_chunked`: upload sessions, a phase a call (design, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import json_body
from chalicelib.storage.uploads import NewUpload, UploadStatus, checksum_of
from nas_gateway.api import asked
from nas_gateway.api.guard import Gateway, GatewayOf

PHASES = ("init", "concat", "chunk", "status", "size", "complete", "abort")


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/internal/storage/upload_chunked", methods=["POST"])
    def upload_chunked() -> Response:
        request = bp.current_request
        gate, query = gateway(), dict(request.query_params or {})
        call, phase = gate.admit(request), query.get("phase")
        if phase not in PHASES:
            raise InvalidRequest(f"phase must be one of {', '.join(PHASES)}.")
        if phase in ("init", "concat"):
            body = json_body(request)
            new = _new(gate, body)
            if phase == "init":
                return _status(gate.uploads.create(call, gate.direct.check(new)), 201)
            return _status(gate.concatenation.concatenate(call, new, _ids(body)), 201)
        upload_id = asked.needed(query, "upload_id")
        if phase == "chunk":
            status = gate.uploads.append(
                call,
                upload_id,
                asked.number(asked.needed(query, "offset"), "offset"),
                asked.body(request),
                checksum=checksum_of(request.headers.get("x-depot-checksum")),
                finish=asked.flag(query, "finish"),
            )
            return _status(status)
        if phase == "size":
            size = asked.number(asked.needed(query, "size"), "size")
            return _status(gate.uploads.declare_size(call, upload_id, size))
        if phase == "complete":
            sha256 = http.check_sha256(request.headers.get("x-content-sha256"))
            receipt = gate.uploads.complete(call, upload_id, sha256=sha256).receipt
            assert receipt is not None  # complete() raises otherwise
            return Response(receipt.to_json(), status_code=201)
        if phase == "abort":
            gate.uploads.abort(call, upload_id)
            return Response({"upload_id": upload_id, "aborted": True})
        return _status(gate.uploads.status(call, upload_id, settle=asked.flag(query, "settle")))

    return bp


def _new(gate: Gateway, body: Mapping[str, Any]) -> NewUpload:
    metadata = asked.strings(body, "metadata")
    http.metadata_headers(metadata)  # the same rules as for a single upload's headers
    partial = asked.flag(body, "partial")
    return NewUpload(
        disk=asked.disk(gate, body),
        path="" if partial else asked.needed(body, "path"),
        size=asked.count(body, "size"),
        content_type=asked.optional(body, "content_type"),
        metadata=metadata,
        sha256=http.check_sha256(asked.optional(body, "sha256")),
        if_absent=asked.flag(body, "if_absent"),
        idempotency_key=asked.optional(body, "idempotency_key"),
        note=asked.strings(body, "note"),
        partial=partial,
        direct=asked.flag(body, "direct"),
        part_bytes=asked.count(body, "part_bytes"),
    )


def _ids(body: Mapping[str, Any]) -> list[str]:
    ids = body.get("uploads")
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise InvalidRequest("uploads must be a list of upload ids.")
    return ids


def _status(status: UploadStatus, code: int = 200) -> Response:
    return Response(status.to_json(), status_code=code)
