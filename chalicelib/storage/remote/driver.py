"""RemoteStorageDriver: every storage call as a streaming HTTP request to the services tier. Stores nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import requests

from chalicelib import errors
from chalicelib.http import metadata_from_headers, metadata_headers
from chalicelib.storage.base import ByteRange, Content, Download, Health, ObjectInfo, Page, Reader, SavedPath
from chalicelib.storage.paths import normalise, normalise_prefix
from chalicelib.storage.remote.temporary import RemoteTemporary
from chalicelib.storage.remote.transport import Transport
from chalicelib.storage.seal import SealedBody
from chalicelib.storage.streams import BytesReader, as_reader, read_full

# Tries for one chunk of the three-phase call; waits 0.2, 0.4 s between them.
RETRIES = 3


class RemoteStorageDriver(RemoteTemporary):
    """One disk of the services tier, seen from the web tier. Thread-safe; the transport's pool is shared by all disks."""

    def __init__(
        self,
        disk: str,
        transport: Transport,
    ) -> None:
        self.disk, self._transport = disk, transport

    @property
    def service_url(self) -> str:
        return self._transport.service_url

    def __repr__(self) -> str:
        return f"RemoteStorageDriver(disk={self.disk!r}, service_url={self.service_url!r})"

    # --- writing ---------------------------------------------------------------------------------------------

    def save(
        self,
        path: str,
        content: Content,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        if_absent: bool = False,
        sha256: str | None = None,
    ) -> SavedPath:
        """One streamed POST; see `Storage.save`. Raises `ServicesUnavailable` or `ServicesInterrupted` besides."""
        path = normalise(path)
        headers = {"Content-Type": content_type or "application/octet-stream", **metadata_headers(metadata)}
        if if_absent:
            headers["If-None-Match"] = "*"
        if sha256:
            headers["X-Content-SHA256"] = sha256
        reader, length = as_reader(content)
        body = SealedBody.of(reader, length)
        return self._saved(self._json("POST", "upload", {"path": path}, headers=headers, body=body))

    def save_chunked(self, path: str, reader: Reader, metadata: Mapping[str, str] | None = None) -> SavedPath:
        """The three-phase call: init, chunks, complete. A chunk is in memory, so one that fails is sent again.

        Memory: one chunk (`chunk_bytes` of the answer to init, 8 MiB by default).
        """
        path = normalise(path)
        source, size = as_reader(reader)
        asked = {"disk": self.disk, "path": path, "size": size, "metadata": dict(metadata or {})}
        session = self._json("POST", "upload_chunked", {"phase": "init"}, json=asked)
        upload = {"upload_id": session["upload_id"]}
        try:
            offset = int(session["offset"])
            while chunk := read_full(source, int(session["chunk_bytes"])):
                offset = self._send_chunk(upload, offset, chunk)
            return self._saved(self._json("POST", "upload_chunked", {"phase": "complete", **upload}))
        except BaseException:
            with contextlib.suppress(errors.DepotError):
                self._json("POST", "upload_chunked", {"phase": "abort", **upload})
            raise

    def _send_chunk(self, upload: Mapping[str, str], offset: int, chunk: bytes) -> int:
        end = offset + len(chunk)
        for attempt in range(RETRIES):
            try:
                query = {"phase": "chunk", **upload, "offset": str(offset)}
                rest = memoryview(chunk)[len(chunk) - (end - offset) :]
                body = SealedBody.of(BytesReader(rest), len(rest))
                answer = self._json("POST", "upload_chunked", query, body=body)
                return int(answer["offset"])
            except errors.DepotError as error:
                if not error.retryable or attempt == RETRIES - 1:
                    raise
                # Whether the chunk arrived is not known: ask, and go on from the acknowledged offset.
                time.sleep(0.2 * 2**attempt)
                status = self._json("POST", "upload_chunked", {"phase": "status", **upload})
                offset = int(status["offset"])
                if offset >= end:
                    return offset
        raise AssertionError("unreachable")

    # --- reading ---------------------------------------------------------------------------------------------

    def get_file(self, path: str) -> bytes:
        with self.open(path) as download:
            return b"".join(download)

    def open(self, path: str, range: ByteRange | None = None) -> Download:
        headers = {"Range": range.header()} if range else {}
        query = {"disk": self.disk, "path": normalise(path)}
        response = self._transport.call("GET", "/internal/storage/download", query, headers=headers, stream=True)
        try:
            return _RemoteDownload(normalise(path), response)
        except BaseException:
            response.close()
            raise

    def exists(self, path: str) -> bool:
        return bool(self._json("GET", "exists", {"path": normalise(path)})["exists"])

    def get_metadata(self, path: str) -> ObjectInfo:
        return _info(self._json("GET", "metadata", {"path": normalise(path)}))

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        cursor: str | None = None
        while True:
            page = self.list_with_prefix(prefix, cursor)
            yield from page.items
            if (cursor := page.cursor) is None:
                return

    def list_with_prefix(self, prefix: str = "", cursor: str | None = None, limit: int = 1000) -> Page:
        query = {"prefix": normalise_prefix(prefix, allow_empty=True), "limit": str(limit)}
        if cursor is not None:
            query["cursor"] = cursor
        answer = self._json("GET", "list", query)
        return Page([_info(item) for item in answer["files"]], answer["cursor"])

    def url(self, path: str, expires_in: int = 3600) -> str:
        """Presigned URLs are not handed out by the services tier in this version: `Unsupported`."""
        raise errors.Unsupported("The services tier gives no direct URLs. Download through the web tier.")

    def health(self) -> Health:
        begun = time.monotonic()
        try:
            answer = self._json("GET", "health", {}, accept=(200, 503))
        except errors.DepotError as error:
            return Health(False, {}, error.code)
        latency = {"round_trip": (time.monotonic() - begun) * 1000}
        return Health(
            answer.get("status") == "healthy", latency, None if answer.get("status") == "healthy" else "storage_error"
        )

    # --- deleting --------------------------------------------------------------------------------------------

    def delete(self, path: str) -> None:
        self._json("POST", "delete", {}, json={"disk": self.disk, "path": normalise(path)})

    def delete_prefix(self, prefix: str) -> list[str]:
        asked = {"disk": self.disk, "prefix": normalise_prefix(prefix), "dry_run": False}
        return [str(path) for path in self._json("POST", "delete_prefix", {}, json=asked)["deleted"]]

    def _json(self, method: str, call: str, query: Mapping[str, str], **rest: Any) -> dict[str, Any]:
        return self._transport.json(method, f"/internal/storage/{call}", {"disk": self.disk, **query}, **rest)

    def _saved(self, answer: Mapping[str, Any]) -> SavedPath:
        return SavedPath(
            str(answer["path"]),
            size=int(answer["size"]),
            sha256=str(answer.get("sha256") or ""),
            etag=str(answer.get("etag") or ""),
            tracking_id=answer.get("tracking_id"),
            file_id=answer.get("file_id"),
            recorded_at=answer.get("completed_at"),
            ledger=answer.get("ledger"),
        )


