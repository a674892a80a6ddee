"""One file's download: into `NAME.part` beside its place, resumed by ranges, compared, and only then given its name."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import requests
from urllib3.exceptions import HTTPError

from chalicelib.cli.client import failures
from chalicelib.cli.client.failures import Failure, Stopped
from chalicelib.cli.client.jobs import Stop
from chalicelib.cli.client.names import PART_SUFFIX, size_text
from chalicelib.cli.client.place import commit, open_part, write_all
from chalicelib.cli.client.progress import Display, Part, Task
from chalicelib.cli.client.retry import NewRetry, Retry
from chalicelib.cli.client.server import Server
from chalicelib.cli.client.source import RunningHash, SourceFile
from chalicelib.cli.client.state import ResumeStore, key_of
from chalicelib.limits import BLOCK_BYTES, LAMBDA_CHUNK_BYTES

_FILE_ID = re.compile(r"[0-9a-f]{32}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Description:
    """What the server says of a file. `sha256` is None while it has not seen the whole file in one piece."""

    file_id: str
    filename: str
    size: int
    sha256: str | None
    etag: str

    @classmethod
    def of(cls, file_id: str, values: Mapping[str, Any]) -> Description:
        """Raises `Failure` for what is no description."""
        size, sha256, etag = values.get("size"), values.get("sha256"), values.get("etag")
        if not isinstance(size, int) or size < 0:
            raise Failure("bad_answer", "The server's description of the file is not of Depot's form.")
        sha256 = sha256.lower() if isinstance(sha256, str) and sha256 else None
        return cls(file_id, str(values.get("filename") or ""), size, sha256, f'"{sha256 or etag}"')


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that is there. `compared`: the server knew a SHA-256, and it is this one; `already`: it was there before."""

    file_id: str
    path: Path
    size: int
    sha256: str
    compared: bool
    already: bool = False


