"""MemoryStorage: the storage contract in a dictionary, for tests and the testing role. Nothing survives the process."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from chalicelib.errors import (
    DigestMismatch,
    FileExists,
    FileMissing,
    InvalidRequest,
    Unsupported,
    UploadLost,
    UploadStateConflict,
)
from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.base import (
    ByteRange,
    Content,
    Download,
    Health,
    ObjectInfo,
    OpenUpload,
    Page,
    Part,
    Reader,
    Remains,
    SavedPath,
    StagedTail,
    Storage,
)
from chalicelib.storage.paths import normalise, normalise_prefix
from chalicelib.storage.streams import BytesReader
from nas_gateway.drivers import common


@dataclass(slots=True)
class _Upload:
    info: ObjectInfo
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryStorage:
    """One disk in memory: every file whole. Thread-safe.

    `min_part_bytes` and `renumber_after_loss` let a test see a store's rules: S3's are 5 MiB and False. Completing then
    refuses smaller parts in the middle, and (as Ceph 16 does) an upload that holds a part which is not named.
    """

    def __init__(self, disk: str, *, min_part_bytes: int = 1, renumber_after_loss: bool = True) -> None:
        self.disk, self.min_part_bytes, self.renumber_after_loss = disk, min_part_bytes, renumber_after_loss
        self._lock = threading.RLock()
        self._files: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._uploads: dict[str, _Upload] = {}
        self._tails: dict[str, tuple[StagedTail, bytes]] = {}

    def __repr__(self) -> str:
        return f"MemoryStorage(disk={self.disk!r})"

    # --- writing ---------------------------------------------------------------------------------------------

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
        path, expected = normalise(path), common.check_sha256(sha256)
        blank = _blank(path, content_type, metadata)
        reader, _ = common.source(content)
        data = b"".join(iter(lambda: reader.read(BLOCK_BYTES), b""))
        digest = hashlib.sha256(data).hexdigest()
        if expected not in (None, digest):
            raise DigestMismatch
        info = self._put(blank, data, digest, if_absent)
        return SavedPath(path, size=len(data), sha256=digest, etag=info.etag)

    def save_chunked(self, path: str, reader: Reader, metadata: Mapping[str, str] | None = None) -> SavedPath:
        return self.save(path, reader, metadata=metadata)

    def _put(self, blank: ObjectInfo, data: bytes, digest: str | None, if_absent: bool = False) -> ObjectInfo:
        etag = hashlib.sha256(data).hexdigest()[:32]
        info = replace(blank, size=len(data), etag=etag, sha256=digest, modified_at=datetime.now(UTC))
        with self._lock:
            if if_absent and info.path in self._files:
                raise FileExists
            self._files[info.path] = (info, data)
        return info

    # --- reading ---------------------------------------------------------------------------------------------

    def _get(self, path: str) -> tuple[ObjectInfo, bytes]:
        try:
            return self._files[normalise(path)]
        except KeyError:
            raise FileMissing from None

    def get_file(self, path: str) -> bytes:
        return self._get(path)[1]

    def open(self, path: str, range: ByteRange | None = None) -> Download:
        info, data = self._get(path)
        start, count = range.resolve(info.size) if range else (0, info.size)
        return _MemoryDownload(info, data, start, count)

    def exists(self, path: str) -> bool:
        return normalise(path) in self._files

    def get_metadata(self, path: str) -> ObjectInfo:
        return self._get(path)[0]

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        prefix = normalise_prefix(prefix, allow_empty=True)
        return common.pages(lambda cursor: self.list_with_prefix(prefix, cursor))

    def list_with_prefix(self, prefix: str = "", cursor: str | None = None, limit: int = 1000) -> Page:
        prefix = normalise_prefix(prefix, allow_empty=True)
        after, limit = common.from_cursor(cursor, prefix) or "", common.check_limit(limit)
        with self._lock:
            names = sorted(name for name in self._files if name.startswith(prefix) and name > after)
            items = [self._files[name][0] for name in names[:limit]]
        return Page(items, common.to_cursor(items[-1].path) if len(names) > limit else None)

    def url(self, path: str, expires_in: int = 3600) -> str:
        raise Unsupported("This disk gives no direct URLs. Download through the web tier.")

    def health(self) -> Health:
        return common.round_trip(
            lambda name, body: self._put(_blank(name), body, None),
            lambda name: self._files[name][1],
            lambda name: self._files.pop(name),
        )

    # --- deleting --------------------------------------------------------------------------------------------

    def delete(self, path: str) -> None:
        if self._files.pop(normalise(path), None) is None:
            raise FileMissing

    def delete_prefix(self, prefix: str) -> list[str]:
        prefix = normalise_prefix(prefix)
        with self._lock:
            names = sorted(name for name in self._files if name.startswith(prefix))
            for name in names:
                del self._files[name]
        return names

    def erase(self, path: str) -> int:
        """There are no versions here."""
        self._files.pop(normalise(path), None)
        return 0

    def remains(self, path: str) -> Remains:
        path = normalise(path)
        with self._lock:
            open_here = [handle for handle, upload in self._uploads.items() if upload.info.path == path]
            return Remains(path in self._files, 0, open_here)

    # --- parts -----------------------------------------------------------------------------------------------

    def create_parts(
        self, path: str, content_type: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> str:
        upload = _Upload(_blank(normalise(path), content_type, metadata))
        handle = uuid.uuid4().hex
        with self._lock:
            self._uploads[handle] = upload
        return handle

    def _upload(self, path: str, handle: str) -> _Upload:
        path, upload = normalise(path), self._uploads.get(handle)
        if upload is None or upload.info.path != path:
            raise UploadLost
        return upload

    def write_part(
        self, path: str, handle: str, number: int, offset: int, data: bytes | bytearray | memoryview
    ) -> Part:
        common.check_part(number, offset)
        kept = bytes(data)
        digest = hashlib.sha256(kept).hexdigest()
        part = Part(number, offset, len(kept), digest[:32], digest)
        with self._lock:
            self._upload(path, handle).parts[number] = (part, kept)
        return part

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
        common.check_part(number, offset)
        return self.write_part(
            path, handle, number, offset, common.read_range(source, source_path, start, size, sha256)
        )

    def list_parts(self, path: str, handle: str) -> list[tuple[int, int]]:
        with self._lock:
            return sorted((number, part.size) for number, (part, _) in self._upload(path, handle).parts.items())

    def complete_parts(self, path: str, handle: str, parts: Sequence[Part], *, sha256: str | None = None) -> ObjectInfo:
        ordered, digest = common.in_order(parts), common.check_sha256(sha256)
        with self._lock:
            upload = self._upload(path, handle)
            held = [upload.parts.get(part.number, (None, b"")) for part in ordered]
            if any(kept is None or kept.etag != part.etag for part, (kept, _) in zip(ordered, held, strict=True)):
                raise UploadStateConflict(common.WRONG_PARTS)
            if not self.renumber_after_loss and len(upload.parts) > len(ordered):
                raise UploadStateConflict(common.WRONG_PARTS)
            if any(part.size < self.min_part_bytes for part in ordered[:-1]):
                raise InvalidRequest(common.SMALL_PART)
            del self._uploads[handle]
            return self._put(upload.info, b"".join(data for _, data in held), digest)

    def abort_parts(self, path: str, handle: str) -> None:
        path = normalise(path)
        with self._lock:
            if handle in self._uploads and self._uploads[handle].info.path == path:
                del self._uploads[handle]

    def open_uploads(self) -> Iterator[OpenUpload]:
        with self._lock:
            return iter([OpenUpload(u.info.path, handle, u.info.modified_at) for handle, u in self._uploads.items()])

    # --- tails -----------------------------------------------------------------------------------------------

    def put_tail(self, name: str, data: bytes | bytearray | memoryview) -> None:
        common.check_tail(name, data)
        kept = bytes(data)
        with self._lock:
            self._tails[name] = (StagedTail(name, len(kept), datetime.now(UTC)), kept)

    def get_tail(self, name: str) -> bytes:
        common.tail_digest(name)
        try:
            return common.intact_tail(name, self._tails[name][1])
        except KeyError:
            raise FileMissing from None

    def delete_tail(self, name: str) -> None:
        common.tail_digest(name)
        with self._lock:
            self._tails.pop(name, None)

    def list_tails(self) -> Iterator[StagedTail]:
        with self._lock:
            return iter([tail for tail, _ in self._tails.values()])


class _MemoryDownload(Download):
    def __init__(self, info: ObjectInfo, data: bytes, start: int, count: int) -> None:
        self.info, self.start, self.count = info, start, count
        self._reader = BytesReader(memoryview(data)[start : start + count])

    def read(self, size: int = -1, /) -> bytes:
        return self._reader.read(size)

    def close(self) -> None:
        self._reader = BytesReader(b"")


def _blank(path: str, content_type: str | None = None, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
    kind, kept = common.check_content_type(content_type), common.check_metadata(metadata)
    return ObjectInfo(path, 0, "", datetime.now(UTC), kind, None, kept)
