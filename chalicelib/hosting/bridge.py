"""The two bounded buffers between the event loop and a handler's thread. Imports errors and limits only.

`BodyPipe` carries a request body to the thread, `ResponsePipe` a response body back. Each side blocks (the thread) or
waits (the loop) when the buffer is full or empty, so memory a request is at most 2 x `BRIDGE_BUFFER_BYTES` plus one block
each way. Waking the other side costs more than moving the bytes, so wake-ups are coalesced: a reader is woken for
`WAKE_BYTES`, for the end, or after `WAKE_SECONDS`, and takes what has gathered.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

from chalicelib.errors import BodyStalled, ClientDisconnected, DepotError, TruncatedBody
from chalicelib.limits import BLOCK_BYTES, BRIDGE_BUFFER_BYTES, KIB

# Measured on loopback: half the CPU of waking for every 64 KiB; 2 ms is below what a client notices.
WAKE_BYTES = 256 * KIB
WAKE_SECONDS = 0.002

# A block of at least this size is passed on as it is; smaller ones are joined into up to 1 MiB.
WHOLE_BYTES = 128 * KIB


class PeerGone(Exception):
    """The thread writes a response that nobody reads any more."""


_Blocks = deque[bytes | memoryview]


def _take(blocks: _Blocks, size: int) -> bytes:
    """Up to `size` bytes off the front of a non-empty queue, with as few copies as possible."""
    first = blocks.popleft()
    if len(first) > size:
        view = memoryview(first)
        blocks.appendleft(view[size:])
        return bytes(view[:size])
    if len(first) >= WHOLE_BYTES or not blocks or len(first) + len(blocks[0]) > size:
        return first if isinstance(first, bytes) else bytes(first)
    taken, room = [first], size - len(first)
    while blocks and len(blocks[0]) <= room:
        block = blocks.popleft()
        room -= len(block)
        taken.append(block)
    return b"".join(taken)


class BodyPipe:
    """Loop -> thread. `feed`, `finish`, `fail` and `room` belong to the loop; `read` to one thread.

    `length` is the announced size in bytes, or None when the body is chunked. `stall` is how many seconds a read waits
    for a byte. `on_first_read` runs on the loop when the handler first asks.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, length: int | None, stall: float, on_first_read: Callable[[], None]
    ) -> None:
        self._loop, self._length, self._stall, self._on_first_read = loop, length, stall, on_first_read
        self._ready = threading.Condition(threading.Lock())
        self._blocks: _Blocks = deque()
        self._size = 0
        self._ended = False
        self._error: type[DepotError] | None = None
        self._waiting = self._asked = self._full = self._discarding = False
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self.received = 0  # bytes that came from the peer
        self.dropped = 0  # of these, bytes that came after nobody read any more
        self._given = 0

    # --- the loop's side -------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        return self._ended

    def feed(self, block: bytes) -> bool:
        """Add a block; True means full: await `room()` before the next."""
        self.received += len(block)
        with self._ready:
            if self._discarding or self._error is not None:
                self.dropped += len(block)
                return False
            self._blocks.append(block)
            self._size += len(block)
            if self._waiting:
                if self._size >= WAKE_BYTES:
                    self._wake()
                elif self._timer is None:
                    self._timer = self._loop.call_later(WAKE_SECONDS, self._wake_late)
            self._full = self._size >= BRIDGE_BUFFER_BYTES
            if self._full:
                self._room.clear()
            return self._full

    async def room(self) -> None:
        await self._room.wait()

    def finish(self) -> None:
        """The body is complete."""
        with self._ready:
            self._ended = True
            self._wake()

    def fail(self, error: type[DepotError]) -> None:
        """No more will come, and the body is not complete. What arrived before is still handed out first."""
        with self._ready:
            if not self._ended and self._error is None:
                self._error = error
            self._wake()
        self._room.set()

    def discard(self) -> None:
        """Nobody reads any more: forget what is buffered and what still comes."""
        with self._ready:
            self._discarding = True
            self._blocks.clear()
            self._size = 0
            self._full = False
        self._room.set()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting = False
            self._ready.notify()

    def _wake_late(self) -> None:
        self._timer = None
        with self._ready:
            self._wake()

    # --- the thread's side -----------------------------------------------------------------------------------

    def read(self, size: int = -1, /) -> bytes:
        """1 to `size` bytes (1 MiB at most), or b"" at the end of a complete body; everything for a negative size.

        Raises `BodyStalled`, `ClientDisconnected`, `ServerStopping` or another `DepotError`; then always again.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(BLOCK_BYTES), b""))
        if size == 0:
            return b""
        with self._ready:
            if not self._asked:
                self._asked = True
                self._on_loop(self._on_first_read)
            if not self._blocks:
                self._wait()
            if self._blocks:
                block = _take(self._blocks, min(size, BLOCK_BYTES))
                self._size -= len(block)
                self._given += len(block)
                if self._full and self._size <= BRIDGE_BUFFER_BYTES // 2:
                    self._full = False
                    self._on_loop(self._room.set)
                return block
            if self._error is not None:
                raise self._error
            # The parser counts too; this holds even where it does not.
            if self._length is not None and self._given != self._length:
                raise TruncatedBody
            return b""

    def _wait(self) -> None:
        until = time.monotonic() + self._stall
        while not (self._blocks or self._ended or self._error):
            self._waiting = True
            left = until - time.monotonic()
            if left <= 0 or not self._ready.wait(left):
                self._waiting = False
                if not (self._blocks or self._ended or self._error):
                    self._error = BodyStalled

    def interrupt(self) -> None:
        """From any other thread: the reader's wait ends as if the peer had gone."""
        with self._ready:
            self._error = self._error or ClientDisconnected
            self._wake()
        self._on_loop(self._room.set)

    def _on_loop(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: the process is ending
            self._error = self._error or TruncatedBody


class BodyReader:
    """What a handler reads a chunked body from; no `__len__`, because nobody knows it."""

    def __init__(self, pipe: BodyPipe) -> None:
        self.read, self.interrupt = pipe.read, pipe.interrupt


class SizedBodyReader(BodyReader):
    """What a handler reads a body of announced length from; `len()` is that length in bytes."""

    def __init__(self, pipe: BodyPipe, length: int) -> None:
        super().__init__(pipe)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True


class ResponsePipe:
    """Thread -> loop. `put` and `end` belong to the thread; `take` and `abandon` to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready = threading.Condition(threading.Lock())
        self._blocks: _Blocks = deque()
        self._size = 0
        self._ended: bool | None = None
        self._gone = self._sleeping = self._full = False
        self._event = asyncio.Event()

    def put(self, block: bytes) -> None:
        """Hand over a block; waits while the buffer is full. Raises `PeerGone`."""
        with self._ready:
            while self._size >= BRIDGE_BUFFER_BYTES and not self._gone:
                self._full = True
                self._ready.wait()
            if self._gone:
                raise PeerGone
            if block:
                self._blocks.append(block)
                self._size += len(block)
                self._wake()

    def end(self, *, complete: bool) -> None:
        """No more comes; `complete=False` makes the loop cut the connection."""
        with self._ready:
            self._ended = complete
            self._wake()

    def _wake(self) -> None:
        if self._sleeping:
            self._sleeping = False
            try:
                self._loop.call_soon_threadsafe(self._event.set)
            except RuntimeError:  # the loop is closed: the process is ending
                self._gone = True

    async def take(self) -> bytes | None:
        """The next 1 byte to 1 MiB, or None at the end; `complete` then says how it ended."""
        while True:
            with self._ready:
                if self._blocks:
                    block = _take(self._blocks, BLOCK_BYTES)
                    self._size -= len(block)
                    if self._full and self._size <= BRIDGE_BUFFER_BYTES // 2:
                        self._full = False
                        self._ready.notify()
                    return block
                if self._ended is not None or self._gone:
                    return None
                self._sleeping = True
                self._event.clear()
            await self._event.wait()

    @property
    def complete(self) -> bool:
        return self._ended is True and not self._gone

    def abandon(self) -> None:
        """The peer is gone: the thread's next `put` raises, and `take` returns None."""
        with self._ready:
            self._gone = True
            self._blocks.clear()
            self._size = 0
            self._ready.notify()
        self._event.set()
