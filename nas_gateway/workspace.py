"""Temporary files on the services tier: deadlines of their own, deletion that is verified, usage of the workspaces.

`WorkspaceStorage` is what StorageManager gives outside the web role; `WorkspaceManager`, which developers use in both
tiers, works through it. Imported by the wiring and the internal API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from chalicelib.auth.policy import Permission
from chalicelib.errors import InvalidRequest, StorageError
from chalicelib.storage.base import Content, SavedPath
from chalicelib.storage.paths import normalise
from chalicelib.storage.streams import as_reader
from chalicelib.storage.workspace import Kind, WorkspaceManager, workspace_of
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.tables import TrackedFile
from nas_gateway.files.tracked import TrackedStorage
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import Action, Operation, Outcome

__all__ = ["WorkspaceManager", "WorkspaceStorage", "Workspaces"]

# Workspaces that an answer lists, the oldest first; the counts are over all of them.
MAX_LISTED = 1000
OTHER = "other"

# hours, dry_run -> the plan or what came of it
Cleanup = Callable[[Call, float, bool], dict[str, Any]]


class Workspaces:
    """The use-cases. `disks` are those on which temporary files lie."""

    def __init__(self, transfers: Transfers, disks: Iterable[str]) -> None:
        self._transfers, self._disks = transfers, tuple(dict.fromkeys(disks))

    def save(
        self, call: Call, disk: str, path: str, content: Content, content_type: str | None, hours: float | None
    ) -> SavedPath:
        """Store a working copy with a deadline. Raises `InvalidRequest` for a submission or a bad deadline."""
        where = place(disk, path, content_type=content_type)
        if not where.temporary:
            raise InvalidRequest("A submission stays. Save it through the submission storage.")
        reader, _ = as_reader(content)
        return self._transfers.upload(call, where, reader, action=Action.WORK_COPY_CREATED, cleanup_hours=hours)

    def clean(self, call: Call, disk: str, path: str, user: str | None = None) -> str:
        """Delete a temporary file, look that it is gone, mark the creating operation; its tracking id.

        Raises `FileMissing`, `InvalidRequest` for a submission, `StorageError` when it is still there.
        """
        path, transfers = normalise(path), self._transfers
        file = transfers.access.file(call, Permission.DELETE, disk, path)
        if not (place(disk, path).temporary if file is None else file.cleanup_due):
            raise InvalidRequest("This is no temporary file. Delete it through the storage it belongs to.")
        deleted = transfers.delete(call, disk, path)
        if transfers.disk(disk).exists(path):
            raise StorageError("The file is still there after it was deleted. The clean-up tries again.")
        if file is None:
            return deleted  # nothing that the ledger knows created it
        self._mark(file, user if call.is_service and user else call.principal.username)
        return file.tracking_id

    def _mark(self, file: TrackedFile, user: str) -> None:
        found = queries.query(tracking_id=file.tracking_id, limit=10).events
        created = next((event for event in found if event.outcome == Outcome.COMPLETED), None)
        if created is not None:
            created.mark_cleaned_up(user=user)
            return
        # The index has not caught up with a file this young: the same event, from what the row knows.
        operation = Operation(
            action=Action.WORK_COPY_DELETED,
            user=user,
            cohort=file.cohort,
            file_id=file.file_id,
            disk=file.disk,
            file_path=file.path,
            file_type=file.file_type,
            file_size=None if file.size is None else int(file.size),
            metadata={"cleans": file.tracking_id},
        )
        self._transfers.ledger.record(operation)

    def usage(self, call: Call) -> dict[str, Any]:
        """See `WorkspaceManager.get_workspace_usage`. Lists the workspaces' folders, and only them. Raises `Forbidden`."""
        if not call.is_service and not call.principal.may(Permission.CLEANUP, None):
            self._transfers.access.deny(call, Permission.CLEANUP, "", "", None)
        now, total = self._transfers.clock(), _Count()
        kinds = {str(kind): _Count() for kind in (*Kind, OTHER)}
        spaces: dict[tuple[str, str, str], _Count] = {}
        untracked = overdue = 0
        for disk in self._disks:
            known: dict[str, TrackedFile] = {}
            for file in self._transfers.registry.temporary(disk):
                known[file.path] = file
                overdue += (file.cleanup_due or now) < now
            for kind in Kind:
                for info in self._transfers.disk(disk).list_files(kind):
                    row = known.pop(info.path, None)
                    untracked += row is None
                    since = row.created_at if row is not None else info.modified_at.timestamp()
                    counts = [total, kinds[kind]]
                    if (space := workspace_of(info.path)) is not None:
                        counts.append(spaces.setdefault((disk, *space), _Count()))
                    for count in counts:
                        count.add(info.size, since)
            for file in known.values():
                if workspace_of(file.path) is None:  # a working copy elsewhere; its folder is not ours to list
                    for count in (total, kinds[OTHER]):
                        count.add(int(file.size or 0), file.created_at)
        ordered = sorted(spaces.items(), key=lambda item: (item[1].since, item[0]))[:MAX_LISTED]
        many = {kind: sum(1 for _, other, _ in spaces if other == kind) for kind in kinds}
        return {
            **total.to_json(),
            "untracked": untracked,
            "overdue": overdue,
            "kinds": {kind: {**count.to_json(), "workspaces": many[kind]} for kind, count in kinds.items()},
            "workspaces": [
                {"disk": disk, "kind": kind, "id": ident, **count.to_json()} for (disk, kind, ident), count in ordered
            ],
        }


@dataclass(slots=True)
class _Count:
    files: int = 0
    bytes: int = 0
    since: float = field(default=float("inf"))

    def add(self, size: int, since: float) -> None:
        self.files, self.bytes, self.since = self.files + 1, self.bytes + size, min(self.since, since)

    def to_json(self) -> dict[str, Any]:
        oldest = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds") if self.files else None
        return {"files": self.files, "bytes": self.bytes, "oldest": oldest}


class WorkspaceStorage(TrackedStorage):
    """A tracked disk with `storage.workspace.TemporaryStorage` besides."""

    def __init__(
        self, disk: str, transfers: Transfers, call: Callable[[], Call], workspaces: Workspaces, cleanup: Cleanup
    ) -> None:
        super().__init__(disk, transfers, call)
        self._workspaces, self._cleanup = workspaces, cleanup

    def __repr__(self) -> str:
        return f"WorkspaceStorage({type(self.driver).__name__}, disk={self.disk!r})"

    def save_temporary(
        self, path: str, content: Content, content_type: str | None = None, *, cleanup_hours: float | None = None
    ) -> SavedPath:
        return self._workspaces.save(self._call(), self.disk, path, content, content_type, cleanup_hours)

    def delete_temporary(self, path: str, *, user: str | None = None) -> str:
        return self._workspaces.clean(self._call(), self.disk, path, user)

    def usage(self) -> dict[str, Any]:
        return self._workspaces.usage(self._call())

    def cleanup(self, hours: float, *, dry_run: bool) -> dict[str, Any]:
        return self._cleanup(self._call(), hours, dry_run)
