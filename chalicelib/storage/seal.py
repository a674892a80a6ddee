"""Both tiers count: the seal behind a body that the web tier forwards, and the reader that compares it.

The web tier counts and hashes what it sends and puts the result behind the last byte; the services tier counts and
hashes what it takes in. A difference is `ForwardedDiffers`: an alarm, and nothing is kept. A seal also says how the body ended,
so that what a client sent before its connection broke is confirmed like everything else. (An HTTP trailer would say the
same, but neither API Gateway nor `requests` has them.)

Format: payload, then 41 bytes: one of state (`COMPLETE`, `BROKEN`), eight of count (big endian), 32 of SHA-256. The header
`X-Depot-Sealed` announces it and holds the payload's length, or `*` where it is not known. Imports the contract only.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator

from chalicelib.errors import ClientDisconnected, DepotError, ForwardedDiffers, InvalidRequest, TruncatedBody
from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.base import Reader
from chalicelib.storage.streams import BytesReader

HEADER = "X-Depot-Sealed"
COMPLETE, BROKEN = b"\x00", b"\x01"
SEAL_BYTES = 1 + 8 + 32
_UNKNOWN = "*"


class Forwarded:
    """What passed, on this tier's side: `count` bytes; `confirmed` once the other tier's seal said the same."""

    def __init__(self) -> None:
        self.count, self.digest, self.confirmed = 0, hashlib.sha256(), False

    def add(self, block: bytes) -> None:
        self.count += len(block)
        self.digest.update(block)

    def seal(self, state: bytes) -> bytes:
        return state + self.count.to_bytes(8, "big") + self.digest.digest()


class SealedBody:
    """A request body for `requests`: `reader`, and the seal behind it. `error` is what the reader broke with, if it did.

    It goes out in chunked coding, since a body whose length is announced cannot end early, seal and all. What is in memory
    already cannot break: it has a `__len__` (`SteadyBody`), and goes out with a Content-Length.
    """

    def __init__(self, reader: Reader, length: int | None) -> None:
        self._reader, self._length, self._left = reader, length, length
        self._forwarded, self._tail = Forwarded(), b""
        self._ended = False
        self.error: BaseException | None = None

    @staticmethod
    def of(reader: Reader, length: int | None) -> SealedBody:
        """Of `length` bytes (None: not known) that `reader` gives."""
        return SteadyBody(reader, length) if isinstance(reader, BytesReader) else SealedBody(reader, length)

    def headers(self) -> dict[str, str]:
        return {HEADER: _UNKNOWN if self._length is None else str(self._length)}

    def read(self, size: int = -1) -> bytes:
        """Of the payload first, then of the seal, never more than asked for; `b""` at the very end."""
        if size < 0:
            return b"".join(self)
        while not self._ended:
            block = self._payload(size)
            if block:
                return block
        tail, self._tail = self._tail[:size], self._tail[size:]
        return tail

    def _payload(self, size: int) -> bytes:
        want = size if self._left is None else min(size, self._left)
        try:
            block = self._reader.read(want) if want else b""
            if not block and self._left:
                raise TruncatedBody
        except DepotError as error:
            self.error = error
            self._end(BROKEN)
            return b""
        except BaseException as error:
            self.error = error
            raise
        self._forwarded.add(block)
        if self._left is not None:
            self._left -= len(block)
        if not block:
            self._end(COMPLETE)
        return block

    def _end(self, state: bytes) -> None:
        self._tail, self._ended = self._forwarded.seal(state), True

    def __iter__(self) -> Iterator[bytes]:
        while block := self.read(BLOCK_BYTES):
            yield block


class SteadyBody(SealedBody):
    """Its length is known and will be kept to."""

    def __len__(self) -> int:
        assert self._length is not None
        return self._length + SEAL_BYTES


class Unsealed:
    """The payload of a sealed body. `forwarded` tells what passed, and whether it is confirmed.

    The seal is compared before the last block is handed on where the length is known, else before the end is. Raises
    `ForwardedDiffers`, `TruncatedBody` when there is no seal, and `ClientDisconnected` behind the last byte of a body that
    broke at the sender. `length` is that of the payload, in bytes, None where it is not known.
    """

    def __init__(self, reader: Reader, length: int | None, differs: Callable[[], object]) -> None:
        self._reader, self._length, self._differs = reader, length, differs
        self._ready = deque[memoryview]()  # surely payload
        self._held = b""  # the last bytes read, as many as a seal has: they may be it
        self._state: bytes | None = None
        self.forwarded = Forwarded()

    def interrupt(self) -> None:
        """See `Watched.interrupt`."""
        stop = getattr(self._reader, "interrupt", None)
        if stop is not None:
            stop()

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(BLOCK_BYTES), b""))
        block = self._next(size) if size and self._state is None else b""
        if block:
            self.forwarded.add(block)
        if size and self._state is None and (not block or self.forwarded.count == self._length):
            self._compare()
        if not block and self._state == BROKEN:
            raise ClientDisconnected
        return block

    def _next(self, size: int) -> bytes:
        """1 to `size` bytes that are surely payload; `b""` when only the seal is left."""
        while not self._ready:
            block = self._reader.read(max(size, SEAL_BYTES))
            if not block:
                return b""
            if len(block) < SEAL_BYTES:
                block = self._held + block
            elif self._held:
                self._ready.append(memoryview(self._held))
            view = memoryview(block)
            if len(view) > SEAL_BYTES:
                self._ready.append(view[:-SEAL_BYTES])
            self._held = bytes(view[-SEAL_BYTES:])
        head = self._ready.popleft()
        if len(head) > size:
            self._ready.appendleft(head[size:])
        return bytes(head[:size])

    def _compare(self) -> None:
        rest = b"".join(self._ready) + self._held
        while len(rest) <= SEAL_BYTES and (block := self._reader.read(SEAL_BYTES + 1)):
            rest += block
        self._ready.clear()
        self._held = rest
        if len(rest) < SEAL_BYTES:
            raise TruncatedBody
        state = rest[:1]
        short = self._length is not None and self.forwarded.count != self._length
        if rest != self.forwarded.seal(state) or state not in (COMPLETE, BROKEN) or (state == COMPLETE and short):
            self._differs()
            raise ForwardedDiffers
        self.forwarded.confirmed, self._state = True, state


class SizedUnsealed(Unsealed):
    def __len__(self) -> int:
        assert self._length is not None
        return self._length - self.forwarded.count


def unsealed(reader: Reader, header: str, differs: Callable[[], object]) -> Unsealed:
    """The reader of a sealed body's payload; `differs` is called before `ForwardedDiffers` is raised.

    Raises `InvalidRequest` for a header that says neither a length nor `*`.
    """
    if header == _UNKNOWN:
        return Unsealed(reader, None, differs)
    if not header.isascii() or not header.isdigit() or len(header) > 19:
        raise InvalidRequest("X-Depot-Sealed must be a length in bytes, or *.")
    return SizedUnsealed(reader, int(header), differs)


def forwarded_of(reader: object) -> Forwarded | None:
    """What a reader knows of the other tier's seal; None where there was none."""
    found = getattr(reader, "forwarded", None)
    return found if isinstance(found, Forwarded) else None
