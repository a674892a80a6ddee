"""A download whose end is recorded, and what the registry adds to what a store knows of a file."""

from __future__ import annotations

from collections.abc import Callable

from chalicelib.errors import ClientDisconnected
from chalicelib.storage.base import Download, ObjectInfo
from nas_gateway.files.tables import TrackedFile


def enriched(info: ObjectInfo, file: TrackedFile | None) -> ObjectInfo:
    if file is None:
        return info
    return ObjectInfo(
        path=info.path,
        size=info.size,
        etag=info.etag,
        modified_at=info.modified_at,
        content_type=file.content_type or info.content_type,
        sha256=file.sha256 or info.sha256,
        metadata=file.metadata or info.metadata,
    )


class TrackedDownload(Download):
    """A driver's download whose end is recorded: completed when every byte was read, otherwise failed with the count."""

    def __init__(
        self, inner: Download, file: TrackedFile | None, closed: Callable[[int, BaseException | None], None]
    ) -> None:
        self.info, self.start, self.count = enriched(inner.info, file), inner.start, inner.count
        self._inner, self._closed, self._moved, self._done = inner, closed, 0, False
        self._error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            block = self._inner.read(size)
        except BaseException as error:
            self._error = error
            raise
        self._moved += len(block)
        return block

    def close(self) -> None:
        if self._done:
            return
        self._done = True
        try:
            self._inner.close()
        finally:
            error = self._error
            if error is None and self._moved < self.count:
                error = ClientDisconnected("The reader went away before the end of the file.")
            self._closed(self._moved, error)
