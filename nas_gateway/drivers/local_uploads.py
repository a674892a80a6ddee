"""What upload sessions need of LocalFileSystemStorage: parts, tails, what was left behind. Used by the local driver only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from chalicelib.storage.base import ObjectInfo, OpenUpload, Part, StagedTail, Storage
from chalicelib.storage.paths import normalise
from nas_gateway.drivers import common
from nas_gateway.drivers.local_errors import translated
from nas_gateway.drivers.local_file import info_of
from nas_gateway.drivers.local_meta import Meta
from nas_gateway.drivers.local_parts import LocalParts
from nas_gateway.drivers.local_stage import Stage
from nas_gateway.drivers.local_tails import LocalTails


class LocalUploads:
    """Uploads in parts and tails in one staging area. Errors leave here translated."""

    min_part_bytes = 1
    renumber_after_loss = True

    def __init__(self, stage: Stage) -> None:
        self._stage, self._parts, self._tails = stage, LocalParts(stage), LocalTails(stage)

    # --- parts -----------------------------------------------------------------------------------------------

    def create_parts(
        self, path: str, content_type: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> str:
        path = normalise(path)
        meta = Meta(common.check_content_type(content_type), None, common.check_metadata(metadata))
        with translated():
            self._stage.prepare()
            return self._parts.create(path, meta)

    def write_part(
        self, path: str, handle: str, number: int, offset: int, data: bytes | bytearray | memoryview
    ) -> Part:
        with translated():
            self._stage.prepare()
            return self._parts.write(normalise(path), handle, number, offset, data)

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
        with translated():
            self._stage.prepare()
            return self._parts.listed(normalise(path), handle)

    def complete_parts(self, path: str, handle: str, parts: Sequence[Part], *, sha256: str | None = None) -> ObjectInfo:
        """Each part must be the one on record (offset, size, ETag). `sha256` is kept as it is told, not computed."""
        path, digest = normalise(path), common.check_sha256(sha256)
        ordered = common.in_order(parts)
        with translated():
            self._stage.prepare()
            return info_of(path, *self._parts.complete(path, handle, ordered, digest))

    def abort_parts(self, path: str, handle: str) -> None:
        with translated():
            self._stage.prepare()
            self._parts.abort(normalise(path), handle)

    def open_uploads(self) -> Iterator[OpenUpload]:
        """Every upload in parts that is neither complete nor aborted; its path is "" if a crash cut its beginning short."""
        with translated():
            self._stage.prepare()
            yield from self._parts.open_uploads()

    def discard_staged(self, before: datetime) -> int:
        """Remove what saves that died left in the staging area and nobody has written to since `before`; how many."""
        with translated():
            self._stage.prepare()
            return self._stage.discard(before.timestamp())

    # --- tails -----------------------------------------------------------------------------------------------

    def put_tail(self, name: str, data: bytes | bytearray | memoryview) -> None:
        common.check_tail(name, data)
        with translated():
            self._stage.prepare()
        self._tails.put(name, data)

    def get_tail(self, name: str) -> bytes:
        common.tail_digest(name)
        with translated():
            self._stage.prepare()
            data = self._tails.get(name)
        return common.intact_tail(name, data)

    def delete_tail(self, name: str) -> None:
        common.tail_digest(name)
        with translated():
            self._stage.prepare()
            self._tails.delete(name)

    def list_tails(self) -> Iterator[StagedTail]:
        with translated():
            self._stage.prepare()
            yield from self._tails.listed()
