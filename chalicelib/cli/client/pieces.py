"""Sending the bytes of one upload of the server's: chunk by chunk, and again from the server's offset after any break."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from chalicelib.cli.client.failures import Failure, Gone, Stopped
from chalicelib.cli.client.progress import Task
from chalicelib.cli.client.retry import NewRetry
from chalicelib.cli.client.source import RunningHash, Slice, SourceFile
from chalicelib.cli.client.tus import Tus
from chalicelib.limits import LAMBDA_CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `end` of a file, and the upload that they go to."""

    upload_id: str
    start: int
    end: int


def split(size: int, count: int, align: int) -> list[tuple[int, int]]:
    """At most `count` ranges of nearly one size that cover a file; borders on multiples of `align`, none smaller than it.

    >>> split(100, 3, 10), split(15, 4, 10)
    ([(0, 30), (30, 60), (60, 100)], [(0, 15)])
    """
    units = size // align
    count = max(1, min(count, units))
    borders = [units * index // count * align for index in range(count)]
    return list(zip(borders, [*borders[1:], size], strict=True))


class Sender:
    """Sends pieces. `chunk_bytes` is the most that goes in one request, None without a ceiling. Thread-safe."""

    def __init__(self, tus: Tus, chunk_bytes: int | None, new_retry: NewRetry, stop: threading.Event) -> None:
        self._tus, self._chunk, self._new_retry, self._stop = tus, chunk_bytes, new_retry, stop

    def send(
        self,
        source: SourceFile,
        piece: Piece,
        offset: int | None,
        task: Task,
        running: RunningHash | None,
        on_start: Callable[[int], None] = lambda offset: None,
    ) -> int:
        """Send what the server lacks; the offset that it had at the start, which `on_start` hears of before.

        `offset` None: ask the server first. `running` is fed with what passes, where this is the whole file.
        Raises `Gone`, `SourceChanged`, `Stopped`, `OSError` of the source, and the `Failure` that trying again did not cure.
        """
        length, retry = piece.end - piece.start, self._new_retry(task.notice)
        at = task.part()
        first: int | None = None
        broken: Failure | None = None
        reached = 0
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                if offset is None:
                    offset = self._tus.offset(piece.upload_id)
                if offset > length:
                    # Not ours, whatever it is: sending more would make it worse.
                    raise Failure("offset_conflict", "The server holds more of this upload than the file has.")
                at.to(offset)
                if first is None:
                    first = offset
                    on_start(first)
                if offset > reached:
                    reached = offset
                    retry.progress()
                if offset == length:
                    return first
                offset = self._append(source, piece, offset, at.moved, running)
            except Gone as gone:
                if broken is not None:  # most likely why it is gone
                    gone.message += f" Before that: {broken.message}"
                raise
            except Failure as failure:
                offset, broken = None, failure
                if failure.status == 413 and self._shrink():
                    continue
                if failure.status == 409 and failure.code in ("offset_conflict", "http_409"):
                    failure.retryable = True  # our idea of the offset was wrong: ask, and go on
                retry.failed(failure)

    def _append(
        self, source: SourceFile, piece: Piece, offset: int, moved: Callable[[int], None], running: RunningHash | None
    ) -> int:
        start = piece.start + offset
        end = piece.end if self._chunk is None else min(piece.end, start + self._chunk)
        body = Slice(source, start, end, running=running, moved=moved, stop=self._stop)
        try:
            return self._tus.append(piece.upload_id, offset, body)
        finally:
            body.close()

    def _shrink(self) -> bool:
        """A proxy in between takes less than the server said: the smallest chunk that any host of Depot's takes."""
        if self._chunk is not None and self._chunk <= LAMBDA_CHUNK_BYTES:
            return False
        self._chunk = LAMBDA_CHUNK_BYTES
        return True
