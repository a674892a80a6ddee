"""The headers of tus 1.0.0 (https://tus.io/protocols/resumable-upload): read strictly.

Knows no framework and calls nothing. Used by `tus` and `tus_call`. Everything that is refused raises `InvalidRequest`
with a message that names the header, unless a function says otherwise.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from chalicelib.errors import InvalidRequest, PayloadTooLarge
from chalicelib.limits import KIB
from chalicelib.storage.uploads import Checksum

VERSION = "1.0.0"
CHUNK_TYPE = "application/offset+octet-stream"
EXTENSIONS = (
    "creation,creation-with-upload,creation-defer-length,termination,expiration,checksum,concatenation"
)  # fmt: skip
DIGEST_BYTES: Mapping[str, int] = {"sha1": 20, "sha256": 32}

# A session's note holds 8 KiB (`NewUpload`): the two headers that HEAD gives back share it. 3.5 KiB are some 80 partial
# uploads by path, or 35 by absolute URLs of 100 characters.
MAX_METADATA_BYTES = 4 * KIB
MAX_CONCAT_BYTES = 3 * KIB + 512

# The keys that mean something here; others are kept and given back. Uppy names a file `name` and its media type `type`.
KEYS = frozenset(
    "filename name filetype type cohort file_type protocol_year purpose precheck_id audit_id sha256".split()  # noqa: SIM905
)

_KEY = re.compile(r"[!-+\--~]+")  # ASCII that shows, but no space and no comma
_MEDIA_TYPE = re.compile(
    r"[\w.+!#$&^-]{1,127}/[\w.+!#$&^-]{1,127}( *; *[\w.+-]+=(\"[\w .+:/-]*\"|[\w.+:/-]+))*", re.ASCII
)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_KEY_OF_CALLER = re.compile(r"[!-~]{1,255}")
_UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


# --- numbers, digests, keys -----------------------------------------------------------------------------------


def whole_number(headers: Mapping[str, str], name: str) -> int | None:
    """A header that counts bytes, or None when it is not there. Plain digits only; 19 of them are more than any store takes."""
    text = headers.get(name.lower())
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidRequest(f"{name} must be a whole number of bytes, 0 or more.")
    return int(text)


def announced_size(headers: Mapping[str, str], most: int) -> int | None:
    """The size of an upload that is created, in bytes; None when it is deferred. Raises `PayloadTooLarge` over `most`."""
    size, deferred = whole_number(headers, "Upload-Length"), headers.get("upload-defer-length")
    if deferred not in (None, "1"):
        raise InvalidRequest("Upload-Defer-Length must be 1.")
    if (size is None) == (deferred is None):
        raise InvalidRequest("Send either Upload-Length or 'Upload-Defer-Length: 1'.")
    if size is not None and size > most:
        raise PayloadTooLarge(f"A file has at most {most} bytes here.")
    return size


def checksum(headers: Mapping[str, str]) -> Checksum | None:
    """`Upload-Checksum: sha1 <base64>`."""
    text = headers.get("upload-checksum")
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    length = DIGEST_BYTES.get(algorithm)
    if length is None:
        raise InvalidRequest(f"Upload-Checksum must begin with one of {', '.join(DIGEST_BYTES)}.")
    digest = _base64(encoded)
    if digest is None or len(digest) != length:
        raise InvalidRequest(f"Upload-Checksum must hold a {algorithm} digest in base64.")
    return Checksum(algorithm, digest)


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    key = headers.get("idempotency-key")
    if key is not None and not _KEY_OF_CALLER.fullmatch(key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None


# --- Upload-Metadata ------------------------------------------------------------------------------------------


def metadata(raw: str) -> dict[str, str]:
    """The values of `KEYS` in an `Upload-Metadata` header, as text. An empty header is no metadata (tuspy sends that).

    Every pair is checked, also those with other keys; the values of those may be any bytes.
    """
    if len(raw) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"Upload-Metadata has at most {MAX_METADATA_BYTES} bytes.")
    values: dict[str, str] = {}
    seen: set[str] = set()
    for pair in raw.split(",") if raw.strip() else ():
        key, _, encoded = pair.strip().partition(" ")
        if not _KEY.fullmatch(key):
            raise InvalidRequest("Upload-Metadata: a key is empty, or not ASCII.")
        if key in seen:
            raise InvalidRequest("Upload-Metadata: a key is there twice.")
        seen.add(key)
        value = _base64(encoded)
        if value is None:
            raise InvalidRequest("Upload-Metadata: a value is not base64.")
        if key in KEYS:
            values[key] = _text(key, value)
    return values


def _text(key: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"Upload-Metadata: {key} is not UTF-8.") from None


def media_type(values: Mapping[str, str]) -> str | None:
    """The content type that metadata tells, or None. What is no media type is refused: `file_type` was meant, perhaps."""
    told = values.get("filetype") or values.get("type") or None
    if told is not None and not _MEDIA_TYPE.fullmatch(told):
        raise InvalidRequest("Upload-Metadata: filetype must be a media type such as text/csv.")
    return told


def sha256(values: Mapping[str, str]) -> str | None:
    """The whole file's digest that metadata tells, in lower case, or None."""
    told = values.get("sha256") or None
    if told is not None and not _SHA256.fullmatch(told):
        raise InvalidRequest("Upload-Metadata: sha256 must be 64 hexadecimal digits.")
    return told and told.lower()


