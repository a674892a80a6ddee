"""The registry's rows as the views that the web tier is shown. The services tier's side of `storage.catalog`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from chalicelib.auth.policy import Permission
from chalicelib.storage.catalog import EVERYTHING, FilePage, FileView, Listing
from nas_gateway.files.access import Call
from nas_gateway.files.tables import TrackedFile
from nas_gateway.files.transfers import Transfers


def view_of(file: TrackedFile) -> FileView:
    """One row as a view."""
    return FileView(
        file_id=file.file_id,
        disk=file.disk,
        path=file.path,
        filename=file.filename,
        purpose=file.purpose,
        cohort=file.cohort,
        protocol_year=file.protocol_year,
        file_type=file.file_type,
        content_type=file.content_type or "application/octet-stream",
        size=int(file.size or 0),
        sha256=file.sha256,
        etag=file.etag or "",
        owner=file.owner,
        created_at=_iso(file.created_at),
        tracking_id=file.tracking_id,
        cleanup_due=_iso(file.cleanup_due) if file.cleanup_due else None,
        state=file.state,
    )


def page_of(
    transfers: Transfers, call: Call, cohort: str, cursor: str | None, limit: int, listing: Listing = EVERYTHING
) -> FilePage:
    """One page of a cohort's files. Raises `Forbidden` (and records it), `InvalidRequest`."""
    if not call.principal.may(Permission.LIST, cohort):
        transfers.access.deny(call, Permission.LIST, "", "", cohort)
    rows, following = transfers.registry.listed(cohort, cursor, limit, listing)
    return FilePage([view_of(row) for row in rows], following)


class LocalCatalog:
    """The catalog without a network between: for the testing role, where both tiers are one process."""

    def __init__(self, transfers: Transfers, call: Callable[[], Call]) -> None:
        self._transfers, self._call = transfers, call

    def file(self, file_id: str) -> FileView:
        return view_of(self._transfers.file(self._call(), file_id))

    def files(
        self, cohort: str, cursor: str | None = None, limit: int = 100, *, listing: Listing = EVERYTHING
    ) -> FilePage:
        return page_of(self._transfers, self._call(), cohort, cursor, limit, listing)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
