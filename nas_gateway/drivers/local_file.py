"""One open file of the local driver: opening without following links, reading, writing, describing. Used by `local` only."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime

from chalicelib.errors import FileMissing, StorageBroken, TruncatedBody
from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.base import Download, ObjectInfo
from nas_gateway.drivers import local_meta
from nas_gateway.drivers.local_errors import NOT_A_FILE, translated
from nas_gateway.drivers.local_meta import Meta

# Not blocking: a FIFO under the root must not hang a thread. It means nothing for regular files.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalDownload(Download):
    """Reads the file as it was when opened: a save or delete meanwhile does not change it."""

    def __init__(self, info: ObjectInfo, start: int, count: int, descriptor: int) -> None:
        self.info, self.start, self.count = info, start, count
        self._descriptor, self._at, self._left = descriptor, start, count

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(BLOCK_BYTES), b""))
        if not self._left or not size:
            return b""
        with translated():
            block = os.pread(self._descriptor, min(size, self._left), self._at)
        if not block:
            raise TruncatedBody("The file was cut short on the storage while it was read.")
        self._at, self._left = self._at + len(block), self._left - len(block)
        return block

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._left = -1, 0

    def __del__(self) -> None:
        self.close()


def write_all(descriptor: int, block: bytes | bytearray | memoryview) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def open_file(name: str, folder: int, path: str, records: int) -> tuple[int, ObjectInfo]:
    """An open regular file and what is known of it; links are refused."""
    descriptor = os.open(name, _READ, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise FileMissing
        if not stat.S_ISREG(found.st_mode):
            raise StorageBroken(NOT_A_FILE)
        return descriptor, info_of(path, found, local_meta.read(descriptor, found, records))
    except BaseException:
        os.close(descriptor)
        raise


def info_of(path: str, found: os.stat_result, meta: Meta) -> ObjectInfo:
    etag = meta.sha256[:32] if meta.sha256 else f"{found.st_size:x}-{found.st_mtime_ns:x}-{found.st_ino:x}"
    modified = datetime.fromtimestamp(found.st_mtime_ns / 1e9, UTC)
    return ObjectInfo(path, found.st_size, etag, modified, meta.content_type, meta.sha256, meta.metadata)
