"""The file that is being uploaded: what it was at the start, and slices of it as request bodies.

A file that changes underneath must never end up on the server half old, half new: the last block of a slice is handed out
only after a look that the file is what it was, so that a changed one is never completed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Self

from chalicelib.cli.client.failures import Failure, SourceChanged, Stopped
from chalicelib.limits import BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one state of a file from another. `size` in bytes, `mtime_ns` in nanoseconds since 1970."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)

    def to_json(self) -> dict[str, int]:
        return asdict(self)


class SourceFile:
    """A regular file at a path, as it was when this was made. Raises `OSError`, `Failure` for what is no regular file."""

    def __init__(self, path: Path) -> None:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Failure("not_a_file", "Only regular files can be uploaded, no folders, pipes or devices.")
        self.path, self.identity = path, Identity.of(status)

    @property
    def size(self) -> int:
        return self.identity.size

    def check(self) -> None:
        """Raises `SourceChanged` unless the path still leads to the same file, unchanged."""
        try:
            now = Identity.of(self.path.stat())
        except FileNotFoundError:
            raise _removed() from None
        if now != self.identity:
            raise SourceChanged

    def open(self) -> BinaryIO:
        """The file for reading, unbuffered; the same one, or `SourceChanged`."""
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            raise _removed() from None
        if Identity.of(os.fstat(file.fileno())) != self.identity:
            file.close()
            raise SourceChanged
        return file


def _removed() -> SourceChanged:
    return SourceChanged("The file was removed while it was being sent. Nothing was kept.")


class RunningHash:
    """SHA-256 of a file from its begin, fed with blocks as they pass; what passes twice or too early does not count."""

    def __init__(self) -> None:
        self._hash, self.count = hashlib.sha256(), 0

    def feed(self, offset: int, block: bytes) -> None:
        if offset <= self.count < offset + len(block):
            self._hash.update(memoryview(block)[self.count - offset :])
            self.count = offset + len(block)

    def finish(self, source: SourceFile, stop: threading.Event) -> str:
        """The digest of the whole file in hex; reads what has not passed yet. Raises `SourceChanged`, `Stopped`.

        The caller checks the source afterwards.
        """
        if self.count < source.size:
            with source.open() as file:
                file.seek(self.count)
                while self.count < source.size:
                    if stop.is_set():
                        raise Stopped
                    block = file.read(min(BLOCK_BYTES, source.size - self.count))
                    if not block:
                        raise SourceChanged
                    self.feed(self.count, block)
        return self._hash.hexdigest()


class Slice:
    """Bytes `start` to `end` of a source as a request body with a length; closes itself at the end, or by `close`.

    `moved(count)` is called as blocks are handed out. `stop` ends it with `Stopped`. What it raised stays in `error`.
    """

    def __init__(
        self,
        source: SourceFile,
        start: int,
        end: int,
        *,
        running: RunningHash | None,
        moved: Callable[[int], None],
        stop: threading.Event,
    ) -> None:
        self._source, self._at, self._end = source, start, end
        self._length = end - start
        self._running, self._moved, self._stop = running, moved, stop
        self.error: Exception | None = None
        self._file = source.open()
        self._file.seek(start)

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        try:
            return self._read(size)
        except (Failure, OSError) as error:
            self.error = error
            raise

    def _read(self, size: int) -> bytes:
        if self._stop.is_set():
            raise Stopped
        left = self._end - self._at
        if left == 0:
            return b""
        block = self._file.read(left if size < 0 else min(size, left))
        if not block:
            raise SourceChanged  # shorter than it was
        if len(block) == left:
            self._source.check()
        if self._running is not None:
            self._running.feed(self._at, block)
        self._at += len(block)
        self._moved(len(block))
        return block

    def close(self) -> None:
        self._file.close()