# --- Upload-Concat --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Concat:
    """What `Upload-Concat` asks for: a partial upload, or (`final`) one file from `upload_ids` in this order."""

    final: bool
    upload_ids: tuple[str, ...] = ()


def concat(raw: str | None, host: str, base: str) -> Concat | None:
    """`partial`, or `final;` and a list of URLs, each of which must be one of our uploads.

    `host` is this request's Host header and `base` the path of the uploads in it; relative URLs are resolved against them.
    """
    if raw is None:
        return None
    if raw == "partial":
        return Concat(final=False)
    word, _, listed = raw.partition(";")
    if word != "final":
        raise InvalidRequest("Upload-Concat must be 'partial', or 'final;' and the addresses of partial uploads.")
    if len(raw) > MAX_CONCAT_BYTES:
        raise InvalidRequest(f"Upload-Concat has at most {MAX_CONCAT_BYTES} bytes. Fewer, larger partial uploads fit.")
    found = tuple(_upload_id(reference, host, base) for reference in listed.strip(" ").split(" "))
    if len(set(found)) != len(found):
        raise InvalidRequest("Upload-Concat names a partial upload twice.")
    return Concat(final=True, upload_ids=found)


def is_upload_id(text: str) -> bool:
    """Whether this can be an upload's id at all; anything else is not passed on."""
    return _UPLOAD_ID.fullmatch(text) is not None


def _upload_id(reference: str, host: str, base: str) -> str:
    wrong = InvalidRequest("Upload-Concat must list addresses of uploads on this server.")
    try:
        here = urlsplit(f"http://{host}{base}")
        found = urlsplit(urljoin(here.geturl(), reference))
        same = found.scheme in ("http", "https") and _same_place(found, here)
    except ValueError:  # a port that is no number, a bracket that is not closed
        raise wrong from None
    folder, _, upload_id = found.path.rpartition("/")
    plain = (
        reference.isascii() and reference.isprintable() and not (found.query or found.fragment or "@" in found.netloc)
    )
    if not (reference and same and plain and folder == base and is_upload_id(upload_id)):
        raise wrong
    return upload_id


def _same_place(found: SplitResult, here: SplitResult) -> bool:
    """The same host; the port counts where both name one, because a proxy in front may not pass it on."""
    usual = {"http": 80, "https": 443}[found.scheme]
    ports = {port for port in (found.port, here.port) if port not in (None, usual)}
    return found.hostname == here.hostname and len(ports) <= 1
