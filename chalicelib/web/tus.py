"""`/uploads`: tus 1.0.0, core and extensions, over the upload sessions of the services tier. Registered by app.py.

The handlers translate; what an upload is, whose it is and when it is finished is decided behind `tier().uploads`. No byte
is kept here: bodies go through as readers. Differences from other ways in: `UploadInProgress` is 423, as tus clients
know it, and errors to HEAD have no body.
"""

from __future__ import annotations

import mimetypes
import time
from contextlib import suppress

from chalice.app import Blueprint, Response

from chalicelib import errors
from chalicelib.auth.policy import Permission, Principal
from chalicelib.errors import DepotError, InvalidRequest
from chalicelib.hosting.answers import error_answer
from chalicelib.hosting.chalice_app import body_reader
from chalicelib.observability import current_request_id
from chalicelib.storage.base import Reader
from chalicelib.storage.streams import length_of
from chalicelib.storage.uploads import NewUpload, UploadSessions, UploadStatus
from chalicelib.web import tus_headers as tus
from chalicelib.web.target import folder_for, storage_for, target
from chalicelib.web.tier import Tier
from chalicelib.web.tus_call import (
    AVAILABLE,
    CONCAT,
    METADATA,
    Headers,
    TusCall,
    base_path,
    description_headers,
    is_file,
    is_final,
    progress_headers,
)

# States that end without a file.
ENDED = frozenset({"ABORTED", "FAILED", "LOST"})

# What `GET` says of where an upload stands.
TOLD = ("upload_id", "state", "offset", "size", "expires_at", "receipt")

_FINAL = "A final upload is made of its partial uploads and takes no bytes of its own."


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/uploads", methods=["OPTIONS", "POST"])
    def uploads() -> Response:
        """Create an upload, with its first bytes if the client likes; or one file from partial uploads."""
        call = _Upload(tier(), bp.current_request)
        return call.answer({"OPTIONS": call.options, "POST": call.create})

    @bp.route("/uploads/{upload_id}", methods=["OPTIONS", "HEAD", "PATCH", "DELETE", "GET", "POST"])
    def upload(upload_id: str) -> Response:
        """Where an upload stands, the next bytes, or its end. POST only carries `X-HTTP-Method-Override`."""
        call = _Upload(tier(), bp.current_request, upload_id)
        return call.answer(
            {
                "OPTIONS": call.options,
                "HEAD": call.head,
                "PATCH": call.patch,
                "DELETE": call.delete,
                "GET": call.describe,
            }
        )

    return bp