class _RemoteDownload(Download):
    def __init__(self, path: str, response: requests.Response) -> None:
        headers = response.headers
        self._response, self._raw = response, response.raw
        self.count = int(headers["Content-Length"])
        self._left = self.count
        content_range = headers.get("Content-Range", "")
        if content_range:
            span, _, total = content_range.removeprefix("bytes ").partition("/")
            self.start, size = int(span.partition("-")[0]), int(total)
        else:
            self.start, size = 0, self.count
        self.info = ObjectInfo(
            path=path,
            size=size,
            etag=headers.get("X-Depot-Storage-ETag", ""),
            modified_at=datetime.fromisoformat(headers["X-Depot-Modified-At"]),
            content_type=headers.get("Content-Type", "application/octet-stream"),
            sha256=headers.get("X-Content-SHA256") or None,
            metadata=metadata_from_headers(headers),
        )

    def read(self, size: int = -1, /) -> bytes:
        if self._left == 0:
            return b""
        want = self._left if size < 0 else min(size, self._left)
        try:
            block: bytes = self._raw.read(want, decode_content=False)
        except Exception as error:  # urllib3 has no one base class for a connection that broke while reading
            raise errors.ServicesInterrupted("The services tier went away in the middle of the file.") from error
        if not block and want:
            raise errors.ServicesInterrupted("The services tier went away in the middle of the file.")
        self._left -= len(block)
        return block

    def close(self) -> None:
        # Half-read connections are closed, not put back: the rest of the body would be read as the next answer.
        if self._left:
            self._response.close()
        else:
            # http.client takes an answer without a body for unread until somebody has read its end.
            self._response.raw.drain_conn()
            self._response.raw.release_conn()


def _info(item: Mapping[str, Any]) -> ObjectInfo:
    return ObjectInfo(
        path=str(item["path"]),
        size=int(item["size"]),
        etag=str(item["etag"]),
        modified_at=datetime.fromisoformat(item["modified_at"]).astimezone(UTC),
        content_type=str(item["content_type"]),
        sha256=item.get("sha256"),
        metadata=dict(item.get("metadata") or {}),
    )
