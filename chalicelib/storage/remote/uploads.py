"""`UploadSessions` over HTTP: the web tier's way to the sessions, which live on the services tier. Keeps nothing."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from chalicelib.storage.base import Reader
from chalicelib.storage.remote.transport import Transport
from chalicelib.storage.seal import SealedBody
from chalicelib.storage.streams import length_of
from chalicelib.storage.uploads import Checksum, NewUpload, SignedRequest, StoredPart, UploadStatus

_CALL = "/internal/storage/upload_chunked"

# How long an answer about the services tier's settings is believed: they change only with a restart there.
_CONFIG_SECONDS = 60.0


class RemoteUploadSessions:
    """See `UploadSessions`. Raises `ServicesUnavailable` and `ServicesInterrupted` besides. Thread-safe."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._config: tuple[bool, str, float] = False, "", 0.0

    def create(self, new: NewUpload) -> UploadStatus:
        return UploadStatus.from_json(self._json("init", json=new.to_json()))

    def concatenate(self, new: NewUpload, upload_ids: Sequence[str]) -> UploadStatus:
        return UploadStatus.from_json(self._json("concat", json={**new.to_json(), "uploads": list(upload_ids)}))

    def status(self, upload_id: str, *, settle: bool = False) -> UploadStatus:
        return UploadStatus.from_json(self._json("status", upload_id, settle="true" if settle else "false"))

    def declare_size(self, upload_id: str, size: int) -> UploadStatus:
        return UploadStatus.from_json(self._json("size", upload_id, size=str(size)))

    def append(self, upload_id: str, offset: int, body: Reader, *, checksum: Checksum | None = None) -> UploadStatus:
        headers = {"Content-Type": "application/octet-stream"}
        if checksum is not None:
            headers["X-Depot-Checksum"] = f"{checksum.algorithm} {base64.b64encode(checksum.digest).decode()}"
        source = SealedBody.of(body, length_of(body))
        answer = self._json("chunk", upload_id, headers=headers, body=source, offset=str(offset), finish="true")
        return UploadStatus.from_json(answer)

    def complete(self, upload_id: str, *, sha256: str | None = None) -> UploadStatus:
        headers = {"X-Content-SHA256": sha256} if sha256 else {}
        self._json("complete", upload_id, headers=headers)
        return self.status(upload_id)

    def abort(self, upload_id: str) -> None:
        self._json("abort", upload_id)

    def presigning(self) -> bool:
        return self._told()[0]

    def store_origin(self) -> str:
        return self._told()[1]

    def _told(self) -> tuple[bool, str, float]:
        if time.monotonic() >= self._config[2]:
            told = self._transport.json("GET", "/internal/uploads/config")
            self._config = bool(told["presigning"]), str(told.get("origin") or ""), time.monotonic() + _CONFIG_SECONDS
        return self._config

    def sign_part(self, upload_id: str, number: int, *, size: int | None, sha256: str | None) -> SignedRequest:
        asked = {"number": number, "size": size, "sha256": sha256}
        return SignedRequest.from_json(self._transport.json("POST", _direct(upload_id), json=asked))

    def stored_parts(self, upload_id: str) -> Sequence[StoredPart]:
        found = self._transport.json("GET", _direct(upload_id))["parts"]
        return [StoredPart(part["number"], part["size"], part["etag"]) for part in found]

    def file_url(self, file_id: str, expires_in: int) -> SignedRequest:
        answer = self._transport.json("POST", f"/internal/files/{file_id}/url", json={"expires_in": expires_in})
        return SignedRequest.from_json(answer)

    def _json(
        self,
        phase: str,
        upload_id: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        body: SealedBody | None = None,
        json: dict[str, Any] | None = None,
        **query: str,
    ) -> dict[str, Any]:
        asked = {"phase": phase, **({"upload_id": upload_id} if upload_id else {}), **query}
        return self._transport.json("POST", _CALL, asked, headers=headers, body=body, json=json)


def _direct(upload_id: str) -> str:
    return f"/internal/uploads/{quote(upload_id, safe='')}/parts"
