"""The storage contract: what every driver does, in the same way, on every tier.

`Storage` is the driver protocol (local, S3, remote, in-memory, and the tracked wrapper around them); `PartStorage` is
the capability that upload sessions need besides (S3 multipart upload, or offsets in one staged file); `DirectStorage`
signs requests that clients send to the store themselves.
`tests/support/conformance.py` runs over all of them. Imports only errors, limits, paths and streams.

Shared rules, which the docstrings below do not repeat:
- `path` is relative, normalised and checked by `paths.normalise`; anything else raises `InvalidPath`.
- A missing file raises `FileMissing`, which is a `FileNotFoundError`.
- Writes are atomic: until `save` returns, a reader sees the old file or none, never a part of the new one; when it
  raises, nothing of the new file is left.
- A prefix is a folder: `a` means `a/`, so it never touches `ab/…`. The empty prefix is every file, and only for listing.
- Failures of the store raise a `StorageError`; a body that ends early raises `TruncatedBody`.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from chalicelib.errors import RangeNotSatisfiable
from chalicelib.limits import BLOCK_BYTES

if TYPE_CHECKING:
    from chalicelib.storage.uploads import SignedRequest, StoredPart


@runtime_checkable
class Reader(Protocol):
    """Anything bytes can be read from, once, in order.

    `read(n)` returns 1 to n bytes, or `b""` at the end; a source that breaks raises instead of ending.
    """

    def read(self, size: int = -1, /) -> bytes: ...


Content = bytes | bytearray | memoryview | str | Reader | Iterable[bytes]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range as it is asked for: `start` to `end` inclusive, both counted from 0 (RFC 9110, section 14.1.2).

    `end=None` is "to the end"; `start=None` with `end=n` is the last n bytes.
    """

    start: int | None
    end: int | None

    def resolve(self, size: int) -> tuple[int, int]:
        """First byte and count within a file of `size` bytes. Raises `RangeNotSatisfiable`."""
        if self.start is None:
            count = min(self.end or 0, size)
            if count <= 0:
                raise RangeNotSatisfiable
            return size - count, count
        if self.start >= size or (self.end is not None and self.end < self.start):
            raise RangeNotSatisfiable
        last = size - 1 if self.end is None else min(self.end, size - 1)
        return self.start, last - self.start + 1

    def header(self) -> str:
        """The value of a `Range` header. A range that ends before it begins would be ignored there: it raises here."""
        if self.start is not None and self.end is not None and self.end < self.start:
            raise RangeNotSatisfiable
        return f"bytes={'' if self.start is None else self.start}-{'' if self.end is None else self.end}"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of one file. `sha256` is there when Depot wrote the file in one stream."""

    path: str
    size: int
    etag: str
    modified_at: datetime
    content_type: str = "application/octet-stream"
    sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, in path order. `cursor` is None on the last; it is opaque and for the next call only."""

    items: Sequence[ObjectInfo]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Health:
    """Outcome of a round trip (save, read back, delete). `latency_ms` per step; `error` is an error code."""

    ok: bool
    latency_ms: Mapping[str, float]
    error: str | None = None


class SavedPath(str):
    """The path a file was saved under, which also tells what was saved.

    `size` in bytes, `sha256` in hex, `etag` as the store gave it. Where the ledger took part: `tracking_id`, `file_id`,
    `recorded_at` (ISO 8601, UTC) and `ledger`, where the event stands as `shard/sequence`.
    """

    size: int
    sha256: str
    etag: str
    tracking_id: str | None
    file_id: str | None
    recorded_at: str | None
    ledger: str | None

    def __new__(
        cls,
        path: str,
        *,
        size: int,
        sha256: str,
        etag: str,
        tracking_id: str | None = None,
        file_id: str | None = None,
        recorded_at: str | None = None,
        ledger: str | None = None,
    ) -> Self:
        self = super().__new__(cls, path)
        self.size, self.sha256, self.etag = size, sha256, etag
        self.tracking_id, self.file_id = tracking_id, file_id
        self.recorded_at, self.ledger = recorded_at, ledger
        return self


