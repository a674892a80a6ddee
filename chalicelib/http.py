"""HTTP details that both tiers' handlers share: ranges, validators, header-safe names. Knows no framework.

Imports only errors and the storage contract.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from chalicelib.errors import InvalidRequest
from chalicelib.storage.base import ByteRange, ObjectInfo

META_PREFIX = "x-depot-meta-"
_META_KEY = re.compile(r"[a-z0-9](?:[a-z0-9_]{0,62}[a-z0-9])?")
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def parse_range(header: str | None) -> ByteRange | None:
    """A `Range` header as one range; None where RFC 9110 (14.2) lets a server ignore it and send everything.

    Several ranges, other units and malformed values are ignored in that sense.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    return ByteRange(int(first) if first else None, int(last) if last else None)


def etag_of(info: ObjectInfo) -> str:
    """A strong entity tag: the content's SHA-256 where it is known, otherwise the store's own tag."""
    return f'"{info.sha256 or info.etag}"'


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this entity tag (weak comparison, RFC 9110, 13.1.2)."""
    if not if_none_match:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether a `Range` is to be honoured: without `If-Range`, or with one that names this strong tag."""
    return if_range is None or if_range.strip() == etag


def content_disposition(filename: str) -> str:
    """An `attachment` header for any stored name: ASCII fallback plus RFC 8187 form, nothing that can break out."""
    fallback = re.sub(r"[^A-Za-z0-9 ._()-]", "_", filename)
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{quote(filename, safe='')}"


def check_sha256(value: str | None) -> str | None:
    """A hex SHA-256 in lower case, or None. Raises `InvalidRequest`."""
    if not value:
        return None
    if not _SHA256.fullmatch(value.lower()):
        raise InvalidRequest("X-Content-SHA256 must be 64 hexadecimal digits.")
    return value.lower()


def metadata_headers(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata as `X-Depot-Meta-*` headers. `_` becomes `-` (proxies drop underscores), values are percent-encoded.

    Keys are lower-case letters, digits and inner underscores, 64 at most. Raises `InvalidRequest`.
    """
    headers = {}
    for key, value in (metadata or {}).items():
        if not _META_KEY.fullmatch(key):
            raise InvalidRequest("Metadata keys are lower-case letters, digits and underscores, 64 at most.")
        headers[META_PREFIX + key.replace("_", "-")] = quote(str(value), safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~")
    return headers


def metadata_from_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The reverse of `metadata_headers`, from a request's or a response's headers."""
    return {
        name.lower().removeprefix(META_PREFIX).replace("-", "_"): unquote(value)
        for name, value in headers.items()
        if name.lower().startswith(META_PREFIX)
    }


def page_limit(text: str | None, default: int = 100, most: int = 1000) -> int:
    """The `limit` of a listing, 1 to 1,000. Raises `InvalidRequest`."""
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise InvalidRequest(f"limit must be a number from 1 to {most}.")
    return int(text)


def count(text: str | None, name: str) -> int:
    """A number from 0 in a query, 0 when it is absent; of 15 digits at most. Raises `InvalidRequest`."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise InvalidRequest(f"{name} must be a number from 0.")
    return int(text)


def is_metadata_key(key: str) -> bool:
    """Whether a key can travel as a header; keys that other software wrote to the store may not."""
    return _META_KEY.fullmatch(key) is not None
