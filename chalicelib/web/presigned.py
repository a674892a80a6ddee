"""`/s3/*`: presigned multipart uploads in the shapes of Uppy's `@uppy/aws-s3` 6 (its `companionEndpoint` mode).

The bytes go from the client to the storage itself; this tier hands on one signed URL a part, just in time. Whose upload it
is, what is signed and what counts as complete is the services tier's to say. `uploadId` and `key` are both our opaque
upload id: the storage's own never leave the services tier. Registered by app.py.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission
from chalicelib.errors import InvalidRequest, PresigningOff, UploadMissing
from chalicelib.hosting.chalice_app import json_body
from chalicelib.limits import MAX_OBJECT_BYTES, MAX_PARTS, MIN_PART_BYTES, PRESIGN_MAX_SECONDS
from chalicelib.storage.uploads import NewUpload, SignedRequest
from chalicelib.web.target import checked_file_id, folder_for, is_id, replaces, target
from chalicelib.web.tier import Tier

# What Uppy calls the bucket. It only shows it; the storage's own name is nobody's business.
BUCKET = "depot"

# What decides where a file goes; everything else that Uppy sends along (name, type, relativePath, …) is left out.
_PLACING = ("purpose", "cohort", "protocol_year", "file_type", "precheck_id", "audit_id", "overwrite")
_SIZE = (
    "metadata.size is missing: the file's size in bytes. With Uppy: "
    "uppy.on('file-added', (file) => uppy.setFileMeta(file.id, { size: file.size }))"
)
_FIELD = re.compile(r"metadata\[([a-z0-9_]{1,64})\]")


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    def signed_in() -> tuple[Any, Any, dict[str, str]]:
        """The request, who sent it, and its query. Raises `PresigningOff` where presigning is off."""
        request = bp.current_request
        principal = tier().sign_in(request)
        if not tier().uploads.presigning():
            raise PresigningOff
        return request, principal, dict(request.query_params or {})

    @bp.route("/s3/params", methods=["GET"])
    def params() -> Response:
        """`?filename&type&metadata[…]` -> `{method, url, fields, expires}`: a form to send the whole file in.

        Uppy takes this way for small files and never tells when it has sent one. So the form leads through this tier, where
        the file is tracked as any other, and not to the storage, where nobody would hear of it.
        """
        request, principal, query = signed_in()
        told = {match[1]: value for name, value in query.items() if (match := _FIELD.fullmatch(name))}
        asked = _placing(told, query.get("filename"))
        _, _, metadata = target(asked)
        principal.require(Permission.UPLOAD, metadata.get("cohort"))
        # Uppy wants a key to name the object by; nothing is stored under it.
        fields = {"key": uuid.uuid4().hex, **asked}
        answer = {"method": "POST", "url": f"{_base(request)}/files", "fields": fields}
        return _json({**answer, "expires": PRESIGN_MAX_SECONDS})

    @bp.route("/s3/multipart", methods=["POST"])
    def create() -> Response:
        """`{filename, type, metadata}` -> `{key, uploadId, bucket, part_bytes}`.

        The metadata carries what a query carries elsewhere, and `size` in bytes, so that each part's length can be signed.
        `part_bytes` is what the client cuts the file into, if not into what Uppy does by default.
        """
        request, principal, _ = signed_in()
        body = json_body(request)
        told = _texts(body.get("metadata"))
        asked = _placing(told, _text(body.get("filename")))
        key = request.headers.get("idempotency-key")
        storage, path, metadata = target(asked, folder=folder_for(principal.username, key))
        principal.require(Permission.UPLOAD, metadata.get("cohort"))
        size = _number(told.get("size"), "metadata.size", MAX_OBJECT_BYTES)
        if size is None:
            raise InvalidRequest(_SIZE)
        part_bytes = _number(told.get("part_bytes"), "metadata.part_bytes", MAX_OBJECT_BYTES)
        status = tier().uploads.create(
            NewUpload(
                disk=storage.disk,
                path=path,
                size=size,
                content_type=_text(body.get("type")) or None,
                metadata=metadata,
                sha256=http.check_sha256(told.get("sha256")),
                if_absent=not replaces(asked),
                idempotency_key=key,
                direct=True,
                part_bytes=part_bytes or uppy_part_bytes(size),
            )
        )
        answer: dict[str, Any] = {"key": status.upload_id, "uploadId": status.upload_id, "bucket": BUCKET}
        return _json({**answer, "part_bytes": status.chunk_bytes})

    @bp.route("/s3/multipart/{upload_id}/{number}", methods=["GET"])
    def sign(upload_id: str, number: str) -> Response:
        """`?key=` (and `size=`, `sha256=`) -> `{url, expires, method, headers}`: a PUT of this one part, 15 minutes long."""
        _, _, query = signed_in()
        signed = tier().uploads.sign_part(
            _checked(upload_id, query),
            _part_number(number),
            size=_number(query.get("size"), "size", MAX_OBJECT_BYTES),
            sha256=http.check_sha256(query.get("sha256")),
        )
        return _json(_signed(signed))

    @bp.route("/s3/multipart/{upload_id}", methods=["GET"])
    def parts(upload_id: str) -> Response:
        """`?key=` -> `[{PartNumber, Size, ETag}]`, as the storage lists them."""
        _, _, query = signed_in()
        found = tier().uploads.stored_parts(_checked(upload_id, query))
        return _json([{"PartNumber": part.number, "Size": part.size, "ETag": f'"{part.etag}"'} for part in found])

    @bp.route("/s3/multipart/{upload_id}/complete", methods=["POST"])
    def complete(upload_id: str) -> Response:
        """`?key=` -> `{location, key, bucket, receipt}`. The parts that the body lists are not looked at: the storage's are."""
        request, _, query = signed_in()
        sha256 = http.check_sha256(query.get("sha256") or request.headers.get("x-content-sha256"))
        status = tier().uploads.complete(_checked(upload_id, query), sha256=sha256)
        if status.receipt is None:
            raise UploadMissing
        location = f"{_base(request)}/files/{status.receipt.file_id}"
        answer = {"location": location, "key": upload_id, "bucket": BUCKET, "receipt": status.receipt.to_json()}
        return _json(answer)

    @bp.route("/s3/multipart/{upload_id}", methods=["DELETE"])
    def abort(upload_id: str) -> Response:
        """`?key=` -> `{}`: nothing of it stays."""
        _, _, query = signed_in()
        tier().uploads.abort(_checked(upload_id, query))
        return _json({})

    @bp.route("/files/{file_id}/url", methods=["GET"])
    def file_url(file_id: str) -> Response:
        """`?expires_in=` (seconds, 1 to 900) -> `{url, method, headers, expires_in}`: the file, straight from the storage."""
        _, principal, query = signed_in()
        view = tier().catalog.file(checked_file_id(file_id))
        principal.require(Permission.READ, view.cohort)
        seconds = _number(query.get("expires_in"), "expires_in", PRESIGN_MAX_SECONDS)
        signed = tier().uploads.file_url(view.file_id, PRESIGN_MAX_SECONDS if seconds is None else seconds)
        return _json(signed.to_json())

    return bp