class Download(abc.ABC):
    """An open file: a reader of `count` bytes from `start` of the file that `info` describes. Close it.

    `read` raises `TruncatedBody` (or a `StorageError`) if the store ends early; `b""` comes only after `count` bytes.
    """

    info: ObjectInfo
    start: int
    count: int

    @abc.abstractmethod
    def read(self, size: int = -1, /) -> bytes: ...

    @abc.abstractmethod
    def close(self) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        while block := self.read(BLOCK_BYTES):
            yield block

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Storage(Protocol):
    """The driver protocol. See the module's docstring for the rules every method keeps."""

    disk: str

    def save(
        self,
        path: str,
        content: Content,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        if_absent: bool = False,
        sha256: str | None = None,
    ) -> SavedPath:
        """Write a whole file, replacing one of the same path unless `if_absent` (then `FileExists`).

        `sha256` (hex) is compared before the file becomes visible: `DigestMismatch`, and nothing is kept.
        """
        ...

    def save_chunked(self, path: str, reader: Reader, metadata: Mapping[str, str] | None = None) -> SavedPath:
        """Write a file whose length need not be known, in chunks; the remote driver takes the three-phase call."""
        ...

    def get_file(self, path: str) -> bytes:
        """The whole file in memory: for small files. Everything else takes `open`."""
        ...

    def open(self, path: str, range: ByteRange | None = None) -> Download:
        """Read as a stream. Raises `RangeNotSatisfiable`."""
        ...

    def delete(self, path: str) -> None:
        """Delete one file and return when it is gone."""
        ...

    def delete_prefix(self, prefix: str) -> list[str]:
        """Delete every file below a folder; the paths that were deleted. An empty prefix is an `InvalidPath`."""
        ...

    def exists(self, path: str) -> bool: ...

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every file below a folder, in path order (by code point), fetched page by page."""
        ...

    def list_with_prefix(self, prefix: str = "", cursor: str | None = None, limit: int = 1000) -> Page:
        """One page of `list_files`. `limit` is 1 to 1,000; a bad cursor is an `InvalidRequest`."""
        ...

    def get_metadata(self, path: str) -> ObjectInfo: ...

    def url(self, path: str, expires_in: int = 3600) -> str:
        """A URL that fetches the file for `expires_in` seconds without signing in. Raises `Unsupported`."""
        ...

    def health(self) -> Health:
        """Save, read back and delete a small file. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One acknowledged part of an upload: its bytes are durable. `sha256` is hex, over this part alone."""

    number: int
    offset: int
    size: int
    etag: str
    sha256: str


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload in parts that is neither complete nor aborted, as the store itself knows it.

    `path` is "" if a crash cut its beginning short; `started_at` knows its time zone.
    """

    path: str
    handle: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class StagedTail:
    """A tail that a store holds. `size` in bytes; `modified_at` knows its time zone."""

    name: str
    size: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Remains:
    """What a store still holds at exactly one path. `uploads` are handles of uploads in parts that are not complete.

    `versions` counts versions and delete markers of a store that keeps them, and is None where the store cannot say.
    """

    object: bool
    versions: int | None = 0
    uploads: Sequence[str] = ()


class Erasable(Protocol):
    """The capability behind verified deletion. Every disk of the services tier has it."""

    def erase(self, path: str) -> int:
        """Remove the file and every older version of it, durably; how many versions went besides the file.

        What is not there is no error. Uploads in parts are not touched: `abort_parts` ends those.
        """
        ...

    def remains(self, path: str) -> Remains:
        """Look anew what is there. Other paths, also those that begin with this one, do not count."""
        ...


