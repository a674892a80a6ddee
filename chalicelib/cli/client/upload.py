"""One file's upload from begin to receipt, across breaks and across runs.

What was begun is found again in two ways: by the state that an earlier run left, and, should that be lost, by an
Idempotency-Key made from what the file is and where it goes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from chalicelib.cli.client.failures import Failure, Gone, SourceChanged
from chalicelib.cli.client.jobs import Stop, in_order
from chalicelib.cli.client.names import size_text
from chalicelib.cli.client.pieces import Piece, Sender, split
from chalicelib.cli.client.progress import Display, Task
from chalicelib.cli.client.retry import NewRetry, Retry
from chalicelib.cli.client.server import Server
from chalicelib.cli.client.source import RunningHash, SourceFile
from chalicelib.cli.client.state import ResumeStore, key_of
from chalicelib.cli.client.tus import Receipt, Tus

# How often one run begins an upload anew after the server forgot it.
STARTS = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a file goes, in the web tier's words. Empty values are not sent."""

    cohort: str
    protocol_year: str
    file_type: str
    filename: str
    purpose: str

    def metadata(self) -> dict[str, str]:
        values = {
            "cohort": self.cohort,
            "protocol_year": self.protocol_year,
            "file_type": self.file_type,
            "filename": self.filename,
            "purpose": self.purpose,
        }
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A finished upload. `sha256` is None where neither side has seen the whole file in one stream.

    `compared`: the server's digest of the whole file was there, and equal to this side's. `already`: nothing had to be sent.
    """

    receipt: Receipt
    sha256: str | None
    compared: bool
    already: bool
    resumed_at: int


@dataclass(frozen=True, slots=True)
class _Begun:
    """An upload that is under way: its pieces on the server, in order; a single one is the file itself."""

    pieces: tuple[Piece, ...]
    attempt: int
    offset: int | None  # of a single piece, where the server has just told it
    known: bool  # found in the state of an earlier run


class Uploader:
    """Uploads files to one server. `parallel_pieces` over 1 splits a file where that is worth it. Thread-safe."""

    def __init__(
        self,
        server: Server,
        store: ResumeStore,
        display: Display,
        *,
        stop: Stop,
        new_retry: NewRetry,
        chunk_bytes: int | None,
        part_bytes: int,
        parallel_pieces: int = 1,
        verify: bool = False,
    ) -> None:
        self._server, self._store, self._display = server, store, display
        self._tus = Tus(server)
        self._stop, self._new_retry, self._chunk_bytes = stop, new_retry, chunk_bytes
        self._part_bytes, self._pieces, self._verify = part_bytes, parallel_pieces, verify

    def upload(self, path: Path, target: Target) -> Uploaded:
        """Raises `Failure` and `OSError`; what was sent so far is then found by the next call."""
        source = SourceFile(path)
        key = key_of("upload", self._server.url, str(path.resolve()), *target.metadata().values())
        with Task(self._display, str(path), source.size) as task:
            metadata = target.metadata()
            if self._verify:
                metadata["sha256"] = RunningHash().finish(source, self._stop)
                source.check()
            for start in range(STARTS):
                attempt = self._attempt(key, source, metadata.get("sha256"), task)
                try:
                    return self._once(source, key, metadata, attempt, task)
                except Gone as gone:
                    self._store.put(key, {**source.identity.to_json(), "attempt": attempt + 1, "pieces": []})
                    if start + 1 == STARTS:
                        raise
                    task.notice(f"{gone.message} Beginning anew.")
                except SourceChanged:
                    self._discard(key)
                    raise
            raise AssertionError("the last start returns or raises")

    # --- what was begun before -------------------------------------------------------------------------------

    def _attempt(self, key: str, source: SourceFile, sha256: str | None, task: Task) -> int:
        """The number of this start, the same for every run until the server has forgotten one.

        An upload that no longer fits is discarded: of another state of the file, or, where the server is to compare a
        digest, one that was begun without it.
        """
        entry = self._store.get(key)
        if entry is None:
            return 0
        if any(entry.get(name) != value for name, value in source.identity.to_json().items()):
            if entry.get("pieces"):
                task.notice("the file has changed since its upload was interrupted; beginning anew")
            self._discard(key)
            return 0
        if sha256 is not None and entry.get("sha256") != sha256 and entry.get("pieces"):
            task.notice("the interrupted upload was begun without --verify; beginning anew")
            self._discard(key)
            return 0
        attempt = entry.get("attempt")
        return attempt if isinstance(attempt, int) else 0

    def _discard(self, key: str) -> None:
        """Forget an upload on both sides: on the server it would stand in the way of a new one until it expires."""
        for piece in _pieces_of(self._store.get(key)):
            with contextlib.suppress(Failure):  # it expires by itself
                self._tus.terminate(piece.upload_id)
        self._store.forget(key)

    # --- one start -------------------------------------------------------------------------------------------

    def _once(self, source: SourceFile, key: str, metadata: Mapping[str, str], attempt: int, task: Task) -> Uploaded:
        identity = "/".join(str(value) for value in source.identity.to_json().values())
        idempotency = hashlib.sha256(f"{key}/{identity}/{sorted(metadata.items())}/{attempt}".encode()).hexdigest()
        retry = self._new_retry(task.notice)
        begun = self._begin(source, key, metadata, idempotency, attempt, retry)
        running, stop = RunningHash(), self._stop.child()
        sender = Sender(self._tus, self._chunk_bytes, self._new_retry, stop)
        if len(begun.pieces) == 1:
            resumed_at = sender.send(source, begun.pieces[0], begun.offset, task, running, _resumed(task, source))
            upload_id = begun.pieces[0].upload_id
        else:
            if begun.known:
                task.notice(f"going on with {len(begun.pieces)} pieces")
            jobs = [lambda piece=piece: sender.send(source, piece, None, task, None) for piece in begun.pieces]
            resumed_at = sum(in_order(jobs, max(1, self._pieces), stop))
            source.check()
            upload_id = self._joined([piece.upload_id for piece in begun.pieces], metadata, idempotency, retry)
        receipt = self._again(lambda: self._tus.receipt(upload_id), retry)
        already = resumed_at == source.size
        if already and not begun.known:
            self._require_existing(receipt, retry)
        uploaded = self._compared(source, receipt, running, metadata.get("sha256"), already, resumed_at)
        self._store.forget(key)
        return uploaded

    def _begin(
        self, source: SourceFile, key: str, metadata: Mapping[str, str], idempotency: str, attempt: int, retry: Retry
    ) -> _Begun:
        known = _pieces_of(self._store.get(key))
        if known:
            return _Begun(known, attempt, None, True)
        ranges = split(source.size, self._pieces, self._part_bytes)
        pieces: tuple[Piece, ...]
        offset = None
        if len(ranges) == 1:
            created = self._again(lambda: self._tus.create(source.size, metadata, idempotency), retry)
            # Without an offset in its answer a creation has no bytes yet.
            pieces, offset = (Piece(created.upload_id, 0, source.size),), created.offset or 0
        else:
            pieces = tuple(self._partial(start, end, metadata, idempotency, retry) for start, end in ranges)
        entry = {"attempt": attempt, "pieces": [[piece.upload_id, piece.start, piece.end] for piece in pieces]}
        self._store.put(key, {**source.identity.to_json(), **entry, "sha256": metadata.get("sha256")})
        return _Begun(pieces, attempt, offset, False)

    def _partial(self, start: int, end: int, metadata: Mapping[str, str], idempotency: str, retry: Retry) -> Piece:
        # The name belongs to the whole; a piece is only told for what it is.
        about = {"purpose": metadata["purpose"]}
        created = self._again(
            lambda: self._tus.create(end - start, about, f"{idempotency}-{start}-{end}", partial=True), retry
        )
        return Piece(created.upload_id, start, end)

    def _joined(self, upload_ids: list[str], metadata: Mapping[str, str], idempotency: str, retry: Retry) -> str:
        """One upload from the finished pieces; its id. Raises `Gone` when a piece was cleaned up meanwhile."""
        try:
            return self._again(lambda: self._tus.concatenate(upload_ids, metadata, idempotency), retry).upload_id
        except Failure as failure:
            if failure.code in ("invalid_request", "upload_state"):
                raise Gone from failure
            raise

    def _again(self, call: Callable[[], T], retry: Retry) -> T:
        """A call that is safe to repeat, repeated."""
        while True:
            try:
                result = call()
            except Failure as failure:
                retry.failed(failure)
            else:
                retry.progress()
                return result

    def _require_existing(self, receipt: Receipt, retry: Retry) -> None:
        """An upload that was found finished may have been deleted since: then it is to be sent again. Raises `Gone`."""
        answer = self._again(lambda: self._server.call("GET", f"/files/{receipt.file_id}", accept=(404,)), retry)
        if answer.status_code == 404:
            raise Gone

    # --- the end ---------------------------------------------------------------------------------------------

    def _compared(
        self,
        source: SourceFile,
        receipt: Receipt,
        running: RunningHash,
        ours: str | None,
        already: bool,
        resumed_at: int,
    ) -> Uploaded:
        """The end of an upload; `ours` is this side's digest where it is known already. Raises `Failure`."""
        if receipt.size != source.size:
            raise Failure(
                "size_mismatch",
                f"The server has {receipt.size} bytes, the file {source.size}: delete file {receipt.file_id} there.",
            )
        try:
            if ours is None and (receipt.sha256 is not None or running.count == source.size):
                ours = running.finish(source, self._stop)
            source.check()
        except SourceChanged:
            raise SourceChanged(
                f"The file changed while its upload ended: it may not be what the server has as {receipt.file_id}."
            ) from None
        if receipt.sha256 is not None and ours != receipt.sha256:
            raise Failure(
                "digest_mismatch",
                f"The SHA-256 of the file and the server's differ: delete file {receipt.file_id} there, and try again.",
            )
        return Uploaded(receipt, ours or receipt.sha256, receipt.sha256 is not None, already, resumed_at)


def _resumed(task: Task, source: SourceFile) -> Callable[[int], None]:
    def notice(offset: int) -> None:
        if 0 < offset < source.size:
            task.notice(f"going on at {size_text(offset)} of {size_text(source.size)}")

    return notice


def _pieces_of(entry: Mapping[str, Any] | None) -> tuple[Piece, ...]:
    """The pieces in a state entry; none at all when it is not of our form."""
    pieces = []
    values = entry.get("pieces") if entry else None
    for value in values if isinstance(values, list) else []:
        match value:
            case [str(upload_id), int(start), int(end)]:
                pieces.append(Piece(upload_id, start, end))
            case _:
                return ()
    return tuple(pieces)
