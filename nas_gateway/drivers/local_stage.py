"""The local driver's staging area: files are written here, and shown at their path in one step. Used by `local*` only.

`ROOT/.depot-stage/` holds `tmp-…` (whole saves), `up-…/` (uploads in parts) and `meta/` (records, see `local_meta`). It lies
on the same file system as the files, so showing one is a rename. No path a caller gives can reach it
(`paths.RESERVED_PREFIX`), and no listing shows it.
"""

from __future__ import annotations

import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PurePosixPath

from chalicelib.errors import FileExists, StorageBroken, StorageUnavailable, UploadLost
from nas_gateway.drivers import local_meta
from nas_gateway.drivers.local_errors import BROKEN_FOLDER, FOLDER_IN_THE_WAY, translated
from nas_gateway.drivers.local_meta import Meta
from nas_gateway.drivers.local_tree import (
    RACE_TRIES,
    broken_folder,
    folders,
    made_folders,
    open_root,
    refuse_link,
    remove_empty,
)

STAGE = ".depot-stage"
RECORDS = (STAGE, "meta")
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = "The storage folder has gone. The operator should check that the NAS is mounted."


class Stage:
    """The staging area of one root. `attributes=False` keeps metadata in records, as if there were no xattrs."""

    def __init__(self, root: str, *, attributes: bool) -> None:
        self.root, self._attributes, self._ready = root, attributes, False

    def prepare(self) -> None:
        """Make the root and the staging area, once. Later a root that is gone is an error: an unmounted NAS, say."""
        if self._ready:
            try:
                os.close(open_root(self.root))
            except FileNotFoundError:
                raise StorageBroken(_GONE) from None
            return
        try:
            os.makedirs(self.root, 0o770, exist_ok=True)
            with made_folders(self.root, RECORDS):
                self._ready = True
        except (FileExistsError, NotADirectoryError):
            raise StorageBroken(BROKEN_FOLDER) from None

    @contextmanager
    def folder(self, *names: str) -> Iterator[int]:
        """A descriptor of a folder below the staging area. Raises `FileNotFoundError`."""
        with folders(self.root, (STAGE, *names)) as chain:
            yield chain[-1]

    @contextmanager
    def new_file(self) -> Iterator[tuple[int, int, str]]:
        """An empty staged file: (descriptor, its folder, its name). Whatever was not published is gone at the end.

        Translates its own errors, and lets those of the block pass: they may come from the caller's source.
        """
        with ExitStack() as stack:
            with translated():
                folder = stack.enter_context(self.folder())
                name = f"tmp-{uuid.uuid4().hex}"
                descriptor = os.open(name, _NEW, 0o660, dir_fd=folder)
            try:
                yield descriptor, folder, name
            finally:
                with translated():
                    os.close(descriptor)
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)

    def publish(
        self, descriptor: int, folder: int, name: str, path: str, meta: Meta, *, if_absent: bool = False
    ) -> os.stat_result:
        """Show a staged file under `path` with its metadata, durably; its status.

        Order: data and metadata fsynced, rename (or `link`, which refuses an existing name in one step), folders fsynced.
        """
        # An explicit time also flushes an NFS client, whose later writes would otherwise change it behind our back.
        now = time.time_ns()
        os.utime(descriptor, ns=(now, now))
        with self.folder("meta") as records:
            record = local_meta.write(descriptor, meta, records, attributes=self._attributes)
            try:
                os.fsync(descriptor)
                old = self._place(descriptor, folder, name, path, if_absent)
            except BaseException:
                if record:
                    os.unlink(record, dir_fd=records)
                raise
            if old:
                local_meta.forget(old, records)
        return os.fstat(descriptor)

    def _place(self, descriptor: int, folder: int, name: str, path: str, if_absent: bool) -> os.stat_result | None:
        """Put it there; the status of the file it replaced. Tries again while another process removes empty folders."""
        *parents, last = PurePosixPath(path).parts
        for _ in range(RACE_TRIES):
            try:
                with made_folders(self.root, parents) as chain:
                    try:
                        old = _existing(last, chain[-1])
                        if if_absent:
                            _link(descriptor, folder, name, last, chain[-1])
                        else:
                            os.rename(name, last, src_dir_fd=folder, dst_dir_fd=chain[-1])
                    except BaseException:
                        remove_empty(chain, parents)
                        raise
                    os.fsync(chain[-1])
                    return old
            except FileNotFoundError:
                if not _exists(name, folder):
                    raise UploadLost from None  # the staged file itself went: aborted, or completed by another
        raise broken_folder(self.root, parents) or StorageUnavailable()

    def discard(self, before: float) -> int:
        """Remove staged files last written before a time (seconds since 1970) that no save has published; how many."""
        removed = 0
        with self.folder() as stage:
            for name in os.listdir(stage):
                with suppress(FileNotFoundError):
                    if name.startswith("tmp-") and os.stat(name, dir_fd=stage).st_mtime < before:
                        os.unlink(name, dir_fd=stage)
                        removed += 1
        return removed


def _existing(name: str, folder: int) -> os.stat_result | None:
    """What stands at the destination. Raises `FileExists` for a folder, `StorageBroken` for a link."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    refuse_link(name, folder)
    if stat.S_ISDIR(found.st_mode):
        raise FileExists(FOLDER_IN_THE_WAY)
    return found


def _link(descriptor: int, folder: int, name: str, last: str, target: int) -> None:
    """`link` is the one call that all file systems, NFS too, refuse in one step when the name is taken."""
    try:
        os.link(name, last, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        # An NFS server whose reply was lost answers the repetition with EEXIST: if the name is our file, it was us.
        there = os.stat(last, dir_fd=target, follow_symlinks=False)
        if not os.path.samestat(there, os.fstat(descriptor)):
            raise FileExists from None
    os.unlink(name, dir_fd=folder)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
