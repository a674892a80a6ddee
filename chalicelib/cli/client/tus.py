"""tus 1.0 (https://tus.io/protocols/resumable-upload) as a client: creation, HEAD, PATCH, termination, concatenation.

One call each, without retries; `upload.py` decides what follows from a failure. File names travel in Upload-Metadata only.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import requests

from chalicelib.cli.client.failures import Failure, Gone
from chalicelib.cli.client.server import Server, json_object
from chalicelib.cli.client.source import Slice

VERSION = "1.0.0"
_ID = re.compile(r"[A-Za-z0-9_-]{8,128}")
_GONE = ("upload_not_found", "upload_ended", "upload_lost")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What `GET /config` tells. `max_chunk_bytes` None is no ceiling."""

    max_chunk_bytes: int | None
    part_bytes: int


@dataclass(frozen=True, slots=True)
class Created:
    """A new upload, or the one that the same Idempotency-Key opened before. `offset` None where the answer does not say."""

    upload_id: str
    offset: int | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the server says of a finished upload. `sha256` is None until the whole file was verified there."""

    file_id: str
    size: int
    sha256: str | None
    parts_sha256: str | None
    completed_at: str | None
    ledger: str | None
    tracking_id: str | None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Receipt:
        """Raises `Failure` for what is no receipt."""

        def text(name: str) -> str | None:
            value = values.get(name)
            return value if isinstance(value, str) and value else None

        size, file_id = values.get("size"), text("file_id")
        if file_id is None or not isinstance(size, int):
            raise Failure("bad_answer", "The server finished the upload, but its receipt is not of Depot's form.")
        names = ("sha256", "parts_sha256", "completed_at", "ledger", "tracking_id")
        return cls(file_id, size, *(text(name) for name in names))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def config(server: Server, default_part_bytes: int) -> ServerConfig:
    """`GET /config`; a server that has none takes chunks of any size."""
    answer = server.call("GET", "/config", accept=(404,))
    if answer.status_code == 404:
        return ServerConfig(None, default_part_bytes)
    values = json_object(answer)
    most, part = values.get("max_chunk_bytes"), values.get("part_bytes")
    return ServerConfig(
        most if isinstance(most, int) and most > 0 else None,
        part if isinstance(part, int) and part > 0 else default_part_bytes,
    )


class Tus:
    """The calls on `/uploads`. All raise `Failure`; `Gone` where the server no longer knows the upload."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def create(self, size: int, metadata: Mapping[str, str], key: str, *, partial: bool = False) -> Created:
        headers = {"Upload-Length": str(size), "Upload-Metadata": encoded(metadata), "Idempotency-Key": key}
        if partial:
            headers["Upload-Concat"] = "partial"
        return self._create(headers)

    def concatenate(self, upload_ids: Sequence[str], metadata: Mapping[str, str], key: str) -> Created:
        """One file from finished partial uploads, in this order. Asking again with the same key is safe."""
        urls = " ".join(f"/uploads/{upload_id}" for upload_id in upload_ids)
        return self._create(
            {"Upload-Concat": f"final;{urls}", "Upload-Metadata": encoded(metadata), "Idempotency-Key": key}
        )

    def _create(self, headers: Mapping[str, str]) -> Created:
        with self._call("POST", "/uploads", headers) as answer:
            # Only the id is taken: behind proxies and API Gateway stages the rest may name another host or folder.
            upload_id = answer.headers.get("Location", "").split("?")[0].rstrip("/").rsplit("/", 1)[-1]
            if not _ID.fullmatch(upload_id):
                raise Failure("bad_answer", "The server opened an upload, but does not say where. Check the address.")
            return Created(upload_id, _number(answer, "Upload-Offset"))

    def offset(self, upload_id: str) -> int:
        """Bytes that the server holds for good."""
        with self._call("HEAD", f"/uploads/{upload_id}", {}) as answer:
            return _needed(answer)

    def append(self, upload_id: str, offset: int, body: Slice) -> int:
        """Send a chunk; the offset behind it."""
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        with self._call("PATCH", f"/uploads/{upload_id}", headers, body) as answer:
            return _needed(answer)

    def terminate(self, upload_id: str) -> None:
        self._call("DELETE", f"/uploads/{upload_id}", {}).close()

    def receipt(self, upload_id: str) -> Receipt:
        """The receipt of an upload whose bytes are all there."""
        with self._call("GET", f"/uploads/{upload_id}", {}) as answer:
            values = json_object(answer)
        inner = values.get("receipt", values)
        return Receipt.of(inner if isinstance(inner, dict) else {})

    def _call(self, method: str, path: str, headers: Mapping[str, str], body: Slice | None = None) -> requests.Response:
        try:
            return self._server.call(method, path, headers={"Tus-Resumable": VERSION, **headers}, body=body)
        except Failure as failure:
            # A HEAD's answer has no body that could tell the code: on an upload's own address 404 and 410 mean one thing.
            if failure.code in _GONE or (path != "/uploads" and failure.status in (404, 410)):
                raise Gone from failure
            raise


def encoded(metadata: Mapping[str, str]) -> str:
    """Upload-Metadata: keys in the clear, values in base64 of their UTF-8."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items())


def _number(answer: requests.Response, name: str) -> int | None:
    text = answer.headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _needed(answer: requests.Response) -> int:
    value = _number(answer, "Upload-Offset")
    if value is None:
        raise Failure("bad_answer", "The server's answer has no Upload-Offset. Check the address.")
    return value
