"""WorkspaceManager: temporary files that go again, whatever happens to the process that made them.

    manager = WorkspaceManager()
    with manager.workspace("scratch", "42") as work:
        work.save("converted.duckdb", content)

The same in both tiers: it asks the disks that StorageManager gives, which in the web role call the services tier. Every
file is tracked with a deadline before its first byte. Leaving a block deletes what is in it, also after an error; what a
killed process leaves is deleted by the clean-up once its deadline has passed. Imports the contract only.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Any, Protocol, cast

from chalicelib.errors import DepotError, FileMissing, InvalidRequest, StorageError, Unsupported
from chalicelib.storage import paths
from chalicelib.storage.base import Content, Download, ObjectInfo, SavedPath, Storage

# Hours until a temporary file must be gone, and after which one counts as forgotten; both from the seeds.
CLEANUP_HOURS, ORPHANED_HOURS = 2.0, 4.0


class Kind(StrEnum):
    """The two kinds of workspace. A working copy under another folder of a developer's own counts as `other`."""

    PRECHECK = "upload_prechecks"
    SCRATCH = "scratch"


def folder(kind: str, ident: str) -> str:
    """`upload_prechecks/{id}/` or `scratch/audit_{id}/`. Raises `InvalidPath`, `InvalidRequest`."""
    name = paths.segment(str(ident), "workspace id")
    try:
        inner = name if Kind(kind) is Kind.PRECHECK else f"audit_{name}"
    except ValueError:
        raise InvalidRequest(f"A workspace is one of {', '.join(Kind)}.") from None
    return paths.normalise_prefix(f"{Kind(kind)}/{inner}")


def workspace_of(path: str) -> tuple[str, str] | None:
    """Kind and id of the workspace that a path lies in, or None."""
    parts = path.split("/")
    if len(parts) < 3 or parts[0] not in set(Kind):
        return None
    return parts[0], parts[1].removeprefix("audit_") if parts[0] == Kind.SCRATCH else parts[1]


class TemporaryStorage(Storage, Protocol):
    """The capability of a disk behind which the registry stands: deadlines, verified deletion, usage, clean-up."""

    def save_temporary(
        self, path: str, content: Content, content_type: str | None = None, *, cleanup_hours: float | None = None
    ) -> SavedPath:
        """As `save`, recorded as a working copy with a deadline of its own. Raises `InvalidRequest` for a submission."""
        ...

    def delete_temporary(self, path: str, *, user: str | None = None) -> str:
        """Delete, look that it is gone, and mark what created it as cleaned up; the creating operation's tracking id.

        `user` counts where no user is signed in. Raises `FileMissing`, `InvalidRequest` for a submission, and
        `StorageError` when the file is still there.
        """
        ...

    def usage(self) -> dict[str, Any]:
        """What lies under the workspaces of this installation: see `WorkspaceManager.get_workspace_usage`."""
        ...

    def cleanup(self, hours: float, *, dry_run: bool) -> dict[str, Any]:
        """Delete temporary files older than `hours`; the plan, and when applied the outcome of each item."""
        ...


class Workspace:
    """One folder of temporary files. Its files are deleted when the block that it was made for ends."""

    def __init__(self, storage: TemporaryStorage, prefix: str, cleanup_hours: float) -> None:
        self.storage, self.prefix, self._hours = storage, prefix, cleanup_hours

    def path(self, name: str) -> str:
        """The path of a file in it. Raises `InvalidPath`."""
        return paths.normalise(self.prefix + name)

    def save(self, name: str, content: Content, content_type: str | None = None) -> SavedPath:
        return self.storage.save_temporary(self.path(name), content, content_type, cleanup_hours=self._hours)

    def open(self, name: str) -> Download:
        return self.storage.open(self.path(name))

    def files(self) -> Iterator[ObjectInfo]:
        return self.storage.list_files(self.prefix)

    def clear(self) -> None:
        """Delete every file in it, and look. Raises `StorageError` when one is still there: its deadline stays."""
        self.storage.delete_prefix(self.prefix)
        if next(iter(self.files()), None) is not None:
            raise StorageError("A file of the workspace could not be deleted. The clean-up tries again.")


