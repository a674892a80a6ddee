"""Where an upload goes: from what its sender says of it to storage, path and metadata. Shared by every way in."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

from chalicelib.errors import FileMissing, InvalidRequest
from chalicelib.storage import paths
from chalicelib.storage.base import Storage
from chalicelib.storage.manager import StorageManager

PURPOSES = ("submission", "precheck", "scratch")


def target(values: Mapping[str, str], *, folder: str | None = None) -> tuple[Storage, str, dict[str, str]]:
    """The storage, the path and the metadata, from what a query, a form or tus metadata says.

    Values: `cohort`, `filename`, `protocol_year`, `file_type`, `purpose`, `precheck_id`, `audit_id`. Only submissions need
    year and type. `folder` names a temporary file's folder where the values do not; without it the folder is a new one at
    every call, so a call that may be repeated under an idempotency key must give one.
    Raises `InvalidRequest`, `InvalidPath`, whose message names the value that is wrong or missing.
    """
    purpose = purpose_of(values)
    filename = paths.segment(values.get("filename") or "", "filename")
    metadata = {"purpose": purpose, "cohort": paths.segment(values.get("cohort") or "", "cohort")}
    for name in ("protocol_year", "file_type"):
        if values.get(name) or purpose == "submission":
            metadata[name] = paths.segment(values.get(name) or "", name)
    if purpose == "submission":
        path = paths.submission_path(metadata["cohort"], metadata["protocol_year"], metadata["file_type"], filename)
    elif purpose == "precheck":
        path = paths.precheck_path(values.get("precheck_id") or folder or uuid.uuid4().hex, filename)
    else:
        path = paths.scratch_path(values.get("audit_id") or folder or uuid.uuid4().hex, filename)
    return storage_for(purpose), path, metadata


def purpose_of(values: Mapping[str, str]) -> str:
    """One of `PURPOSES`, a submission unless it says otherwise. Raises `InvalidRequest`."""
    purpose = values.get("purpose") or PURPOSES[0]
    if purpose not in PURPOSES:
        raise InvalidRequest(f"purpose must be one of {', '.join(PURPOSES)}.")
    return purpose


def storage_for(purpose: str) -> Storage:
    """The storage that files of one of the `PURPOSES` go to."""
    if purpose == "submission":
        return StorageManager.get_submission_storage()
    return StorageManager.get_workspace_storage() if purpose == "precheck" else StorageManager.get_scratch_storage()


def replaces(values: Mapping[str, str]) -> bool:
    """Whether `overwrite` asks to replace a file of the same name."""
    return values.get("overwrite", "").lower() in ("1", "true", "yes")


def checked_file_id(file_id: str) -> str:
    """A file id is 32 hex digits; anything else cannot be one and is not passed on. Raises `FileMissing`."""
    if not is_id(file_id):
        raise FileMissing
    return file_id


def is_id(text: str) -> bool:
    """Whether this can be one of our opaque ids at all."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def folder_for(username: str, idempotency_key: str | None) -> str | None:
    """The temporary folder for an idempotency key: the same key must mean the same place."""
    if idempotency_key is None:
        return None
    return hashlib.sha256(f"{username}\n{idempotency_key}".encode()).hexdigest()[:32]
