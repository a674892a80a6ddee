"""Answers that carry a file's bytes: the same on both tiers. Thin over `StreamResponse`."""

from __future__ import annotations

from collections.abc import Mapping

from chalice.app import Response

from chalicelib.hosting.chalice_app import StreamResponse
from chalicelib.storage.base import ByteRange, Download


def content_response(download: Download, headers: Mapping[str, str], wanted: ByteRange | None) -> Response:
    """200 with the whole file, or 206 with the range that was asked for. Takes over the download and closes it."""
    answer = {**headers, "Content-Length": str(download.count), "Accept-Ranges": "bytes"}
    if wanted is None:
        return StreamResponse(download, status_code=200, headers=answer)
    last = download.start + download.count - 1
    answer["Content-Range"] = f"bytes {download.start}-{last}/{download.info.size}"
    return StreamResponse(download, status_code=206, headers=answer)


def description_response(size: int, headers: Mapping[str, str]) -> Response:
    """The answer to HEAD: everything but the bytes."""
    return StreamResponse(
        (), status_code=200, headers={**headers, "Content-Length": str(size), "Accept-Ranges": "bytes"}
    )


def not_modified(headers: Mapping[str, str]) -> Response:
    """304, with the validators only (RFC 9110, 15.4.5)."""
    kept = {name: value for name, value in headers.items() if name in ("ETag", "Cache-Control")}
    return StreamResponse((), status_code=304, headers=kept)
