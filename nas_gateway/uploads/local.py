"""Upload sessions without a network between: `UploadSessions` for the testing role, where both tiers are one process.

The internal API stands on it too, so that both ways lead through the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from chalicelib.config import Settings
from chalicelib.storage.base import Reader
from chalicelib.storage.manager import resolve_disk
from chalicelib.storage.uploads import Checksum, NewUpload, SignedRequest, StoredPart, UploadStatus
from nas_gateway.files.access import Call
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.direct import Direct
from nas_gateway.uploads.service import Uploads


class LocalUploadSessions:
    """Sessions on behalf of whoever `call` says. Disks may be named by purpose."""

    def __init__(self, settings: Settings, uploads: Uploads, direct: Direct, call: Callable[[], Call]) -> None:
        self._settings, self._uploads, self._direct, self._call = settings, uploads, direct, call
        self._concatenation = Concatenation(uploads)

    def create(self, new: NewUpload) -> UploadStatus:
        return self._uploads.create(self._call(), self._direct.check(self._resolved(new)))

    def concatenate(self, new: NewUpload, upload_ids: Sequence[str]) -> UploadStatus:
        return self._concatenation.concatenate(self._call(), self._resolved(new), upload_ids)

    def status(self, upload_id: str, *, settle: bool = False) -> UploadStatus:
        return self._uploads.status(self._call(), upload_id, settle=settle)

    def declare_size(self, upload_id: str, size: int) -> UploadStatus:
        return self._uploads.declare_size(self._call(), upload_id, size)

    def append(self, upload_id: str, offset: int, body: Reader, *, checksum: Checksum | None = None) -> UploadStatus:
        return self._uploads.append(self._call(), upload_id, offset, body, checksum=checksum)

    def complete(self, upload_id: str, *, sha256: str | None = None) -> UploadStatus:
        return self._uploads.complete(self._call(), upload_id, sha256=sha256)

    def abort(self, upload_id: str) -> None:
        self._uploads.abort(self._call(), upload_id)

    def presigning(self) -> bool:
        return self._direct.on(resolve_disk(self._settings, "submissions"))

    def store_origin(self) -> str:
        return self._settings.disks[resolve_disk(self._settings, "submissions")].public_endpoint

    def sign_part(self, upload_id: str, number: int, *, size: int | None, sha256: str | None) -> SignedRequest:
        return self._direct.sign_part(self._call(), upload_id, number, size=size, sha256=sha256)

    def stored_parts(self, upload_id: str) -> Sequence[StoredPart]:
        return self._direct.stored_parts(self._call(), upload_id)

    def file_url(self, file_id: str, expires_in: int) -> SignedRequest:
        return self._direct.file_url(self._call(), file_id, expires_in)

    def _resolved(self, new: NewUpload) -> NewUpload:
        return replace(new, disk=resolve_disk(self._settings, new.disk or "default"))
