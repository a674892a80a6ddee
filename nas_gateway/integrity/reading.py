"""Reading a stored object and comparing it, block by block: pure of tables and of the ledger, it only finds.

Memory: one block (1 MiB) and the file's digests (some hundred bytes a range). Used by `checker` only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from chalicelib.errors import FileMissing, TruncatedBody
from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.base import ByteRange, Download, ObjectInfo, Storage
from nas_gateway.integrity import known as basis
from nas_gateway.integrity.known import Known, Range


class Reason(StrEnum):
    """Why a file counts as damaged. The metric's label and the ledger's `reason`."""

    MISSING = "missing"
    SIZE = "size"
    DIGEST = "digest"  # of the whole file; or, where none was ever known, the store's ETag
    PARTS = "parts"


class OutOfTime(Exception):
    """Raised by `tick` to end the reading between two blocks."""


class Unsettled(Exception):
    """The object changed while it was read: what was found is true of neither the old nor the new."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where an earlier call stopped: the first `offset` bytes of the object `object` were right."""

    offset: int
    object: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of it. Without `finished`, `offset` and `object` are where the next call may go on.

    `sha256` (hex) is there when every byte passed in this call; `made` are ranges whose digests nobody had before, and
    `by_store` says that the store's own digests of the parts were right.
    """

    finished: bool
    reason: Reason | None = None
    sha256: str | None = None
    offset: int = 0
    object: str = ""
    made: tuple[Range, ...] = ()
    by_store: bool = False


def read(storage: Storage, path: str, known: Known, start: Start | None, tick: Callable[[int], None]) -> Reading:
    """Read the object at `path` and compare it with `known`. `tick` hears of every block and may raise `OutOfTime`.

    Raises `Unsettled`, and what the driver raises; neither says anything about the file.
    """
    try:
        download = _open(storage, path, start if start and known.goes_on_at(start.offset) else None)
    except FileMissing:
        if storage.exists(path):
            raise Unsettled from None
        return Reading(True, Reason.MISSING)
    with download:
        found = _Pass(download, known, tick).run()
    if found.finished:
        try:
            now = storage.get_metadata(path)
        except FileMissing:
            raise Unsettled from None
        # The bytes may be partly the old object's and partly the new one's, or all the old one's.
        if _object(now) != _object(download.info):
            raise Unsettled
    return found


def _open(storage: Storage, path: str, start: Start | None) -> Download:
    if start is not None and _object(storage.get_metadata(path)) == start.object:
        download = storage.open(path, ByteRange(start.offset, None))
        if _object(download.info) == start.object:
            return download
        download.close()
    return storage.open(path)


def _object(info: ObjectInfo) -> str:
    """What tells one object at a path from the next."""
    return f"{info.etag} {info.modified_at.timestamp()}"


class _Pass:
    def __init__(self, download: Download, known: Known, tick: Callable[[int], None]) -> None:
        self._download, self._known, self._tick = download, known, tick
        # Ranges prove all there is to prove; the whole is computed besides only where nobody knows it yet.
        needed = not known.ranges or known.sha256 is None
        self._whole = hashlib.sha256() if needed and not download.start else None
        self._offset = download.start
        # What an earlier call found to be right is right still: the object is the same one.
        before = known.begun if download.start and known.etags else ()
        self._made = list(before)
        self._etags = [etag for _, etag in known.etags][len(before) :]
        self._same, self._other = len(before), 0

    def run(self) -> Reading:
        known, info = self._known, self._download.info
        if info.size != known.size:
            return Reading(True, Reason.SIZE)
        try:
            if not all(self._right(part) for part in self._cut()):
                return Reading(True, Reason.PARTS)
        except OutOfTime:
            if self._same and self._other:
                return Reading(True, Reason.PARTS)
            if known.ranges or (self._same and self._made):
                return Reading(False, offset=self._offset, object=_object(info), made=tuple(self._made))
            return Reading(False)
        sha256 = self._whole.hexdigest() if self._whole else None
        if sha256 and known.sha256 and sha256 != known.sha256:
            return Reading(True, Reason.DIGEST)
        # One that is an MD5 shows that all are (no other digest is equal to it by chance): then a part that differs is damaged.
        if self._same and self._other:
            return Reading(True, Reason.PARTS)
        if not known.sha256 and not known.ranges and not self._same and known.etag != info.etag:
            return Reading(True, Reason.DIGEST)
        return Reading(True, sha256=sha256, made=tuple(self._made), by_store=bool(self._same))

    def _cut(self) -> list[Range]:
        """What is still to be read, in order; ranges that nobody knows the digest of have none."""
        known = self._known
        if known.ranges:
            return [item for item in known.ranges if item.offset >= self._download.start]
        sizes = [size for size, _ in known.etags]
        if not sizes:
            cut = basis.RANGE_BYTES
            sizes = [min(cut, known.size - offset) for offset in range(0, known.size, cut)]
        whole = [Range(end - size, size, "") for end, size in zip(accumulate(sizes), sizes, strict=True)]
        return [item for item in whole if item.offset >= self._download.start]

    def _right(self, item: Range) -> bool:
        one = item.size == self._known.size and not item.sha256  # the whole is all that there is to compute
        part, left = None if one else hashlib.sha256(), item.size
        etag = self._etags.pop(0) if self._etags else ""
        md5 = hashlib.md5(usedforsecurity=False) if etag else None  # to find rot: it guards against no forger
        while left:
            block = self._download.read(min(BLOCK_BYTES, left))
            if not block:
                raise TruncatedBody
            left -= len(block)
            if part is not None:
                part.update(block)
            if self._whole is not None:
                self._whole.update(block)
            if md5 is not None:
                md5.update(block)
            self._tick(len(block))
        if md5 is not None:
            self._same += md5.hexdigest() == etag
            self._other += md5.hexdigest() != etag
        if part is None:
            return True
        if item.sha256 and part.hexdigest() != item.sha256:
            return False
        if not item.sha256:
            self._made.append(Range(item.offset, item.size, part.hexdigest()))
        self._offset = item.offset + item.size
        return True
