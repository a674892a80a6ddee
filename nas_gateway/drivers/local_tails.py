"""Tails on a local disk: `.depot-stage/tails/UPLOAD.OFFSET-SHA256`, one file each. Used by the local driver only.

A tail is written under a temporary name in the staging area (`Stage.new_file`), fsynced and renamed: it is whole or not
there. Raises `OSError` besides Depot's errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.base import StagedTail
from nas_gateway.drivers.common import is_tail
from nas_gateway.drivers.local_errors import translated
from nas_gateway.drivers.local_file import write_all
from nas_gateway.drivers.local_stage import STAGE, Stage
from nas_gateway.drivers.local_tree import made_folders

TAILS = "tails"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalTails:
    """The tails of one staging area."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        with self._stage.new_file() as (descriptor, folder, staged), translated():
            write_all(descriptor, data)
            os.fsync(descriptor)
            with made_folders(self._stage.root, (STAGE, TAILS)) as chain:
                os.rename(staged, _file(name), src_dir_fd=folder, dst_dir_fd=chain[-1])
                os.fsync(chain[-1])

    def get(self, name: str) -> bytes:
        with self._stage.folder(TAILS) as folder:
            descriptor = os.open(_file(name), _READ, dir_fd=folder)
            try:
                return b"".join(iter(lambda: os.read(descriptor, BLOCK_BYTES), b""))
            finally:
                os.close(descriptor)

    def delete(self, name: str) -> None:
        """Not fsynced: a tail that a power cut brings back is listed again, and deleted again by the sweep."""
        with suppress(FileNotFoundError), self._stage.folder(TAILS) as folder:
            os.unlink(_file(name), dir_fd=folder)

    def listed(self) -> Iterator[StagedTail]:
        with suppress(FileNotFoundError), self._stage.folder(TAILS) as folder:
            for entry in os.listdir(folder):
                name = entry.replace(".", "/", 1)
                if is_tail(name):
                    with suppress(FileNotFoundError):
                        found = os.stat(entry, dir_fd=folder, follow_symlinks=False)
                        yield StagedTail(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _file(name: str) -> str:
    return name.replace("/", ".")
