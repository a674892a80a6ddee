"""Uploads in parts on a local disk: written in place at their offsets into one staged file. Used by the local driver only.

`.depot-stage/up-HANDLE/` holds `data` (the file to be), `about` (path and metadata) and, for every acknowledged part, an
empty file `p-NUMBER-OFFSET-SIZE-SHA256`: making a name is atomic on every file system, so no record is ever half written.
A part is acknowledged after its bytes and then its record are fsynced. Completing renames `data`: nothing is copied.
Raises `OSError` besides Depot's errors.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from chalicelib.errors import LeaseLost, ObjectCorrupt, StorageUnavailable, UploadLost, UploadStateConflict
from chalicelib.storage.base import OpenUpload, Part
from nas_gateway.drivers.common import WRONG_PARTS, check_part
from nas_gateway.drivers.local_meta import Meta
from nas_gateway.drivers.local_stage import Stage

_HANDLE = re.compile(r"[0-9a-f]{32}")
_RECORD = re.compile(r"p-(\d{5})-(\d+)-(\d+)-([0-9a-f]{64})")
_DATA, _ABOUT = "data", "about"
# Two writes of one part exclude each other, across threads and processes; different parts hardly ever share a lock.
_LOCKS = 64
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalParts:
    """The uploads of one staging area."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def create(self, path: str, meta: Meta) -> str:
        handle = uuid.uuid4().hex
        about = {"path": path, "type": meta.content_type, "meta": dict(meta.metadata)}
        with self._stage.folder() as stage:
            os.mkdir(f"up-{handle}", 0o770, dir_fd=stage)
            with self._folder(handle) as folder:
                for name, body in ((_DATA, b""), (_ABOUT, json.dumps(about).encode())):
                    descriptor = os.open(name, _OPEN | os.O_CREAT, 0o660, dir_fd=folder)
                    try:
                        os.write(descriptor, body)
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                os.fsync(folder)
            os.fsync(stage)
        return handle

    def write(self, path: str, handle: str, number: int, offset: int, data: bytes | bytearray | memoryview) -> Part:
        check_part(number, offset)
        view = memoryview(data).cast("B")
        digest = hashlib.sha256(view).hexdigest()
        record = f"p-{number:05d}-{offset}-{len(view)}-{digest}"
        with self._upload(path, handle) as folder, _lost_if_gone():
            with (
                _locked(folder, f"lock-{number % _LOCKS}", fcntl.LOCK_EX, os.O_CREAT),
                _locked(folder, f"lock-at-{offset % (_LOCKS - 1)}", fcntl.LOCK_EX, os.O_CREAT),
            ):
                # A writer that lost its lease may still be at the place that its successor has written by now (under the
                # next number); its bytes must not land on acknowledged ones. Both begin at the same offset.
                if any(part.number > number and _overlap(part, offset, len(view)) for _, part in _records(folder)):
                    raise LeaseLost
                # Shared among writers; completing takes it alone, so no write can reach a file that is already visible.
                with _locked(folder, _DATA, fcntl.LOCK_SH) as descriptor:
                    older = [name for name, part in _records(folder) if part.number == number and name != record]
                    for name in older:
                        os.unlink(name, dir_fd=folder)
                    if older:
                        os.fsync(folder)  # a crash while the bytes are replaced must not leave the old record
                    _write_at(descriptor, view, offset)
                    os.fdatasync(descriptor)
                    os.close(os.open(record, _OPEN | os.O_CREAT, 0o660, dir_fd=folder))
                    os.fsync(folder)
        return Part(number, offset, len(view), digest[:32], digest)

    def listed(self, path: str, handle: str) -> list[tuple[int, int]]:
        with self._upload(path, handle) as folder, _lost_if_gone():
            os.stat(_DATA, dir_fd=folder)
            return sorted((part.number, part.size) for _, part in _records(folder))

    def complete(
        self, path: str, handle: str, ordered: Sequence[Part], sha256: str | None
    ) -> tuple[os.stat_result, Meta]:
        with self._upload(path, handle) as folder, _lost_if_gone():
            with _locked(folder, _DATA, fcntl.LOCK_EX) as descriptor:
                held = {part.number: part for _, part in _records(folder)}
                for part in ordered:
                    kept = held.get(part.number)
                    if kept is None or (kept.offset, kept.size, kept.etag) != (part.offset, part.size, part.etag):
                        raise UploadStateConflict(WRONG_PARTS)
                size = sum(part.size for part in ordered)
                if os.fstat(descriptor).st_size < size:
                    raise ObjectCorrupt
                # A last part that was written again and shorter, or parts that are not part of the file after all.
                os.ftruncate(descriptor, size)
                about = _about(folder)
                meta = Meta(about["type"], sha256, about["meta"])
                found = self._stage.publish(descriptor, folder, _DATA, path, meta)
        self._remove(handle)
        return found, meta

    def abort(self, path: str, handle: str) -> None:
        # A handle of another path is left alone; one whose `about` was never written, or is gone, is cleared away.
        with suppress(UploadLost, FileNotFoundError), self._folder(handle) as folder:
            with suppress(FileNotFoundError):
                if _about(folder)["path"] != path:
                    return
            self._remove(handle)

    def open_uploads(self) -> Iterator[OpenUpload]:
        with self._stage.folder() as stage:
            handles = [name.removeprefix("up-") for name in os.listdir(stage) if name.startswith("up-")]
        for handle in handles:
            with suppress(UploadLost, FileNotFoundError), self._folder(handle) as folder:
                path = ""
                with suppress(FileNotFoundError):
                    path = _about(folder)["path"]
                started = datetime.fromtimestamp(os.fstat(folder).st_mtime, UTC)
                yield OpenUpload(path, handle, started)

    # --- one upload's folder ---------------------------------------------------------------------------------

    @contextmanager
    def _folder(self, handle: str) -> Iterator[int]:
        if not _HANDLE.fullmatch(handle):
            raise UploadLost  # also keeps a handle from naming anything else
        with self._stage.folder(f"up-{handle}") as folder:
            yield folder

    @contextmanager
    def _upload(self, path: str, handle: str) -> Iterator[int]:
        with _lost_if_gone():
            with self._folder(handle) as folder:
                if _about(folder)["path"] != path:
                    raise UploadLost
                yield folder

    def _remove(self, handle: str) -> None:
        """Remove the folder and all that is in it. `data` goes first: without it the upload is over."""
        for _ in range(_LOCKS):
            with suppress(FileNotFoundError), self._stage.folder() as stage:
                with self._folder(handle) as folder:
                    for name in sorted(os.listdir(folder), key=lambda name: name != _DATA):
                        with suppress(FileNotFoundError):
                            os.unlink(name, dir_fd=folder)
                try:
                    os.rmdir(f"up-{handle}", dir_fd=stage)
                except OSError:
                    continue  # a writer that was under way put its record there
                os.fsync(stage)
            return
        raise StorageUnavailable


