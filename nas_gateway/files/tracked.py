"""TrackedStorage: the storage protocol with the ledger around it. What StorageManager gives outside the web role.

A developer's `save` on the services tier leaves the same trace as an upload through the API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from chalicelib.storage.base import (
    ByteRange,
    Content,
    Download,
    Health,
    ObjectInfo,
    Page,
    PartStorage,
    Reader,
    SavedPath,
)
from chalicelib.storage.streams import as_reader
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.transfers import Transfers


class TrackedStorage:
    """One disk through the use-cases. `call` says on whose behalf: the user of the request being handled, or the tier."""

    def __init__(self, disk: str, transfers: Transfers, call: Callable[[], Call]) -> None:
        self.disk, self._transfers, self._call = disk, transfers, call

    @property
    def driver(self) -> PartStorage:
        """The driver underneath, for diagnosis. What is done through it is not tracked."""
        return self._transfers.disk(self.disk)

    def __repr__(self) -> str:
        return f"TrackedStorage({type(self.driver).__name__}, disk={self.disk!r})"

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
        where = place(self.disk, path, content_type=content_type, metadata=metadata)
        reader, _ = as_reader(content)
        return self._transfers.upload(self._call(), where, reader, sha256=sha256, if_absent=if_absent)

    def save_chunked(self, path: str, reader: Reader, metadata: Mapping[str, str] | None = None) -> SavedPath:
        return self.save(path, reader, metadata=metadata)

    def get_file(self, path: str) -> bytes:
        with self.open(path) as download:
            return b"".join(download)

    def open(self, path: str, range: ByteRange | None = None) -> Download:
        return self._transfers.download(self._call(), self.disk, path, range)

    def delete(self, path: str) -> None:
        self._transfers.delete(self._call(), self.disk, path)

    def delete_prefix(self, prefix: str) -> list[str]:
        deleted, _, _ = self._transfers.delete_prefix(self._call(), self.disk, prefix, dry_run=False)
        return deleted

    def exists(self, path: str) -> bool:
        return self._transfers.exists(self._call(), self.disk, path)

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self.driver.list_files(prefix)

    def list_with_prefix(self, prefix: str = "", cursor: str | None = None, limit: int = 1000) -> Page:
        return self.driver.list_with_prefix(prefix, cursor, limit)

    def get_metadata(self, path: str) -> ObjectInfo:
        return self._transfers.describe(self._call(), self.disk, path)

    def url(self, path: str, expires_in: int = 3600) -> str:
        return self.driver.url(path, expires_in)

    def health(self) -> Health:
        return self.driver.health()
