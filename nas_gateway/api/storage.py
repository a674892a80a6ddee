"""`/internal/storage/*`: the calls of the seeds' table (design, section 4), but uploads in chunks: see `chunked`."""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission
from chalicelib.hosting.chalice_app import json_body
from chalicelib.hosting.downloads import content_response, description_response, not_modified
from chalicelib.storage.base import ObjectInfo
from chalicelib.storage.paths import normalise_prefix
from nas_gateway.api import asked
from nas_gateway.api.guard import Gateway, GatewayOf
from nas_gateway.files import maintenance
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place


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
            asked.disk(gate, query),
            asked.needed(query, "path"),
            content_type=headers.get("content-type"),
            metadata=http.metadata_from_headers(headers),
        )
        saved = gate.transfers.upload(
            call,
            where,
            asked.body(bp.current_request),
            sha256=http.check_sha256(headers.get("x-content-sha256")),
            if_absent=headers.get("if-none-match", "").strip() == "*",
        )
        return Response(asked.saved(saved), status_code=201)

    @bp.route("/internal/storage/download", methods=["GET", "HEAD"])
    def download() -> Response:
        gate, call, query = admitted()
        headers = bp.current_request.headers
        disk, path = asked.disk(gate, query), asked.needed(query, "path")
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
        disk, path = asked.disk(gate, body), asked.needed(body, "path")
        return Response({"deleted": [path], "tracking_id": gate.transfers.delete(call, disk, path)})

    @bp.route("/internal/storage/delete_prefix", methods=["POST"])
    def delete_prefix() -> Response:
        gate, call, _ = admitted()
        body = json_body(bp.current_request)
        dry_run = asked.flag(body, "dry_run")
        prefix = normalise_prefix(asked.needed(body, "prefix"))
        deleted, failed, tracking_id = gate.transfers.delete_prefix(
            call, asked.disk(gate, body), prefix, dry_run=dry_run
        )
        key = "would_delete" if dry_run else "deleted"
        answer = {key: deleted, "failed": dict(failed), "count": len(deleted), "dry_run": dry_run}
        return Response({**answer, "tracking_id": tracking_id})

    @bp.route("/internal/storage/list", methods=["GET"])
    def listing() -> Response:
        gate, call, query = admitted()
        prefix = query.get("prefix", "")
        gate.transfers.access.prefix(call, Permission.LIST, prefix)
        page = gate.transfers.disk(asked.disk(gate, query)).list_with_prefix(
            prefix, query.get("cursor"), http.page_limit(query.get("limit"))
        )
        return Response({"files": [_info(item) for item in page.items], "cursor": page.cursor})

    @bp.route("/internal/storage/exists", methods=["GET"])
    def exists() -> Response:
        gate, call, query = admitted()
        return Response({"exists": gate.transfers.exists(call, asked.disk(gate, query), asked.needed(query, "path"))})

    @bp.route("/internal/storage/metadata", methods=["GET"])
    def metadata() -> Response:
        gate, call, query = admitted()
        return Response(_info(gate.transfers.describe(call, asked.disk(gate, query), asked.needed(query, "path"))))

    @bp.route("/internal/storage/health", methods=["GET"])
    def health() -> Response:
        gate, _, query = admitted()
        names = [asked.disk(gate, query)] if query.get("disk") else list(gate.settings.disks)
        report = maintenance.health(gate.transfers, gate.settings, names)
        if gate.settings.schedules and report["ledger"]["status"] == "healthy":
            # Told, and no reason to be unhealthy: taking the tier out of service would not make a job run.
            report["jobs"] = gate.jobs.health()
        return Response(report, status_code=200 if report["status"] == "healthy" else 503)

    return bp


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