class _Upload(TusCall):
    """The verbs, over the protocol of the sessions."""

    @property
    def _uploads(self) -> UploadSessions:
        return self.tier.uploads

    # --- POST ------------------------------------------------------------------------------------------------

    def create(self) -> Response:
        principal = self.tier.sign_in(self.request)
        base = base_path(self.request.context.get("path"))
        concat = tus.concat(self.headers.get("upload-concat"), self.headers.get("host", ""), base)
        body = self._first_bytes()
        if concat is not None and concat.final:
            if body is not None or "upload-length" in self.headers or "upload-defer-length" in self.headers:
                raise InvalidRequest("A final upload takes no Upload-Length and no bytes: it is made of its parts.")
            status = self._uploads.concatenate(self._new(principal, None), concat.upload_ids)
        else:
            size = tus.announced_size(self.headers, self.tier.settings.max_upload_bytes)
            new = self._new_partial(principal, size) if concat is not None else self._new(principal, size)
            status = self._begun(new, body)
        status = self._finished(status)
        headers: Headers = {"Location": f"{base}/{status.upload_id}", **progress_headers(status)}
        if body is not None or status.offset:
            headers["Upload-Offset"] = str(status.offset)
        return Response("", headers, 201)

    def _new(self, principal: Principal, size: int | None) -> NewUpload:
        """What the metadata asks for, once it is allowed. Raises `InvalidRequest`, `InvalidPath`, `Forbidden`."""
        raw = self.headers.get("upload-metadata", "")
        values, key = tus.metadata(raw), tus.idempotency_key(self.headers)
        values["filename"] = values.get("filename") or values.get("name", "")
        storage, path, about = target(values, folder=folder_for(principal.username, key))
        principal.require(Permission.UPLOAD, about["cohort"])
        return NewUpload(
            disk=storage.disk,
            path=path,
            size=size,
            content_type=tus.media_type(values) or mimetypes.guess_type(path)[0],
            metadata=about,
            sha256=tus.sha256(values),
            idempotency_key=key,
            note=self._note(raw),
        )

    def _new_partial(self, principal: Principal, size: int | None) -> NewUpload:
        """Bytes for a later final upload: clients send no metadata with them, so any right to upload will do.

        `Idempotency-Key` is not looked at: tus-js-client sends the same headers with all partial uploads of a file, and
        those of one size would become one upload.
        """
        if principal.scope(Permission.UPLOAD) == frozenset():
            principal.require(Permission.UPLOAD, None)  # raises, and has it recorded
        raw = self.headers.get("upload-metadata", "")
        tus.metadata(raw)  # for its form only: the final upload says what the file is
        return NewUpload(
            disk=storage_for("scratch").disk,
            size=size,
            note=self._note(raw),
            partial=True,
        )

    def _note(self, raw_metadata: str) -> dict[str, str]:
        note = {METADATA: raw_metadata, CONCAT: self.headers.get("upload-concat", "")}
        return {name: value for name, value in note.items() if value}

    def _first_bytes(self) -> Reader | None:
        """The body of a creation with upload; None when there is none. Raises `UnsupportedMediaType`."""
        body = body_reader(self.request)
        if length_of(body) == 0:
            return None
        self._require_chunk_type()
        return body

    def _begun(self, new: NewUpload, body: Reader | None) -> UploadStatus:
        checksum = tus.checksum(self.headers)
        status = self._uploads.create(new)
        # One that has bytes already is an idempotent repetition: its client goes on from the offset it is told.
        if body is None or status.offset or status.state == AVAILABLE:
            return status
        try:
            return self._uploads.append(status.upload_id, 0, body, checksum=checksum)
        except DepotError:
            if new.idempotency_key is None:
                # Nobody will ever know its address, and it would stand in the way of the next try.
                with suppress(DepotError):
                    self._uploads.abort(status.upload_id)
            raise

    # --- PATCH -----------------------------------------------------------------------------------------------

    def patch(self) -> Response:
        self.tier.sign_in(self.request)
        self._require_chunk_type()
        offset, declared = (tus.whole_number(self.headers, name) for name in ("Upload-Offset", "Upload-Length"))
        if offset is None:
            raise InvalidRequest("Upload-Offset is missing.")
        checksum = tus.checksum(self.headers)
        try:
            if declared is not None:
                self._declare(declared, offset)
            status = self._uploads.append(self.upload_id, offset, body_reader(self.request), checksum=checksum)
        except (errors.OffsetConflict, errors.UploadStateConflict, errors.LengthMismatch) as error:
            return self._told_where_it_stands(error)
        if is_final(status):
            raise errors.Forbidden(_FINAL)
        status = self._finished(status)
        headers: Headers = {"Upload-Offset": str(status.offset), **progress_headers(status)}
        return Response("", headers, 204)

    def _require_chunk_type(self) -> None:
        if self.headers.get("content-type", "").strip().lower() != tus.CHUNK_TYPE:
            raise errors.UnsupportedMediaType(f"Send the bytes as Content-Type: {tus.CHUNK_TYPE}.")

    def _declare(self, size: int, offset: int) -> None:
        """The length of an upload whose length was deferred, unless this request is to be refused for its offset."""
        if self._status().offset != offset:
            raise errors.OffsetConflict
        self._uploads.declare_size(self.upload_id, size)

    def _told_where_it_stands(self, error: DepotError) -> Response:
        """The refusal of a chunk, with the truth about the offset."""
        status = self._status()
        if is_final(status):
            raise errors.Forbidden(_FINAL) from error
        response = error_answer(error, current_request_id())
        response.headers["Upload-Offset"] = str(status.offset)
        return response

    # --- HEAD, GET, DELETE -----------------------------------------------------------------------------------

    def head(self) -> Response:
        self.tier.sign_in(self.request)
        status = self._finished(self._status(settle=True))
        return Response("", description_headers(status), 200)

    def describe(self) -> Response:
        """`{upload_id, state, offset, size, expires_at, receipt}`: the receipt as JSON, for whoever finished the upload."""
        self.tier.sign_in(self.request)
        status = self._status(settle=True)
        told = status.to_json()
        return Response({name: told[name] for name in TOLD})

    def delete(self) -> Response:
        """Ends an upload that is not finished. A finished one is a file, and has its own way to be deleted."""
        self.tier.sign_in(self.request)
        if not is_file(self._status()):
            self._uploads.abort(self.upload_id)
            # It may have been finished in between, and then it is still there.
            try:
                if not is_file(self._status()):
                    return Response("", {}, 204)
            except errors.UploadMissing:
                return Response("", {}, 204)
        raise errors.UploadStateConflict("The upload is finished. Delete its file: DELETE /files/{id}.")

    # --- what is behind an answer ----------------------------------------------------------------------------

    def _status(self, *, settle: bool = False) -> UploadStatus:
        """Raises `UploadMissing`, and `UploadEnded` for what has ended without a file or has run out."""
        status = self._uploads.status(self.upload_id, settle=settle)
        if status.state in ENDED or (not is_file(status) and 0 < status.expires_at <= time.time()):
            raise errors.UploadEnded
        return status

    def _finished(self, status: UploadStatus) -> UploadStatus:
        """The status as it may be told: an offset at the end says to the client that the file is there, so it must be.

        Raises `UploadLocked` while it is not: the client asks again.
        """
        if status.partial or status.state == AVAILABLE or status.size is None or status.offset < status.size:
            return status
        settled = self._uploads.status(status.upload_id, settle=True)
        if settled.state != AVAILABLE:
            raise errors.UploadLocked
        return settled
