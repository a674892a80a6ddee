"""Stream helpers, each doing one thing. A short read raises; it never looks like the end of a file.

Owned by the contract; imports only errors, limits and base.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sized

from chalicelib.errors import LengthMismatch, TruncatedBody
from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.base import Content, Reader


class BytesReader:
    """A reader over bytes that are already in memory, without copying the whole."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view, self._at = memoryview(data), 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1, /) -> bytes:
        end = len(self._view) if size < 0 else min(self._at + size, len(self._view))
        block = bytes(self._view[self._at : end])
        self._at = end
        return block


class IteratorReader:
    """A reader over an iterable of byte blocks of any size. What it raises is passed on."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks, self._left = iter(blocks), memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            rest = [bytes(self._left), *map(bytes, self._blocks)]
            self._left = memoryview(b"")
            return b"".join(rest)
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._left = memoryview(block)
        head, self._left = self._left[:size], self._left[size:]
        return bytes(head)


def as_reader(content: Content) -> tuple[Reader, int | None]:
    """A reader for any content, and its length in bytes where that can be told without reading."""
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        reader = BytesReader(content)
        return reader, len(reader)
    if isinstance(content, Reader):
        return content, length_of(content)
    return IteratorReader(content), None


def length_of(reader: Reader) -> int | None:
    """Bytes still to come from a reader that can tell (`__len__`, or a real file), else None."""
    if isinstance(reader, Sized):
        return len(reader)
    fileno = getattr(reader, "fileno", None)
    tell = getattr(reader, "tell", None)
    if fileno is None or tell is None:
        return None
    try:
        status = os.fstat(fileno())
        return max(0, status.st_size - int(tell())) if stat.S_ISREG(status.st_mode) else None
    except (OSError, ValueError):
        return None


class ExactReader:
    """Passes on exactly `length` bytes: fewer raise `TruncatedBody`, and one more raises `LengthMismatch`."""

    def __init__(self, reader: Reader, length: int) -> None:
        self._reader, self._left, self._length = reader, length, length

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1, /) -> bytes:
        if self._left == 0:
            if self._reader.read(1):
                raise LengthMismatch
            return b""
        if size < 0:
            return b"".join(iter(lambda: self.read(BLOCK_BYTES), b""))
        block = self._reader.read(min(size, self._left))
        if not block and size:
            raise TruncatedBody
        if len(block) > self._left:
            raise LengthMismatch
        self._left -= len(block)
        return block


class HashingReader:
    """Counts and hashes (SHA-256) what passes. `on_block(count)` is called after each block."""

    def __init__(self, reader: Reader, on_block: Callable[[int], None] | None = None) -> None:
        self._reader, self._hash, self._on_block = reader, hashlib.sha256(), on_block
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        block = self._reader.read(size)
        if block:
            self._hash.update(block)
            self.count += len(block)
            if self._on_block:
                self._on_block(len(block))
        return block

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def blocks(reader: Reader, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """A reader as an iterator of blocks of up to `size` bytes."""
    while block := reader.read(size):
        yield block


def read_full(reader: Reader, size: int) -> bytes:
    """Exactly `size` bytes, or fewer only at the clean end of the stream: what one part is made of."""
    first = reader.read(size)
    if len(first) == size or not first:
        return first
    buffer = bytearray(size)
    view = memoryview(buffer)
    view[: len(first)] = first
    filled = len(first)
    while filled < size:
        block = reader.read(size - filled)
        if not block:
            view.release()
            del buffer[filled:]
            break
        view[filled : filled + len(block)] = block
        filled += len(block)
    return bytes(buffer)
