"""Where a file goes and whose it is: one description, checked once, for every way in.

Pure: imports the contract and the path rules only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from chalicelib.errors import InvalidRequest
from chalicelib.storage import paths


class Purpose(StrEnum):
    """What a file is for; submissions stay, the others are temporary."""

    SUBMISSION = "submission"
    PRECHECK = "precheck"
    SCRATCH = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A disk, a checked path, and what is known of the file. Made by `place`."""

    disk: str
    path: str
    purpose: Purpose
    cohort: str | None
    file_type: str | None
    protocol_year: str | None
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def filename(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def temporary(self) -> bool:
        return self.purpose is not Purpose.SUBMISSION


def place(
    disk: str,
    path: str,
    *,
    content_type: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Placement:
    """A placement from a path and the metadata sent along. Raises `InvalidPath`, `InvalidRequest`.

    A submission's path names its cohort, year and type; metadata that says otherwise is refused, so that a caller cannot
    be authorised for one cohort and write into another.
    """
    path = paths.normalise(path)
    metadata = dict(metadata or {})
    parts = path.split("/")
    purpose = _purpose(parts[0], metadata.get("purpose"))
    named: dict[str, str | None] = {key: metadata.get(key) or None for key in ("cohort", "protocol_year", "file_type")}
    if purpose is Purpose.SUBMISSION and parts[0] == "submissions":
        if len(parts) != 5:
            raise InvalidRequest("A submission's path is submissions/{cohort}/{protocol_year}/{file_type}/{filename}.")
        for key, told in zip(("cohort", "protocol_year", "file_type"), parts[1:4], strict=True):
            if named[key] not in (None, told):
                raise InvalidRequest(f"The metadata's {key} differs from the path's.")
            named[key] = told
    return Placement(
        disk=disk,
        path=path,
        purpose=purpose,
        content_type=content_type or "application/octet-stream",
        metadata=metadata,
        **named,
    )


def _purpose(folder: str, told: str | None) -> Purpose:
    by_folder = {"submissions": Purpose.SUBMISSION, "upload_prechecks": Purpose.PRECHECK, "scratch": Purpose.SCRATCH}
    found = by_folder.get(folder)
    if told is not None:
        try:
            asked = Purpose(told)
        except ValueError:
            raise InvalidRequest("purpose must be submission, precheck or scratch.") from None
        if found not in (None, asked):
            raise InvalidRequest("The metadata's purpose differs from the path's.")
        return asked
    # Other folders (a developer's own) are working copies: temporary unless said otherwise.
    return found or Purpose.SCRATCH
