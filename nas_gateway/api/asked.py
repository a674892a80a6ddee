"""What the internal calls share: reading their parameters, and the answer to a stored file. Blueprints only."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from chalicelib import metrics, observability
from chalicelib.config import Role
from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import body_reader
from chalicelib.storage import seal
from chalicelib.storage.base import Reader, SavedPath
from chalicelib.storage.manager import resolve_disk
from nas_gateway.api.guard import Gateway


def disk(gate: Gateway, values: Mapping[str, Any]) -> str:
    """The disk that a name or a purpose stands for. Raises `UnknownDisk`."""
    return resolve_disk(gate.settings, str(values.get("disk") or "default"))


def body(request: Any) -> Reader:
    """What the web tier forwarded, compared with what it says of it (`seal`); of other callers, the body as it comes.

    Raises `InvalidRequest` where the web tier's seal is missing: its bytes would be taken for the file's.
    """
    header = request.headers.get(seal.HEADER.lower())
    if header is not None:
        return seal.unsealed(body_reader(request, seal.SEAL_BYTES), header, _alarm)
    if request.headers.get("x-server-role") == Role.WEB:
        raise InvalidRequest("The web tier's body has no seal. Both tiers must be of the same release.")
    return body_reader(request)


def _alarm() -> None:
    metrics.count("depot_forwarded_bytes_disputed_total")
    observability.log_event("forwarded_bytes_disputed", logging.ERROR)


def needed(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} is missing.")
    return value


def optional(values: Mapping[str, Any], name: str) -> str | None:
    return needed(values, name) if values.get(name) is not None else None


def flag(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A JSON true or false, or the words in a query."""
    value = {"true": True, "false": False}.get(str(values.get(name, default)).lower())
    if value is None:
        raise InvalidRequest(f"{name} must be true or false.")
    return value


def number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidRequest(f"{name} must be a whole number.")
    return int(text)


def count(values: Mapping[str, Any], name: str) -> int | None:
    """A number of bytes in a JSON body, or None where it is left out."""
    value = values.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InvalidRequest(f"{name} must be a whole number of bytes, or left out.")
    return value


def strings(values: Mapping[str, Any], name: str) -> dict[str, str]:
    found = values.get(name) or {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidRequest(f"{name} must be an object of strings.")
    return found


def saved(path: SavedPath) -> dict[str, Any]:
    return {
        "path": str(path),
        "size": path.size,
        "sha256": path.sha256 or None,
        "etag": path.etag,
        "tracking_id": path.tracking_id,
        "file_id": path.file_id,
        "completed_at": path.recorded_at,
        "ledger": path.ledger,
    }
