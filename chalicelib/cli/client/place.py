"""The place of a download on this machine: a private `.part` that one process writes, and the step that gives it its name."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from chalicelib.cli.client.failures import Failure
from chalicelib.cli.client.state import lock_file


@contextlib.contextmanager
def open_part(part: Path) -> Iterator[BinaryIO]:
    """The file, made if need be, readable by its owner only, locked. Raises `OSError`, `Failure` when another writes it."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(part, flags, 0o600), "r+b", buffering=0) as file:
        try:
            lock_file(file.fileno(), wait=False)
        except BlockingIOError:
            raise _busy() from None
        opened = os.fstat(file.fileno())
        try:
            there = os.lstat(part)
        except FileNotFoundError:
            raise _busy() from None
        if not stat.S_ISREG(opened.st_mode) or (opened.st_ino, opened.st_dev) != (there.st_ino, there.st_dev):
            # Between opening and locking, the other command gave it its name: it is no part any more.
            raise _busy()
        yield file


def write_all(file: BinaryIO, block: bytes) -> None:
    """An unbuffered file may take less than it is given (a full disk tells so only with the next write)."""
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


def commit(part: Path, path: Path, *, replace: bool) -> bool:
    """Give the finished part its name, durably. False when `replace` is not set and the name is taken; it stays then."""
    if replace:
        os.replace(part, path)
    else:
        try:
            os.link(part, path, follow_symlinks=False)  # unlike a rename, this never replaces
        except (OSError, NotImplementedError):
            # The name is taken, or the file system has no hard links (FAT, some network shares): look, then rename.
            if os.path.lexists(path):
                return False
            os.rename(part, path)
        else:
            part.unlink()
    _sync_folder(path.parent)
    return True


def _busy() -> Failure:
    return Failure("target_busy", "Another command is downloading to the same place.")


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut once the folder is on disk; where folders cannot be synced, nothing is lost but that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
