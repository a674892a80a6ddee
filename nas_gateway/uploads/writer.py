"""One body becomes acknowledged parts and tails: the way of a chunk of any size into a session.

The order never changes: bytes durable on the NAS -> row and offset by one conditional write -> tails that are in a part
now deleted -> told to the client. Where the length of the file is known, parts are written while the next is read; they
are acknowledged in order all the same. Used by `service` and `concatenation` only.

Memory: `PARTS_IN_FLIGHT` parts a body (a body that fits one part: its own size).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from chalicelib.errors import ForwardedDiffers, LengthMismatch, PayloadTooLarge
from chalicelib.limits import BLOCK_BYTES, MAX_PARTS, grown_part_bytes
from chalicelib.storage.base import Part, PartStorage, Reader
from chalicelib.storage.seal import Forwarded, forwarded_of
from chalicelib.storage.streams import length_of
from nas_gateway.files.tables import State
from nas_gateway.uploads import rows
from nas_gateway.uploads.hashes import RunningHashes
from nas_gateway.uploads.rows import Tail
from nas_gateway.uploads.tables import UploadSession
from nas_gateway.uploads.tails import Tails

# Two on their way while the next is read.
PARTS_IN_FLIGHT = 3
# So many tails are merged into one, so that the session's row stays small however small the chunks are.
MAX_TAILS = 16
# Below this number parts of an unknown length have their first size, so short ones cost nothing (`grown_part_bytes`).
_PLENTY = 1000

Acknowledge = Callable[..., None]


class Writer:
    """Writes one body into a session that is leased. `acknowledge` is `rows.advance` with clock and lease."""

    def __init__(
        self,
        session: UploadSession,
        storage: PartStorage,
        tails: Tails,
        hashes: RunningHashes,
        acknowledge: Acknowledge,
        max_bytes: int,
    ) -> None:
        self._session, self._storage, self._tails, self._hashes = session, storage, tails, hashes
        self._acknowledge, self._max_bytes = acknowledge, max_bytes
        # Put back when all of it is acknowledged: the digest of bytes that were not must never be taken for the file's.
        self._digest = hashes.take(session.upload_id, int(session.offset))
        self._size = rows.size_of(session)
        self._end = int(session.offset)  # what has been read, acknowledged or not
        self._before = int(session.forwarded or 0)
        self._forwarded: Forwarded | None = None
        self._hashed = False  # `_digest` is kept by the reader
        self._held: list[Tail] = rows.tails(session)
        self._parted = self._end - sum(size for _, size, _ in self._held)  # what is in parts, acknowledged or not
        skipped = PARTS_IN_FLIGHT * rows.unclean_epochs(session) if storage.renumber_after_loss else 0
        self._number = int(session.parts) + 1 + skipped
        # Without a length, a part that a crash left unacknowledged might never be written again, and a store may refuse
        # to complete an upload that holds a part nobody names (ADR 5): then one part at a time.
        self._depth = 1 if self._size is None else PARTS_IN_FLIGHT
        self._flying: deque[tuple[Future[Part], list[Tail], bytearray]] = deque()
        self._spare: bytearray | None = None
        self._pool: ThreadPoolExecutor | None = None

    def write(self, body: Reader, *, finish: bool) -> None:
        """Take the body in. What arrived before it broke is acknowledged; then its error is raised.

        At the announced size, with `finish`, the session is `COMPLETING` afterwards and still leased; otherwise it has been
        let go of.
        Raises `LengthMismatch`, `PayloadTooLarge`, `LeaseLost`, and what the store raises: then the offset stays where it
        was acknowledged last.
        """
        length = length_of(body)
        self._forwarded = forwarded_of(body)
        if self._forwarded is not None and self._end == 0:
            # The reader hashes this body anyway, and this body is all there is of the file so far.
            self._digest, self._hashed = self._forwarded.digest, True
        if self._size is not None and length is not None and self._end + length > self._size:
            raise LengthMismatch("More bytes were sent than the size that was announced. Nothing of them was kept.")
        try:
            broken = self._take_in(body, length, finish)
        finally:
            self._stop()
        self._hashes.put(self._session.upload_id, self._end, self._digest)
        if broken is not None:
            raise broken

    def _confirmed(self) -> tuple[int, str | None] | None:
        """What the web tier has confirmed of the session, this body included once its seal was seen."""
        seen = self._forwarded
        if seen is None:
            return None
        whole = self._size is not None and seen.confirmed and seen.count == self._size
        return self._before + seen.count * seen.confirmed, seen.digest.hexdigest() if whole else None

    def _take_in(self, body: Reader, length: int | None, finish: bool) -> BaseException | None:
        while True:
            held = sum(size for _, size, _ in self._held)
            room = self._part_bytes() - held
            if self._size is not None:
                room = min(room, self._size - self._end)
            want = room if length is None else min(room, length)
            buffer = self._buffer(held + max(0, want))
            count, broken = fill(body, memoryview(buffer)[held:], self._seen)
            if isinstance(broken, ForwardedDiffers):
                raise broken  # of this body nothing counts, not even what has been acknowledged
            length = None if length is None else length - count
            self._end += count
            closing = self._size is not None and self._end == self._size
            if closing and broken is None and length != 0 and body.read(1):
                raise LengthMismatch("More bytes arrived than the size that was announced. The last were not kept.")
            if self._end > self._max_bytes:
                raise PayloadTooLarge(f"The largest file taken here is {self._max_bytes} bytes.")
            last = broken is not None or closing or count < want or length == 0
            self._keep(buffer, held, count, last=last, closing=closing)
            if last:
                self._collect(0, last=True, closing=closing and finish)
                return broken

    def _seen(self, piece: memoryview) -> None:
        """Hashed while it is in the processor's cache."""
        if self._digest is not None and not self._hashed:
            self._digest.update(piece)

    def _buffer(self, size: int) -> bytearray:
        """A buffer, one that a part has left if there is any: fresh memory costs a page fault for every 4 KiB."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and len(spare) == size else bytearray(size)

    def _part_bytes(self) -> int:
        """Of the next part: growing where the length is not known; where it is, larger only if the numbers run out."""
        first = int(self._session.part_bytes)
        if self._size is None:
            return grown_part_bytes(self._number, first)
        return max(first, -(-(self._size - self._parted) // max(1, MAX_PARTS + 1 - self._number)))

    # --- where the bytes go ----------------------------------------------------------------------------------------

    def _keep(self, buffer: bytearray, held: int, count: int, *, last: bool, closing: bool) -> None:
        total = held + count
        full = not last or total >= self._part_bytes()
        if total and (full or closing or (count and self._may_be_short(total))):
            if held:
                buffer[:held] = b"".join(self._tails.fetch(self._session.upload_id, self._held))
            body = buffer if total == len(buffer) else buffer[:total]
            self._send(body, self._end - total, inline=last and not self._flying)
        elif count:
            self._collect(0)
            self._add_tail(bytes(memoryview(buffer)[held:total]), self._end - count)

    def _may_be_short(self, total: int) -> bool:
        """Whether this much may be a part of its own: large enough for the store, and the numbers will still suffice."""
        if total < self._storage.min_part_bytes:
            return False
        if self._size is None:
            return self._number < _PLENTY
        return self._number + -(-(self._size - self._end) // int(self._session.part_bytes)) <= MAX_PARTS

    def _send(self, body: bytearray, offset: int, *, inline: bool) -> None:
        if self._number > MAX_PARTS:
            raise PayloadTooLarge("The storage takes no file of this size.")
        arguments = (self._session.path, str(self._session.handle), self._number, offset, body)
        future: Future[Part]
        if inline or self._depth == 1:
            future = Future()
            future.set_result(self._storage.write_part(*arguments))
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._depth, thread_name_prefix="upload-part")
            future = self._pool.submit(self._storage.write_part, *arguments)
        self._flying.append((future, self._held, body))
        self._number, self._held, self._parted = self._number + 1, [], offset + len(body)
        if not inline:
            self._collect(self._depth - 1)

    def _add_tail(self, data: bytes, offset: int) -> None:
        merged: list[Tail] = []
        if len(self._held) >= MAX_TAILS:
            merged, offset = self._held, self._held[0][0]
            data = b"".join([*self._tails.fetch(self._session.upload_id, merged), data])
        self._held = [*([] if merged else self._held), self._tails.put(self._session.upload_id, offset, data)]
        self._acknowledge(offset=self._end, tails=self._held, release=True, forwarded=self._confirmed())
        self._tails.drop(self._session.upload_id, merged)

    # --- acknowledging ---------------------------------------------------------------------------------------------

    def _collect(self, at_most: int, *, last: bool = False, closing: bool = False) -> None:
        """Acknowledge, in order, what is durable, until at most so many parts are in flight."""
        while len(self._flying) > at_most:
            done: list[Part] = []
            dropped: list[Tail] = []
            failure: BaseException | None = None
            while self._flying and (len(self._flying) > at_most or self._flying[0][0].done()):
                future, tails, self._spare = self._flying.popleft()
                failure = future.exception()
                if failure is not None:
                    break
                done.append(future.result())
                dropped += tails
            if done:
                final = last and failure is None and not self._flying
                self._acknowledge_parts(done, release=final and not closing, closing=final and closing)
                self._tails.drop(self._session.upload_id, dropped)
            if failure is not None:
                raise failure
        if last and closing and self._session.state == State.OPEN:  # the last byte had been acknowledged before
            rows.completing(self._session)

    def _acknowledge_parts(self, done: Sequence[Part], *, release: bool, closing: bool) -> None:
        state = State.COMPLETING if closing else None
        offset = done[-1].offset + done[-1].size
        self._acknowledge(offset=offset, new=done, release=release, state=state, forwarded=self._confirmed())

    def _stop(self) -> None:
        """No part may still be on its way when the session is let go: the next writer uses the same numbers."""
        wait([future for future, _, _ in self._flying])
        if self._pool is not None:
            self._pool.shutdown()


def fill(body: Reader, into: memoryview, on_block: Callable[[memoryview], None]) -> tuple[int, BaseException | None]:
    """Read until `into` is full or the body ends or breaks: the bytes read, and what it broke with."""
    count = 0
    while count < len(into):
        try:
            block = body.read(min(BLOCK_BYTES, len(into) - count))
        except Exception as error:  # noqa: BLE001 -- whatever broke it, what came before is kept; it is raised later
            return count, error
        if not block:
            break
        piece = into[count : count + len(block)]
        piece[:] = block
        on_block(piece)
        count += len(block)
    return count, None
