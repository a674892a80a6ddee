"""Walking a tree below a root without ever following a symbolic link. Used by the local driver only; raises `OSError`.

Every folder is opened by its name relative to the one above it (`openat` with `O_NOFOLLOW`), so that nothing that is
swapped for a link between a check and its use can lead outside the root. The root itself may be a link: it is the
operator's.
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from chalicelib.errors import StorageBroken
from nas_gateway.drivers.local_errors import BROKEN_FOLDER, SYMLINK

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# A folder that is made and removed under our hands is tried again; one that is broken stays so.
RACE_TRIES = 100


def open_root(root: str) -> int:
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_folder(name: str, parent: int) -> int:
    """A folder below `parent`. Raises `StorageBroken` for a link, otherwise what `open` raises."""
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            refuse_link(name, parent)
        raise


def refuse_link(name: str, parent: int) -> None:
    """Raises `StorageBroken` if `name` is a symbolic link. Only to say why: safety is in the way files are opened."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise StorageBroken(SYMLINK)


@contextmanager
def folders(root: str, names: Sequence[str]) -> Iterator[list[int]]:
    """Descriptors of the root and of every folder on the way down `names`, closed at the end."""
    with ExitStack() as stack:
        chain = [_closing(stack, open_root(root))]
        for name in names:
            chain.append(_closing(stack, open_folder(name, chain[-1])))
        yield chain


@contextmanager
def made_folders(root: str, names: Sequence[str]) -> Iterator[list[int]]:
    """Like `folders`, making those that are missing; each one made is durable (its parent is fsynced).

    Raises `FileNotFoundError` when another process removes one of them meanwhile: the caller begins again.
    """
    with ExitStack() as stack:
        chain = [_closing(stack, open_root(root))]
        for name in names:
            try:
                os.mkdir(name, 0o770, dir_fd=chain[-1])
            except FileExistsError:
                made = False
            else:
                made = True
            chain.append(_closing(stack, open_folder(name, chain[-1])))
            if made:
                os.fsync(chain[-2])
        yield chain


def broken_folder(root: str, names: Sequence[str]) -> StorageBroken | None:
    """Why a folder that mkdir calls existing cannot be entered, when trying again did not help."""
    try:
        with folders(root, names):
            return None
    except OSError:
        return StorageBroken(BROKEN_FOLDER)


def remove_empty(chain: Sequence[int], names: Sequence[str]) -> None:
    """Remove the folders `names` from the innermost up while they are empty. Best effort; rmdir never takes a full one."""
    for depth in range(len(names), 0, -1):
        try:
            os.rmdir(names[depth - 1], dir_fd=chain[depth - 1])
        except OSError:
            return


def _closing(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


# --- listing --------------------------------------------------------------------------------------------------


def walk(folder: int, base: str, after: str, batch: int) -> Generator[tuple[str, str, int], None, None]:
    """(path, name, folder descriptor) of every regular file below `folder` whose path is greater than `after`.

    In path order by UTF-8 bytes, which is code-point order: a folder sorts as its name and a slash. `base` is the path
    of `folder` ("" or "a/b/"). Holds at most `batch` names a level, whatever a folder's size, and reads a folder with more
    entries again for each further batch. What appears or disappears meanwhile may or may not be listed.
    """
    last = ""
    while True:
        keys = heapq.nsmallest(batch, _keys(folder, base, after, last))
        for key in keys:
            name = key.rstrip("/")
            if not key.endswith("/"):
                yield base + name, name, folder
                continue
            try:
                inner = os.open(name, _FOLDER, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # removed, or replaced by something else, since it was read
                raise
            try:
                yield from walk(inner, base + key, after, batch)
            finally:
                os.close(inner)
        if len(keys) < batch:
            return
        last = keys[-1]


def _keys(folder: int, base: str, after: str, last: str) -> Iterator[str]:
    """Names in one folder beyond `last` that can hold a path greater than `after`; folders with a slash at the end."""
    # str compares by code point, which is the order of UTF-8 bytes.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                key = entry.name + "/"
                # Files below are greater than `after` if the folder is, or if `after` lies below it.
                wanted = base + key > after or after.startswith(base + key)
            elif entry.is_file(follow_symlinks=False):
                key = entry.name
                wanted = base + key > after
            else:
                continue
            if wanted and key > last:
                yield key