class WorkspaceManager:
    """Workspaces, temporary files, their usage and clean-up. `storage` gives a disk by its purpose; tests give their own."""

    def __init__(self, storage: Callable[[str], Storage] | None = None) -> None:
        self._storage = storage or _by_purpose

    def find(self, kind: str, ident: str, *, cleanup_hours: float = CLEANUP_HOURS) -> Workspace:
        """The workspace of that id; it need not hold anything yet."""
        prefix = folder(kind, ident)
        return Workspace(self._disk_of(prefix), prefix, cleanup_hours)

    @contextmanager
    def workspace(
        self, kind: str, ident: str | None = None, *, cleanup_hours: float = CLEANUP_HOURS
    ) -> Iterator[Workspace]:
        """A workspace whose files are gone when the block ends. An error of the block comes before one of the deletion."""
        work = self.find(kind, ident or uuid.uuid4().hex, cleanup_hours=cleanup_hours)
        try:
            yield work
        except BaseException:
            with suppress(DepotError):
                work.clear()
            raise
        work.clear()

    @contextmanager
    def temp_file(
        self,
        filename: str = "work.tmp",
        content: Content | None = None,
        *,
        ident: str | None = None,
        cleanup_hours: float = CLEANUP_HOURS,
    ) -> Iterator[str]:
        """The path of one scratch file, saved first if there is content. It is gone when the block ends.

        What the block itself puts there must go through `create_temp_file_with_cleanup` or a storage's `save`: both track.
        """
        path = paths.scratch_path(ident or uuid.uuid4().hex, filename)
        storage = self._disk_of(path)
        try:
            if content is not None:
                storage.save_temporary(path, content, cleanup_hours=cleanup_hours)
            yield path
        except BaseException:
            with suppress(DepotError):
                storage.delete_temporary(path)
            raise
        with suppress(FileMissing):
            storage.delete_temporary(path)

    def create_temp_file_with_cleanup(
        self, path: str, content: Content, cleanup_hours: float = CLEANUP_HOURS
    ) -> SavedPath:
        """Save a working copy that must be gone in `cleanup_hours`: the ledger and the clean-up both know the deadline."""
        return self._disk_of(path).save_temporary(path, content, cleanup_hours=cleanup_hours)

    def cleanup_temp_file(self, path: str, user: str | None = None) -> str:
        """Delete it, see that it is gone, mark the creating event cleaned up; that event's tracking id."""
        return self._disk_of(path).delete_temporary(path, user=user)

    def get_workspace_usage(self) -> dict[str, Any]:
        """Counts as the disks list them, compared with the registry.

        `{files, bytes, oldest, untracked, overdue, kinds: {kind: {files, bytes, oldest, workspaces}}, workspaces:
        [{disk, kind, id, files, bytes, oldest}]}`: bytes are bytes, `oldest` ISO 8601 or None, `untracked` files that no
        row knows, `overdue` files past their deadline.
        """
        return self._disk("workspace").usage()

    def cleanup_orphaned_directories(self, hours: float = ORPHANED_HOURS, dry_run: bool = True) -> dict[str, Any]:
        """Delete temporary files older than `hours` (0: all of them now); a dry run only says which: `found` and `items`."""
        return self._disk("workspace").cleanup(hours, dry_run=dry_run)

    # --- which disk ------------------------------------------------------------------------------------------

    def _disk_of(self, path: str) -> TemporaryStorage:
        return self._disk("scratch" if path.startswith(f"{Kind.SCRATCH}/") else "workspace")

    def _disk(self, purpose: str) -> TemporaryStorage:
        storage = self._storage(purpose)
        if not hasattr(storage, "save_temporary"):
            raise Unsupported("Temporary files need a disk that the services tier tracks.")
        return cast(TemporaryStorage, storage)


def _by_purpose(purpose: str) -> Storage:
    from chalicelib.storage.manager import StorageManager  # which itself imports this module's neighbours only

    return StorageManager.get_scratch_storage() if purpose == "scratch" else StorageManager.get_workspace_storage()
