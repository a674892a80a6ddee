"""What the internal calls share: reading their parameters, and the answer to a stored file. Blueprints only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chalicelib.errors import InvalidRequest
from chalicelib.storage.base import SavedPath
from chalicelib.storage.manager import resolve_disk
from nas_gateway.api.guard import Gateway


def disk(gate: Gateway, values: Mapping[str, Any]) -> str:
    """The disk that a name or a purpose stands for. Raises `UnknownDisk`."""
    return resolve_disk(gate.settings, str(values.get("disk") or "default"))


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
