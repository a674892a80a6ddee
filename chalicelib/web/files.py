"""`/files`: upload, list, describe, download, delete. Bytes pass through as readers; nothing is kept here."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission, Principal
from chalicelib.errors import InvalidRequest, ObjectCorrupt
from chalicelib.hosting.chalice_app import body_reader
from chalicelib.hosting.downloads import content_response, description_response, not_modified
from chalicelib.limits import LAMBDA_CHUNK_BYTES, PRESIGN_MAX_SECONDS
from chalicelib.storage.base import Reader
from chalicelib.storage.catalog import FileView, Listing
from chalicelib.storage.manager import StorageManager
from chalicelib.web.client_config import streams
from chalicelib.web.forms import is_form, read_form
from chalicelib.web.target import checked_file_id, replaces, target
from chalicelib.web.tier import Tier

# What of a `FileView` is nobody's business: where it lies.
HIDDEN = frozenset({"disk"})


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/files", methods=["PUT", "POST"])
    def upload() -> Response:
        """Stream a body (raw, or an HTML form's file) to the services tier -> 201 `{file_id, path, size, sha256, …}`."""
        request = bp.current_request
        principal = tier().sign_in(request)
        query: dict[str, str] = dict(request.query_params or {})
        content_type, content = request.headers.get("content-type"), body_reader(request)
        if is_form(content_type):
            form = read_form(content_type or "", content)
            query = {**form.fields, **query}
            query.setdefault("filename", form.filename)
            content_type, content = form.content_type, form.content
        return _store(principal, query, content_type, content, request.headers)

    @bp.route("/files", methods=["GET"])
    def listing() -> Response:
        """`?cohort=&cursor=&limit=` -> `{files: […], cursor}`; the cohort may be left out by who belongs to one only.

        `order` (`oldest`, `newest`), `file_type`, `protocol_year`, `name` (a part of it): see `Listing`.
        """
        principal = tier().sign_in(bp.current_request)
        query: dict[str, str] = dict(bp.current_request.query_params or {})
        cohort, limit = _cohort(principal, query.get("cohort")), http.page_limit(query.get("limit"))
        page = tier().catalog.files(cohort, query.get("cursor"), limit, listing=Listing.of(query))
        return _json({"files": [_public(view) for view in page.files], "cursor": page.cursor})

    @bp.route("/files/{file_id}", methods=["GET", "HEAD"])
    def describe(file_id: str) -> Response:
        """One file's description."""
        tier().sign_in(bp.current_request)
        return _json(_public(tier().catalog.file(checked_file_id(file_id))))

    @bp.route("/files/{file_id}", methods=["DELETE"])
    def delete(file_id: str) -> Response:
        """Delete a file from the storage. Its history stays in the ledger."""
        principal = tier().sign_in(bp.current_request)
        view = tier().catalog.file(checked_file_id(file_id))
        principal.require(Permission.DELETE, view.cohort)
        StorageManager.get_storage(view.disk).delete(view.path)
        return _json({"file_id": view.file_id, "deleted": True})

    @bp.route("/files/{file_id}/content", methods=["GET", "HEAD"])
    def content(file_id: str) -> Response:
        """The bytes, with `Range`, `If-Range`, `If-None-Match`, `ETag` and a safe `Content-Disposition`.

        What is too large for an answer of Lambda's is at a presigned URL (307) where presigning is on.
        """
        request = bp.current_request
        principal = tier().sign_in(request)
        view = tier().catalog.file(checked_file_id(file_id))
        principal.require(Permission.READ, view.cohort)
        if view.corrupt:
            raise ObjectCorrupt
        etag = f'"{view.sha256 or view.etag}"'
        headers = {
            "ETag": etag,
            "Content-Disposition": http.content_disposition(view.filename),
            "Content-Type": view.content_type,
            "Cache-Control": "private, no-store",
            # Stored bytes are never to be interpreted as a page of ours, whatever type they claim.
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
        }
        if http.matches(request.headers.get("if-none-match"), etag):
            return not_modified(headers)
        if request.method == "HEAD":
            return description_response(view.size, headers)
        wanted = http.parse_range(request.headers.get("range"))
        if not http.range_applies(request.headers.get("if-range"), etag):
            wanted = None
        if wanted is None and view.size > LAMBDA_CHUNK_BYTES and not streams(request) and tier().uploads.presigning():
            signed = tier().uploads.file_url(view.file_id, PRESIGN_MAX_SECONDS)
            return Response("", {"Location": signed.url, "Cache-Control": "no-store"}, 307)
        return content_response(StorageManager.get_storage(view.disk).open(view.path, wanted), headers, wanted)

    return bp


def _store(
    principal: Principal,
    query: Mapping[str, str],
    content_type: str | None,
    content: Reader,
    headers: Mapping[str, str],
) -> Response:
    answer = store(principal, query, content_type, content, headers)
    # as `content` gives it; Uppy reads it
    etag = answer.pop("etag")
    return _json(answer, 201, {"Location": f"/files/{answer['file_id']}", "ETag": f'"{etag}"'})


def store(
    principal: Principal,
    query: Mapping[str, str],
    content_type: str | None,
    content: Reader,
    headers: Mapping[str, str],
) -> dict[str, Any]:
    """Stream one file on to the services tier, once this user may; what the answer says of it."""
    storage, path, metadata = target(query)
    principal.require(Permission.UPLOAD, metadata.get("cohort"))
    saved = storage.save(
        path,
        content,
        _content_type(content_type, path),
        metadata,
        if_absent=not replaces(query),
        sha256=http.check_sha256(headers.get("x-content-sha256")),
    )
    return {
        "file_id": saved.file_id,
        "path": str(saved),
        "size": saved.size,
        "sha256": saved.sha256 or None,
        "etag": saved.sha256 or saved.etag,
        "tracking_id": saved.tracking_id,
        "completed_at": saved.recorded_at,
        "ledger": saved.ledger,
    }


def _content_type(told: str | None, path: str) -> str:
    # curl -T says nothing; --data-binary says a form type for what is no form.
    if told and told.split(";")[0].strip().lower() not in ("application/x-www-form-urlencoded", ""):
        return told
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


def _cohort(principal: Principal, asked: str | None) -> str:
    if asked:
        return asked
    if len(principal.cohorts) == 1:
        return next(iter(principal.cohorts))
    raise InvalidRequest("Say which cohort: GET /files?cohort=…")


def _public(view: FileView) -> dict[str, Any]:
    return {name: value for name, value in view.to_json().items() if name not in HIDDEN}


def _json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dict(body), status_code=status, headers={"Cache-Control": "no-store", **(headers or {})})