class PartStorage(Storage, Erasable, Protocol):
    """The capability behind upload sessions. Parts count from 1 and may be written in any order and in parallel.

    Numbers ascend with offsets; gaps in the numbers are allowed. A writer that lost its lease may still be writing the part
    it was at: where `renumber_after_loss`, its successor takes the next number, and the late part must not harm it.
    Elsewhere (S3) the successor takes the same number, since a store may refuse to complete while it holds a part that is
    not named (Ceph 16 does); a late part then has another ETag than the acknowledged one, and completing is refused.

    `handle` is opaque and survives the process: another process goes on with it. `min_part_bytes` is the smallest part
    that may be followed by another (5 MiB on S3, 1 on the local driver).
    """

    min_part_bytes: int
    renumber_after_loss: bool

    def create_parts(
        self, path: str, content_type: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> str:
        """Begin; the handle. Nothing is visible under `path`."""
        ...

    def write_part(
        self, path: str, handle: str, number: int, offset: int, data: bytes | bytearray | memoryview
    ) -> Part:
        """Store one part durably. Writing the same number again replaces it. Raises `UploadLost`."""
        ...

    def list_parts(self, path: str, handle: str) -> list[tuple[int, int]]:
        """(number, size) of every part the store holds, in order. Raises `UploadLost`."""
        ...

    def complete_parts(self, path: str, handle: str, parts: Sequence[Part], *, sha256: str | None = None) -> ObjectInfo:
        """Make the file visible, in one step. Raises `UploadLost`; never takes a lost upload for a finished one.

        `sha256` of the whole, where the caller knows it, is kept with the file so that `get_metadata` tells it.
        """
        ...

    def abort_parts(self, path: str, handle: str) -> None:
        """Discard. A handle that is already gone is no error."""
        ...

    def open_uploads(self) -> Iterator[OpenUpload]:
        """Every upload in parts on this disk that is neither complete nor aborted."""
        ...

    def copy_part(
        self,
        path: str,
        handle: str,
        number: int,
        offset: int,
        source: Storage,
        source_path: str,
        start: int,
        size: int,
        *,
        sha256: str | None = None,
        etag: str | None = None,
    ) -> Part:
        """Store `size` (1 or more) bytes from `start` of a finished file on `source`, any disk, as part `number`.

        `sha256` and `etag` are those that the same bytes had as a part of the source. With both, a store may copy by itself,
        and its answer is compared with `etag`. Otherwise the bytes are read through this process, which holds one part.
        Raises `FileMissing`, `RangeNotSatisfiable`, `UploadLost`, `ObjectCorrupt` when the bytes are not those of `sha256`.
        """
        ...

    # Tails: the unfinished end of an upload, too small to be a part. A name is `{upload_id}/{offset}-{sha256}` (32 and 64
    # lower-case hexadecimal digits), so it always means the same bytes; anything else is an `InvalidRequest`. Tails are
    # no files: no listing shows them and no path reaches them.

    def put_tail(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Store a tail durably; again is fine. Raises `DigestMismatch` for other bytes than the name says."""
        ...

    def get_tail(self, name: str) -> bytes:
        """The bytes of a tail. Raises `FileMissing`, and `ObjectCorrupt` for other bytes than the name says."""
        ...

    def delete_tail(self, name: str) -> None:
        """Delete a tail. One that is gone is no error."""
        ...

    def list_tails(self) -> Iterator[StagedTail]:
        """Every tail on this disk, in no particular order."""
        ...


@runtime_checkable
class DirectStorage(Protocol):
    """The capability of disks whose store clients can reach by themselves. Nothing here looks whether what is named exists.

    Raises `PresigningOff` where the disk has no public endpoint, `InvalidRequest` unless `expires_in` is 1 to
    `limits.PRESIGN_MAX_SECONDS`. Path and handle must come from the session, never from a client.
    """

    def presign_part(
        self, path: str, handle: str, number: int, *, size: int | None, sha256: str | None, expires_in: int
    ) -> SignedRequest:
        """A PUT of part `number`, of exactly `size` bytes and, where given, this SHA-256 (hex); its answer has the `ETag`.

        Without a size (1 or more) it is an `InvalidRequest`: some stores let the sender of a PUT whose length is not signed
        have any other file copied into the part.
        """
        ...

    def presign_download(self, path: str, *, filename: str, content_type: str, expires_in: int) -> SignedRequest:
        """A GET that a browser saves as `filename`. Ranges may be asked for."""
        ...

    def stored_parts(self, path: str, handle: str) -> list[StoredPart]:
        """Every part that the store holds, in order. Raises `UploadLost`."""
        ...