class Downloader:
    """Downloads from one server. `piece_bytes` is the most that is asked for at once, None without a ceiling. Thread-safe."""

    def __init__(
        self,
        server: Server,
        store: ResumeStore,
        display: Display,
        *,
        stop: Stop,
        new_retry: NewRetry,
        piece_bytes: int | None,
        force: bool = False,
    ) -> None:
        self._server, self._store, self._display = server, store, display
        self._stop, self._new_retry = stop, new_retry
        self._piece_bytes, self._force = piece_bytes, force

    def describe(self, file_id: str, retry: Retry) -> Description:
        """Raises `Failure`."""
        if not _FILE_ID.fullmatch(file_id):
            raise Failure("file_not_found", "A file id is 32 hexadecimal digits, as the receipt shows it.")
        while True:
            try:
                return Description.of(file_id, self._server.json("GET", f"/files/{file_id}"))
            except Failure as failure:
                retry.failed(failure)

    def download(self, file: Description, path: Path) -> Downloaded:
        """Raises `Failure` and `OSError`; what has arrived is then in `{path}.part` for the next call."""
        if not self._force and os.path.lexists(path):
            if not self._same(path, file):
                raise _exists()
            return Downloaded(file.file_id, path, file.size, str(file.sha256), True, True)
        part = path.with_name(path.name + PART_SUFFIX)
        key = key_of("download", self._server.url, file.file_id, str(part.absolute()))
        with Task(self._display, str(path), file.size) as task, open_part(part) as out:
            position = task.part()
            digest, at = self._prefix(out, key, file, task)
            self._store.put(key, {"etag": file.etag, "size": file.size})
            position.to(at)
            at = self._fetch(file, out, digest, at, task, position)
            sha256 = digest.hexdigest()
            if file.sha256 is not None and sha256 != file.sha256:
                # Nothing in it can be trusted: the next run must begin anew.
                out.truncate(0)
                raise Failure("digest_mismatch", "What arrived has another SHA-256 than the server's. Try again.")
            out.flush()
            os.fsync(out.fileno())
            if not commit(part, path, replace=self._force):
                raise _exists()
        self._store.forget(key)
        return Downloaded(file.file_id, path, file.size, sha256, file.sha256 is not None)

    def _same(self, path: Path, file: Description) -> bool:
        """Whether an earlier run has brought the file: a repeated command does not fail for what it has done."""
        if file.sha256 is None or not path.is_file() or path.stat().st_size != file.size:
            return False
        return RunningHash().finish(SourceFile(path), self._stop) == file.sha256

    def _prefix(self, out: BinaryIO, key: str, file: Description, task: Task) -> tuple[Any, int]:
        """The digest and the length of what an earlier run left, if it is of this version of this file."""
        digest, at = hashlib.sha256(), 0
        there = os.fstat(out.fileno()).st_size
        entry = self._store.get(key) or {}
        if there and not entry and not self._force:
            raise Failure(
                "target_busy", f"There is a {PART_SUFFIX} file that is not known here: delete it, or --force."
            )
        if there and (entry.get("etag") != file.etag or there > file.size):
            task.notice("what an earlier run left is not of this file; beginning anew")
            out.truncate(0)
            there = 0
        out.seek(0)
        while at < there:
            if self._stop.is_set():
                raise Stopped
            block = out.read(BLOCK_BYTES)
            if not block:
                break
            digest.update(block)
            at += len(block)
        if at:
            task.notice(f"going on at {size_text(at)} of {size_text(file.size)}")
        return digest, at

    # --- bytes -----------------------------------------------------------------------------------------------

    def _fetch(self, file: Description, out: BinaryIO, digest: Any, at: int, task: Task, position: Part) -> int:
        """Append to `out` from `at` up to the file's size."""
        retry = self._new_retry(task.notice)
        while at < file.size:
            if self._stop.is_set():
                raise Stopped
            before = at
            try:
                with self._open(file, at) as answer:
                    for block in _blocks(answer, self._wanted(file, at)):
                        if self._stop.is_set():
                            raise Stopped
                        write_all(out, block)
                        digest.update(block)
                        at += len(block)
                        position.moved(len(block))
            except Failure as failure:
                if failure.status == 413 and self._shrink():
                    continue
                if at > before:
                    retry.progress()
                retry.failed(failure)
            else:
                retry.progress()
        return at

    def _wanted(self, file: Description, at: int) -> int:
        left = file.size - at
        return left if self._piece_bytes is None else min(left, self._piece_bytes)

    def _open(self, file: Description, at: int) -> requests.Response:
        """An answer whose body is exactly what is wanted from `at`. Raises `Failure`."""
        wanted = self._wanted(file, at)
        headers = {}
        if at or wanted < file.size:
            # Of another version of the file the server sends everything (200): refused below.
            headers = {"Range": f"bytes={at}-{at + wanted - 1}", "If-Range": file.etag}
        path = f"/files/{file.file_id}/content"
        answer = self._server.call("GET", path, headers=headers, stream=True, accept=(307, 416))
        if answer.status_code == 307:
            answer.close()
            headers.pop("If-Range", None)  # the store has entity tags of its own; the SHA-256 decides at the end
            answer = self._server.elsewhere(answer.headers.get("Location", ""), headers)
        try:
            self._check(answer, file, at, wanted, ranged="Range" in headers)
        except Failure:
            answer.close()
            raise
        return answer

    @staticmethod
    def _check(answer: requests.Response, file: Description, at: int, wanted: int, *, ranged: bool) -> None:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Failure("bad_answer", "Something in between re-encoded the file. Ask for a direct connection.")
        changed = Failure("file_changed", "The file on the server changed meanwhile. Try again.")
        if ranged:
            told = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if told is None or [int(group) for group in told.groups()] != [at, at + wanted - 1, file.size]:
                raise changed
        elif answer.headers.get("Content-Length", str(file.size)) != str(file.size):
            raise changed

    def _shrink(self) -> bool:
        """The host cannot answer with so much at once (API Gateway): the piece that any host can."""
        if self._piece_bytes is not None and self._piece_bytes <= LAMBDA_CHUNK_BYTES:
            return False
        self._piece_bytes = LAMBDA_CHUNK_BYTES
        return True


def _blocks(answer: requests.Response, wanted: int) -> Iterator[bytes]:
    """The body as blocks, exactly `wanted` bytes of it; a short or long one raises `Failure`, after what was good."""
    count = 0
    try:
        for block in answer.raw.stream(BLOCK_BYTES, decode_content=False):
            count += len(block)
            if count > wanted:
                raise Failure("bad_answer", "The server sent more than it was asked for.")
            yield block
    except (requests.RequestException, HTTPError, OSError) as error:
        raise failures.of_break(error) from error
    if count < wanted:
        raise failures.of_break(EOFError())


def _exists() -> Failure:
    return Failure("target_exists", "There is a file of that name already. Use another (-o), or --force to replace it.")
