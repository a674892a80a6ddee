"""LocalFileSystemStorage: the storage contract on a folder, a mounted NAS usually. For `nas_gateway.drivers.make` and tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice

from chalicelib.errors import (
    DigestMismatch,
    FileExists,
    FileMissing,
    StorageError,
    Unsupported,
)
from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.base import ByteRange, Content, Download, Health, ObjectInfo, Page, Reader, Remains, SavedPath
from chalicelib.storage.paths import normalise, normalise_prefix
from nas_gateway.drivers import common, local_meta, local_tree
from nas_gateway.drivers.local_errors import translated
from nas_gateway.drivers.local_file import LocalDownload, open_file, write_all
from nas_gateway.drivers.local_meta import Meta
from nas_gateway.drivers.local_stage import Stage
from nas_gateway.drivers.local_uploads import LocalUploads

# Names of one folder in memory while everything is listed (a page takes its own limit): about 10 MiB.
_WALK_BATCH = 50_000


class LocalFileSystemStorage(LocalUploads):
    """One disk in a folder. Thread- and process-safe: any number of them, on any number of hosts, may share the folder.

    Memory of a `save` or a download: one block (1 MiB). How a file appears: `local_stage`; metadata: `local_meta`;
    parts and tails: `local_uploads`; no symbolic link is ever followed: `local_tree`.
    The ETag is the first half of the SHA-256 where that is known, otherwise size, modification time and inode, which
    change together with any file that Depot writes.
    Unlike S3, a folder and a file cannot have the same name: the later of the two is refused with `FileExists`.
    """

    def __init__(self, disk: str, root: str, *, attributes: bool = True) -> None:
        """`attributes=False` keeps metadata in records even where the file system has extended attributes."""
        self.disk, self._root = disk, root
        super().__init__(Stage(root, attributes=attributes))

    def __repr__(self) -> str:
        return f"LocalFileSystemStorage(disk={self.disk!r})"

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
        kind, kept = common.check_content_type(content_type), common.check_metadata(metadata)
        reader, _ = common.source(content)
        if if_absent and self.exists(path):
            raise FileExists  # before anything is read; `publish` refuses it again, in one step with showing the file
        with translated():
            self._stage.prepare()
        whole, size = common.Whole(content), 0
        with self._stage.new_file() as (descriptor, folder, name):
            while block := reader.read(BLOCK_BYTES):
                whole.update(block)
                size += len(block)
                with translated():
                    write_all(descriptor, block)
            digest = whole.hexdigest()
            if expected not in (None, digest):
                raise DigestMismatch
            with translated():
                self._stage.publish(descriptor, folder, name, path, Meta(kind, digest, kept), if_absent=if_absent)
        return SavedPath(path, size=size, sha256=digest, etag=digest[:32])

    def save_chunked(self, path: str, reader: Reader, metadata: Mapping[str, str] | None = None) -> SavedPath:
        return self.save(path, reader, metadata=metadata)

    # --- reading ---------------------------------------------------------------------------------------------

    def get_file(self, path: str) -> bytes:
        with self.open(path) as download:
            return download.read()

    def open(self, path: str, range: ByteRange | None = None) -> Download:
        with self._opened(normalise(path)) as (descriptor, info):
            start, count = range.resolve(info.size) if range else (0, info.size)
            with translated():
                return LocalDownload(info, start, count, os.dup(descriptor))

    def exists(self, path: str) -> bool:
        try:
            self.get_metadata(path)
        except FileMissing:
            return False
        return True

    def get_metadata(self, path: str) -> ObjectInfo:
        with self._opened(normalise(path)) as (_, info):
            return info

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[int, ObjectInfo]]:
        *parents, last = path.split("/")
        with ExitStack() as stack:
            with translated():
                self._stage.prepare()
                records = stack.enter_context(self._stage.folder("meta"))
                try:
                    chain = stack.enter_context(local_tree.folders(self._root, parents))
                except NotADirectoryError:
                    raise FileMissing from None  # a file stands where the path has a folder
                descriptor, info = open_file(last, chain[-1], path, records)
                stack.callback(os.close, descriptor)
            yield descriptor, info

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._listed(normalise_prefix(prefix, allow_empty=True), "", _WALK_BATCH)

    def list_with_prefix(self, prefix: str = "", cursor: str | None = None, limit: int = 1000) -> Page:
        """One page. Reads the names of the folders on the way, never those of finished ones, and holds `limit` at a time."""
        prefix = normalise_prefix(prefix, allow_empty=True)
        after, limit = common.from_cursor(cursor, prefix) or "", common.check_limit(limit)
        with closing(self._listed(prefix, after, limit + 1)) as listed:
            items = list(islice(listed, limit + 1))
        more = len(items) > limit
        return Page(items[:limit], common.to_cursor(items[limit - 1].path) if more else None)

    def _listed(self, prefix: str, after: str, batch: int) -> Generator[ObjectInfo, None, None]:
        with ExitStack() as stack:
            with translated():
                self._stage.prepare()
                records = stack.enter_context(self._stage.folder("meta"))
                try:
                    chain = stack.enter_context(local_tree.folders(self._root, prefix.split("/")[:-1]))
                except (FileNotFoundError, NotADirectoryError):
                    return
            walk = stack.enter_context(closing(local_tree.walk(chain[-1], prefix, after, batch)))
            while True:
                with translated():
                    found = next(walk, None)
                if found is None:
                    return
                path, name, folder = found
                if not common.is_ours(path):
                    continue
                try:
                    with translated():
                        descriptor, info = open_file(name, folder, path, records)
                        os.close(descriptor)
                except FileMissing:
                    continue  # deleted since its name was read
                yield info

    def url(self, path: str, expires_in: int = 3600) -> str:
        raise Unsupported("This disk gives no direct URLs. Download through the web tier.")

    def health(self) -> Health:
        return common.round_trip(self._save_probe, self._read_probe, self._delete)

    def _save_probe(self, name: str, body: bytes) -> None:
        with translated():
            self._stage.prepare()
        with self._stage.new_file() as (descriptor, folder, staged), translated():
            write_all(descriptor, body)
            self._stage.publish(descriptor, folder, staged, name, Meta())

    def _read_probe(self, name: str) -> bytes:
        with self._opened(name) as (descriptor, info), translated():
            return os.read(descriptor, info.size)

    # --- deleting --------------------------------------------------------------------------------------------

    def delete(self, path: str) -> None:
        """Folders that become empty go with it. Durable when it returns."""
        self._delete(normalise(path))

    def _delete(self, path: str) -> None:
        *parents, last = path.split("/")
        with self._opened(path) as (descriptor, _), translated():
            with local_tree.folders(self._root, parents) as chain, self._stage.folder("meta") as records:
                os.unlink(last, dir_fd=chain[-1])
                os.fsync(chain[-1])
                local_meta.forget(os.fstat(descriptor), records)
                local_tree.remove_empty(chain, parents)

    def erase(self, path: str) -> int:
        """A file system keeps no versions that could be seen from here (snapshots are the operator's)."""
        with suppress(FileMissing):
            self._delete(normalise(path))
        return 0

    def remains(self, path: str) -> Remains:
        path = normalise(path)
        uploads = [upload.handle for upload in self.open_uploads() if upload.path == path]
        return Remains(self.exists(path), 0, uploads)

    def delete_prefix(self, prefix: str) -> list[str]:
        """What cannot be deleted does not stop the rest; a `StorageError` then says how many are left."""
        deleted, failed = [], 0
        for path in [info.path for info in self._listed(normalise_prefix(prefix), "", _WALK_BATCH)]:
            try:
                self._delete(path)
            except FileMissing:
                continue
            except StorageError:
                failed += 1
            else:
                deleted.append(path)
        if failed:
            raise StorageError(f"{failed} files could not be deleted, {len(deleted)} were. Try again.")
        return deleted