@contextmanager
def _lost_if_gone() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UploadLost from None


@contextmanager
def _locked(folder: int, name: str, mode: int, flags: int = 0) -> Iterator[int]:
    """An open, locked file. Raises `FileNotFoundError` if it was renamed or removed while waiting for the lock."""
    descriptor = os.open(name, _OPEN | flags, 0o660, dir_fd=folder)
    try:
        fcntl.flock(descriptor, mode)
        if not os.path.samestat(os.stat(name, dir_fd=folder), os.fstat(descriptor)):
            raise FileNotFoundError
        yield descriptor
    finally:
        os.close(descriptor)


def _overlap(part: Part, offset: int, size: int) -> bool:
    return part.offset < offset + size and offset < part.offset + part.size


def _records(folder: int) -> Iterator[tuple[str, Part]]:
    for name in os.listdir(folder):
        if match := _RECORD.fullmatch(name):
            number, offset, size, digest = match.groups()
            yield name, Part(int(number), int(offset), int(size), digest[:32], digest)


def _about(folder: int) -> dict[str, Any]:
    descriptor = os.open(_ABOUT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        about: dict[str, Any] = json.loads(os.read(descriptor, 1 << 16))
        return about
    except ValueError:
        raise FileNotFoundError from None  # a crash cut it short: the upload was never acknowledged
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