def uppy_part_bytes(size: int) -> int:
    """Bytes a part as Uppy cuts a file of `size` bytes when nobody tells it otherwise (`S3Uploader`, 6.0 to 6.3).

    >>> uppy_part_bytes(1), uppy_part_bytes(100_000_000_001)
    (5242880, 10000001)
    """
    return max(MIN_PART_BYTES, -(-size // MAX_PARTS))


def _checked(upload_id: str, query: Mapping[str, str]) -> str:
    """The upload id, once the key that came with it is its own. Raises `UploadMissing`."""
    if not is_id(upload_id) or query.get("key") != upload_id:
        raise UploadMissing
    return upload_id


def _placing(told: Mapping[str, str], filename: str | None) -> dict[str, str]:
    asked = {name: told[name] for name in _PLACING if told.get(name)}
    return {**asked, "filename": told.get("filename") or filename or ""}


def _texts(metadata: object) -> dict[str, str]:
    """Uppy's metadata as text. Its values are whatever the page has set: numbers and truth values count as their text."""
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InvalidRequest("metadata must be an object.")
    return {name: _text(value) for name, value in metadata.items()}


def _text(value: object) -> str:
    """A JSON value as text; what is neither text, number nor truth value counts as absent."""
    return str(value) if isinstance(value, (str, int)) else ""


def _number(text: str | None, name: str, most: int) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not 1 <= int(text) <= most:
        raise InvalidRequest(f"{name} must be a whole number from 1 to {most}.")
    return int(text)


def _part_number(text: str) -> int:
    number = _number(text, "The part number", MAX_PARTS)
    if number is None:
        raise InvalidRequest("The part number is missing.")
    return number


def _signed(signed: SignedRequest) -> dict[str, Any]:
    return {
        "method": signed.method,
        "url": signed.url,
        "headers": dict(signed.headers),
        "expires": signed.expires_in,
    }


def _base(request: Any) -> str:
    """Where this application stands, as its client sees it: scheme, host, and API Gateway's stage where there is one.

    Uppy makes a `URL` object of what it is given, so a path alone will not do. It goes to the one who asked and nowhere else.
    """
    about, headers = request.context, request.headers
    depth = about["resourcePath"].count("/")
    prefix = "/".join(str(about["path"]).rstrip("/").split("/")[:-depth])
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return f"{scheme if scheme in ('http', 'https') else 'http'}://{headers.get('host', '')}{prefix}"


def _json(body: object) -> Response:
    return Response(body, headers={"Cache-Control": "no-store"})
