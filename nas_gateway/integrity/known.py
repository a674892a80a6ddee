"""What is known of a stored file's bytes, and where it is kept: the basis that a check compares with.

In this order of preference, by range: the ranges that an earlier check kept (`FileDigests`); the parts of the upload
session; else the whole file's SHA-256. A file that went straight to the store has none of them before its first check.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pynamodb.exceptions import PynamoDBException

from chalicelib.errors import LedgerUnavailable
from chalicelib.limits import MIB
from nas_gateway.files.tables import TrackedFile
from nas_gateway.integrity.tables import FileDigests
from nas_gateway.uploads import rows
from nas_gateway.uploads.hashes import parts_sha256

# An item holds 400 KB at most (Amazon DynamoDB developer guide, "Quotas"); small items are cheaper to write again.
RANGES_A_ROW = 1000
# A file of which only the whole digest is known is cut into ranges of this size, so that later checks can be made in several
# calls. What is not larger is read in one go, in seconds.
RANGE_BYTES = 256 * MIB
_PACKED = struct.Struct(">Q32s")
_MD5 = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Range:
    """`size` bytes from `offset`, and their SHA-256 (hex)."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Known:
    """`size` in bytes, `sha256` of the whole (hex) where it is known, `etag` as the store gave it when the file arrived.

    `ranges` cover the file from its first byte to its last, or are empty. `kept`: they are in `FileDigests` already.
    `etags`: where nothing better is known, size and ETag of each part as the store gave them; on most stores (AWS without
    KMS, Ceph) a part's ETag is its MD5, and reading shows whether it is on this one. `begun`: the first of those parts, which
    an earlier call found to be right.
    """

    size: int
    sha256: str | None
    etag: str | None
    ranges: tuple[Range, ...] = ()
    kept: bool = False
    etags: tuple[tuple[int, str], ...] = ()
    begun: tuple[Range, ...] = ()

    def goes_on_at(self, offset: int) -> bool:
        """Whether what lies before `offset` needs no reading once it was found to be right: something says what lies behind."""
        if self.ranges:
            return any(item.offset == offset for item in self.ranges)
        sizes = [item.size for item in self.begun]
        return bool(sizes) and sum(sizes) == offset and sizes == [size for size, _ in self.etags[: len(sizes)]]


def of(file: TrackedFile) -> Known:
    """What is known of a file. Raises `LedgerUnavailable`."""
    size = int(file.size or 0)
    if file.sha256 and not file.parts_sha256 and size <= RANGE_BYTES:
        return Known(size, file.sha256, file.etag)  # most files, and nothing to ask the tables for
    before = _kept(file.file_id)
    for kept, ranges in ((True, before), (False, _parts(file))):
        if ranges and sum(item.size for item in ranges) == size:
            return Known(size, file.sha256, file.etag, ranges, kept)
    if file.sha256 or file.parts_sha256:
        return Known(size, file.sha256, file.etag)
    return Known(size, None, file.etag, etags=_etags(file, size), begun=before)


def keep(file_id: str, ranges: Sequence[Range]) -> None:
    """Keep the digests of ranges that were found to be right, or are the first ever seen. Again is fine."""
    try:
        for first in range(0, len(ranges), RANGES_A_ROW):
            batch = ranges[first : first + RANGES_A_ROW]
            packed = b"".join(_PACKED.pack(item.size, bytes.fromhex(item.sha256)) for item in batch)
            FileDigests(file_id, first, packed=packed).save()
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def _kept(file_id: str) -> tuple[Range, ...]:
    found, offset = list[Range](), 0
    try:
        for row in FileDigests.query(file_id, consistent_read=True):
            for size, digest in _PACKED.iter_unpack(row.packed):
                found.append(Range(offset, size, digest.hex()))
                offset += size
    except PynamoDBException as error:
        raise LedgerUnavailable from error
    return tuple(found)


def _parts(file: TrackedFile) -> tuple[Range, ...]:
    """The upload's parts, where their digests are those that the file was recorded with. (A session's id is its file's.)"""
    if not file.parts_sha256:
        return ()
    parts = rows.parts(file.file_id)
    if parts_sha256(parts) != file.parts_sha256:
        return ()
    return tuple(Range(part.offset, part.size, part.sha256) for part in parts if part.size)


def _etags(file: TrackedFile, size: int) -> tuple[tuple[int, str], ...]:
    """The parts of a file that went straight to the store, where their ETags have the form of an MD5."""
    parts = [part for part in rows.parts(file.file_id) if part.size]
    if sum(part.size for part in parts) != size or not all(_MD5.fullmatch(part.etag) for part in parts):
        return ()
    return tuple((part.size, part.etag) for part in parts)
