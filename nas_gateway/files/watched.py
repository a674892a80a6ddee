"""A reader around an upload's body: counts, stops at the size limit, and keeps the upload's lease alive."""

from __future__ import annotations

import time
from collections.abc import Callable

from chalicelib.errors import PayloadTooLarge
from chalicelib.storage.base import Reader
from chalicelib.storage.seal import forwarded_of
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
        self._since, self._reading = time.monotonic(), False
        self.count = 0
        self.forwarded = forwarded_of(reader)

    def silent_seconds(self) -> float:
        """How long the reading thread has waited for its next byte; 0 while it is busy elsewhere. From any thread."""
        return time.monotonic() - self._since if self._reading else 0.0

    def interrupt(self) -> None:
        """Make the reading thread's wait end as if the sender had gone, where the source can. From any thread."""
        stop = getattr(self._reader, "interrupt", None)
        if stop is not None:
            stop()

    def every(self, seconds: float, callback: Callable[[], None]) -> None:
        self._period, self._callback, self._last = seconds, callback, time.monotonic()

    def read(self, size: int = -1, /) -> bytes:
        self._since, self._reading = time.monotonic(), True
        try:
            block = self._reader.read(size)
        finally:
            self._reading = False
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
