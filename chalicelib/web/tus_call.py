"""What tus requests are answered with: headers made from where an upload stands, and the frame of every answer.

`TusCall` is that frame: method override, protocol version, errors, OPTIONS, CORS. `tus` puts the verbs into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any

from chalice.app import Response

from chalicelib import errors
from chalicelib.hosting.answers import RETRY_AFTER, as_depot_error, error_answer
from chalicelib.observability import current_request_id
from chalicelib.storage.uploads import UploadStatus
from chalicelib.web import tus_headers as tus
from chalicelib.web.cors import cors_headers
from chalicelib.web.tier import WebTier

AVAILABLE = "AVAILABLE"

# Keys of a session's note: the two headers as they were sent.
METADATA, CONCAT = "tus_metadata", "tus_concat"

# Headers that pages of other origins may send, and see.
_TAKES = (
    "Authorization, Content-Type, Idempotency-Key, Tus-Resumable, Upload-Checksum, Upload-Concat, Upload-Defer-Length, "
    "Upload-Length, Upload-Metadata, Upload-Offset, X-HTTP-Method-Override, X-Request-ID, X-Requested-With"
)
_SHOWS = (
    "Location, Retry-After, Tus-Checksum-Algorithm, Tus-Extension, Tus-Max-Size, Tus-Resumable, Tus-Version, "
    "Upload-Concat, Upload-Defer-Length, Upload-Expires, Upload-Length, Upload-Metadata, Upload-Offset, "
    "X-Depot-Completed-At, X-Depot-File-Id, X-Depot-Ledger, X-Depot-Parts-SHA256, X-Depot-SHA256, X-Depot-Tracking-Id, "
    "X-Request-ID"
)
_BASE = re.compile(r"(/[A-Za-z0-9._~-]+)*/uploads")

# Chalice's type for the headers of an answer.
Headers = dict[str, str | list[str]]
Views = Mapping[str, Callable[[], Response]]


class TusCall:
    """One request. Views return the answer without the headers that all answers have; `answer` adds those."""

    def __init__(self, tier: WebTier, request: Any, upload_id: str = "") -> None:
        self.tier, self.request, self.upload_id = tier, request, upload_id
        self.headers: Mapping[str, str] = request.headers

    def answer(self, views: Views) -> Response:
        """The answer of the view for the request's method, or the error it ended with."""
        method = self._method()
        try:
            response = self._checked(method, views)()
        except Exception as error:  # noqa: BLE001 -- without the headers below no page could read it, not even a 500
            response = self._refusal(error, method, views)
        if method == "HEAD":
            response.body = ""
            response.headers.pop("Content-Type", None)
        response.headers |= {"Tus-Resumable": tus.VERSION, "Cache-Control": "no-store"}
        methods = ", ".join(dict.fromkeys([*views, "POST"]))
        allowed = self.tier.settings.cors_origins
        response.headers |= cors_headers(allowed, self.headers, methods=methods, takes=_TAKES, shows=_SHOWS)
        return response

    def _method(self) -> str:
        """Only POST can be overridden: were GET to become DELETE, the check for cross-site requests would not see it."""
        method: str = self.request.method
        return self.headers.get("x-http-method-override", method).upper() if method == "POST" else method

    def _checked(self, method: str, views: Views) -> Callable[[], Response]:
        if method not in views:
            raise errors.MethodNotAllowed
        # GET is not of the protocol; OPTIONS is exempt by it.
        if method not in ("OPTIONS", "GET") and self.headers.get("tus-resumable") != tus.VERSION:
            raise errors.TusVersionUnsupported
        if self.upload_id and not tus.is_upload_id(self.upload_id):
            raise errors.UploadMissing
        return views[method]

    def _refusal(self, error: Exception, method: str, views: Views) -> Response:
        refused = as_depot_error(error)
        if self.upload_id and isinstance(refused, errors.UploadInProgress):
            refused = errors.UploadLocked()  # 409 would tell a tus client that its offset is wrong
        response = error_answer(refused, current_request_id())
        if method == "HEAD" and self.upload_id and refused.retryable:
            # tus-js-client takes 423 for "ask again" and any other refusal of HEAD for the loss of the upload: it would
            # begin a new one, which finds its own path taken. The access line keeps the true code.
            response.status_code = errors.UploadLocked.status
            response.headers.setdefault("Retry-After", RETRY_AFTER[response.status_code])
        if isinstance(refused, errors.MethodNotAllowed):
            response.headers["Allow"] = ", ".join(views)
        if isinstance(refused, errors.TusVersionUnsupported):
            response.headers["Tus-Version"] = tus.VERSION
        return response

    def options(self) -> Response:
        """What this server can do. Needs no sign-in: a browser asks it before it may send a token."""
        told: Headers = {
            "Tus-Version": tus.VERSION,
            "Tus-Extension": tus.EXTENSIONS,
            "Tus-Max-Size": str(self.tier.settings.max_upload_bytes),
            "Tus-Checksum-Algorithm": ",".join(tus.DIGEST_BYTES),
        }
        return Response("", told, 204)


def is_file(status: UploadStatus) -> bool:
    """Whether it is finished: a file, not bytes that wait for others."""
    return status.state == AVAILABLE and not status.partial


def is_final(status: UploadStatus) -> bool:
    """Whether it was made of partial uploads."""
    return status.note.get(CONCAT, "").startswith("final;")


def base_path(told: object) -> str:
    """The path of the collection as its client sees it: API Gateway puts its stage before it."""
    return told if isinstance(told, str) and _BASE.fullmatch(told) else "/uploads"


def progress_headers(status: UploadStatus) -> Headers:
    """`Upload-Expires` for what can still run out, the receipt for what is finished."""
    if is_file(status):
        return _receipt_headers(status)
    # RFC 9110, section 5.6.7: how a date is written.
    return {"Upload-Expires": formatdate(status.expires_at, usegmt=True)} if status.expires_at else {}


def description_headers(status: UploadStatus) -> Headers:
    """What HEAD tells: the offset, the length or that it is deferred, and what the creation said."""
    told = {
        "Upload-Offset": str(status.offset),
        "Upload-Length": None if status.size is None else str(status.size),
        "Upload-Defer-Length": "1" if status.size is None else None,
        "Upload-Metadata": status.note.get(METADATA),
        "Upload-Concat": status.note.get(CONCAT),
    }
    return _known(told) | progress_headers(status)


def _receipt_headers(status: UploadStatus) -> Headers:
    """The parts' hash stands in until the whole file's is known."""
    receipt = status.receipt
    if receipt is None:
        return {}
    told = {
        "X-Depot-File-Id": receipt.file_id,
        "X-Depot-SHA256": receipt.sha256,
        "X-Depot-Parts-SHA256": None if receipt.sha256 else receipt.parts_sha256,
        "X-Depot-Completed-At": receipt.completed_at,
        "X-Depot-Ledger": receipt.ledger,
        "X-Depot-Tracking-Id": receipt.tracking_id,
    }
    return _known(told)


def _known(told: Mapping[str, str | None]) -> Headers:
    return {name: value for name, value in told.items() if value}
