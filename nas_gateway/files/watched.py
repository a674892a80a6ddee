"""A reader around an upload's body: counts, stops at the size limit, and keeps the upload's lease alive."""

from __future__ import annotations

import time
from collections.abc import Callable

from chalicelib.errors import PayloadTooLarge
from chalicelib.storage.base import Reader
from chalicelib.storage.streams import length_of


class Watched:
    """Passes a reader on. `count` is the bytes that passed.

    The callback given to `every` runs on the reading thread when that many seconds have gone by since it last did, after a
    block or at the end: the last one just before a driver makes the file visible, so that a writer which was asleep past
    its lease finds out in time.
    """

    def __init__(self, reader: Reader, limit: int) -> None:
        self._reader, self._limit = reader, limit
        self._period, self._callback, self._last = float("inf"), _nothing, time.monotonic()
        self.count = 0

    def every(self, seconds: float, callback: Callable[[], None]) -> None:
        self._period, self._callback, self._last = seconds, callback, time.monotonic()

    def read(self, size: int = -1, /) -> bytes:
        block = self._reader.read(size)
        self.count += len(block)
        if self.count > self._limit:
            raise PayloadTooLarge(f"The largest file taken here is {self._limit} bytes.")
        if time.monotonic() - self._last >= self._period:
            self._callback()
            self._last = time.monotonic()
        return block


class _SizedWatched(Watched):
    def __init__(self, reader: Reader, limit: int, length: int) -> None:
        super().__init__(reader, limit)
        self._length = length

    def __len__(self) -> int:
        return self._length


def watch(reader: Reader, limit: int) -> Watched:
    """A watched reader that knows its length where `reader` does. Raises `PayloadTooLarge` before the first byte."""
    length = length_of(reader)
    if length is None:
        return Watched(reader, limit)
    if length > limit:
        raise PayloadTooLarge(f"The largest file taken here is {limit} bytes.")
    return _SizedWatched(reader, limit, length)


def _nothing() -> None:
    return None
