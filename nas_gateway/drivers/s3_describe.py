"""What S3 keeps beside an object, as Depot writes and reads it. Used by `S3Storage` only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from chalicelib.storage.base import ObjectInfo
from nas_gateway.drivers import common

# The object's SHA-256 beside the caller's metadata; `common.check_metadata` keeps callers out of `depot_…`.
SHA256_KEY = "depot-sha256"


def described_as(content_type: str | None, metadata: Mapping[str, str] | None, sha256: str | None) -> dict[str, Any]:
    """ContentType and Metadata as S3 takes them: ASCII, and no underscores, which proxies drop from header names."""
    kept = common.check_metadata(metadata)
    headers = {key.replace("_", "-"): quote(value, safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~") for key, value in kept.items()}
    if sha256:
        headers[SHA256_KEY] = sha256
    return {"ContentType": common.check_content_type(content_type), "Metadata": headers}


def etag_of(answer: Mapping[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')


def info_of(path: str, answer: Mapping[str, Any], size: int) -> ObjectInfo:
    kept = dict(answer.get("Metadata", {}))
    sha256 = kept.pop(SHA256_KEY, None)
    metadata = {key.replace("-", "_"): unquote(value) for key, value in kept.items()}
    kind = answer.get("ContentType") or common.DEFAULT_CONTENT_TYPE
    return ObjectInfo(
        path, size, etag_of(answer), answer.get("LastModified") or datetime.now(UTC), kind, sha256, metadata
    )
