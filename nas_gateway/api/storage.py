"""`/internal/storage/*`: the ten calls of the seeds' table (design, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission
from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import body_reader, json_body
from chalicelib.hosting.downloads import content_response, description_response, not_modified
from chalicelib.storage.base import ObjectInfo, SavedPath
from chalicelib.storage.manager import resolve_disk
from chalicelib.storage.paths import normalise_prefix
from nas_gateway.api.guard import Gateway, GatewayOf
from nas_gateway.files import maintenance
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.uploads import Status


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    def admitted() -> tuple[Gateway, Call, dict[str, str]]:
        request = bp.current_request
        return gateway(), gateway().admit(request), dict(request.query_params or {})

    @bp.route("/internal/storage/upload", methods=["POST"])
    def upload() -> Response:
        gate, call, query = admitted()
        headers = bp.current_request.headers
        where = place(
            _disk(gate, query),
            _needed(query, "path"),
            content_type=headers.get("content-type"),
            metadata=http.metadata_from_headers(headers),
        )
        saved = gate.transfers.upload(
            call,
            where,
            body_reader(bp.current_request),
            sha256=http.check_sha256(headers.get("x-content-sha256")),
            if_absent=headers.get("if-none-match", "").strip() == "*",
        )
        return Response(_saved(saved), status_code=201)

    @bp.route("/internal/storage/upload_chunked", methods=["POST"])
    def upload_chunked() -> Response:
        gate, call, query = admitted()
        phase = query.get("phase")
        if phase == "init":
            return Response(_status(_init(gate, call, json_body(bp.current_request))), status_code=201)
        if phase not in ("chunk", "status", "complete", "abort"):
            raise InvalidRequest("phase must be init, chunk, status, complete or abort.")
        upload_id = _needed(query, "upload_id")
        if phase == "chunk":
            offset = _number(_needed(query, "offset"), "offset")
            return Response(_status(gate.uploads.chunk(call, upload_id, offset, body_reader(bp.current_request))))
        if phase == "complete":
            sha256 = http.check_sha256(bp.current_request.headers.get("x-content-sha256"))
            return Response(_saved(gate.uploads.complete(call, upload_id, sha256=sha256)), status_code=201)
        if phase == "abort":
            gate.uploads.abort(call, upload_id)
            return Response({"upload_id": upload_id, "aborted": True})
        return Response(_status(gate.uploads.status(call, upload_id)))

    @bp.route("/internal/storage/download", methods=["GET", "HEAD"])
    def download() -> Response:
        gate, call, query = admitted()
        headers = bp.current_request.headers
        disk, path = _disk(gate, query), _needed(query, "path")
        if bp.current_request.method == "HEAD" or "if-none-match" in headers:
            info = gate.transfers.describe(call, disk, path)
            if http.matches(headers.get("if-none-match"), http.etag_of(info)):
                return not_modified(_headers(info))
            if bp.current_request.method == "HEAD":
                return description_response(info.size, _headers(info))
        wanted = http.parse_range(headers.get("range"))
        opened = gate.transfers.download(call, disk, path, wanted)
        return content_response(opened, _headers(opened.info), wanted)

    @bp.route("/internal/storage/delete", methods=["POST"])
    def delete() -> Response:
        gate, call, _ = admitted()
        body = json_body(bp.current_request)
        disk, path = _disk(gate, body), _needed(body, "path")
        return Response({"deleted": [path], "tracking_id": gate.transfers.delete(call, disk, path)})

    @bp.route("/internal/storage/delete_prefix", methods=["POST"])
    def delete_prefix() -> Response:
        gate, call, _ = admitted()
        body = json_body(bp.current_request)
        dry_run = _flag(body, "dry_run")
        prefix = normalise_prefix(_needed(body, "prefix"))
        deleted, failed, tracking_id = gate.transfers.delete_prefix(call, _disk(gate, body), prefix, dry_run=dry_run)
        key = "would_delete" if dry_run else "deleted"
        answer = {key: deleted, "failed": dict(failed), "count": len(deleted), "dry_run": dry_run}
        return Response({**answer, "tracking_id": tracking_id})

    @bp.route("/internal/storage/list", methods=["GET"])
    def listing() -> Response:
        gate, call, query = admitted()
        prefix = query.get("prefix", "")
        gate.transfers.access.prefix(call, Permission.LIST, prefix)
        page = gate.transfers.disk(_disk(gate, query)).list_with_prefix(
            prefix, query.get("cursor"), http.page_limit(query.get("limit"))
        )
        return Response({"files": [_info(item) for item in page.items], "cursor": page.cursor})

    @bp.route("/internal/storage/exists", methods=["GET"])
    def exists() -> Response:
        gate, call, query = admitted()
        return Response({"exists": gate.transfers.exists(call, _disk(gate, query), _needed(query, "path"))})

    @bp.route("/internal/storage/metadata", methods=["GET"])
    def metadata() -> Response:
        gate, call, query = admitted()
        return Response(_info(gate.transfers.describe(call, _disk(gate, query), _needed(query, "path"))))

    @bp.route("/internal/storage/cleanup", methods=["POST"])
    def cleanup() -> Response:
        gate, call, _ = admitted()
        body = json_body(bp.current_request)
        hours = body.get("hours", gate.settings.temporary_hours)
        if isinstance(hours, bool) or not isinstance(hours, (int, float)) or not 0 <= hours <= 24 * 365:
            raise InvalidRequest("hours must be a number of 0 (now) or more.")
        return Response(maintenance.clean_up(gate.transfers, call, hours=hours, dry_run=_flag(body, "dry_run", True)))

    @bp.route("/internal/storage/health", methods=["GET"])
    def health() -> Response:
        gate, _, query = admitted()
        names = [_disk(gate, query)] if query.get("disk") else list(gate.settings.disks)
        report = maintenance.health(gate.transfers, gate.settings, names)
        return Response(report, status_code=200 if report["status"] == "healthy" else 503)

    return bp


def _init(gate: Gateway, call: Call, body: Mapping[str, Any]) -> Status:
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidRequest("metadata must be an object of strings.")
    http.metadata_headers(metadata)  # the same rules as for a single upload's headers
    size = body.get("size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise InvalidRequest("size must be a whole number of bytes, or left out.")
    where = place(
        _disk(gate, body),
        _needed(body, "path"),
        content_type=_optional(body, "content_type"),
        metadata=metadata,
    )
    sha256 = http.check_sha256(_optional(body, "sha256"))
    return gate.uploads.init(call, where, size=size, sha256=sha256, if_absent=_flag(body, "if_absent"))


def _disk(gate: Gateway, values: Mapping[str, Any]) -> str:
    return resolve_disk(gate.settings, str(values.get("disk") or "default"))


def _needed(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} is missing.")
    return value


def _optional(values: Mapping[str, Any], name: str) -> str | None:
    return _needed(values, name) if values.get(name) is not None else None


def _flag(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false.")
    return value


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidRequest(f"{name} must be a whole number.")
    return int(text)


def _saved(saved: SavedPath) -> dict[str, Any]:
    return {
        "path": str(saved),
        "size": saved.size,
        "sha256": saved.sha256 or None,
        "etag": saved.etag,
        "tracking_id": saved.tracking_id,
        "file_id": saved.file_id,
    }


def _status(status: Status) -> dict[str, Any]:
    return {
        "upload_id": status.upload_id,
        "offset": status.offset,
        "chunk_bytes": status.chunk_bytes,
        "expires_at": status.expires_at,
        "state": status.state,
        "size": status.size,
    }


def _info(info: ObjectInfo) -> dict[str, Any]:
    return {
        "path": info.path,
        "size": info.size,
        "etag": info.etag,
        "modified_at": info.modified_at.isoformat(),
        "content_type": info.content_type,
        "sha256": info.sha256,
        "metadata": dict(info.metadata),
    }


def _headers(info: ObjectInfo) -> dict[str, str]:
    headers = {
        "ETag": http.etag_of(info),
        "Content-Type": info.content_type,
        "Cache-Control": "private, no-store",
        "X-Depot-Storage-ETag": info.etag,
        "X-Depot-Modified-At": info.modified_at.isoformat(),
        **http.metadata_headers({key: value for key, value in info.metadata.items() if http.is_metadata_key(key)}),
    }
    return {**headers, "X-Content-SHA256": info.sha256} if info.sha256 else headers
