"""S3Storage: the storage contract over any S3-compatible store. For `nas_gateway.drivers.make` and tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chalicelib.errors import (
    DigestMismatch,
    FileExists,
    FileMissing,
    InvalidRequest,
    PayloadTooLarge,
    StorageError,
    StorageUnavailable,
)
from chalicelib.limits import MAX_OBJECT_BYTES, part_bytes_for
from chalicelib.storage.base import ByteRange, Content, Download, Health, ObjectInfo, Page, Part, Reader, SavedPath
from chalicelib.storage.paths import normalise, normalise_prefix
from nas_gateway.drivers import common
from nas_gateway.drivers.s3_describe import SHA256_KEY, described_as, etag_of, info_of
from nas_gateway.drivers.s3_direct import S3Direct
from nas_gateway.drivers.s3_download import S3Download
from nas_gateway.drivers.s3_erase import S3Erasing
from nas_gateway.drivers.s3_errors import translated
from nas_gateway.drivers.s3_tails import S3Tails
from nas_gateway.drivers.s3_upload import Multipart, composite_etag, peak_upload_bytes

# SigV4 query signing: X-Amz-Expires is at most seven days.
MAX_URL_SECONDS = 7 * 24 * 3600
DELETE_BATCH = 1000  # DeleteObjects takes no more

__all__ = ["S3Storage", "peak_upload_bytes"]


class S3Storage(S3Direct, S3Tails, S3Erasing):
    """One disk in a bucket; keys are `prefix/path`. Thread-safe: one client and its connection pool for all threads.

    Memory of one `save`: (concurrency + 2) * 8 MiB, 48 MiB by default (`peak_upload_bytes`); a file below 8 MiB takes
    its own size. CPU: two passes of SHA-256, one over the whole and one a part, 0.6 s a GiB each with SHA-NI.

    `if_absent`: looked at first, and sent along as `If-None-Match: *` for the store to enforce. Ceph 16 enforces it
    for files of one part (two racing saves: one wins) and ignores it on CompleteMultipartUpload: there the window is
    between one HEAD and the completion. Who needs more for large files reserves the path first, as `uploads` does.

    SHA-256: kept with the object as metadata when it is known before the first byte is sent: for files of one part, and
    where the caller announced it. Otherwise `get_metadata` says None, and the registry of files has it.
    """

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
        described = described_as(content_type, metadata, expected)
        reader, length = common.source(content)
        if length is not None and length > MAX_OBJECT_BYTES:
            raise PayloadTooLarge
        if if_absent and self.exists(path):
            raise FileExists
        whole = common.Whole(content)
        # Pages of a fresh bytearray take no memory before they are written to: a small file costs its size.
        part = part_bytes_for(length)
        first = bytearray(part if length is None else min(part, length))
        size = common.fill(reader, memoryview(first), whole.update)
        if size == length or size < len(first):
            return self._save_small(path, first, size, reader, described, whole.hexdigest(), expected, if_absent)
        upload = self._begin(path, described)
        try:
            parts = upload.send_all(first, reader, self._concurrency, whole.update)
            digest = whole.hexdigest()
            if expected not in (None, digest):
                raise DigestMismatch
            if if_absent and self.exists(path):
                raise FileExists
            head = self._complete(upload, parts, if_absent)
        except BaseException:
            upload.abort()
            raise
        return SavedPath(path, size=head["ContentLength"], sha256=digest, etag=etag_of(head))

    def _complete(self, upload: Multipart, parts: Sequence[Part], if_absent: bool) -> dict[str, Any]:
        try:
            return upload.complete(parts, if_absent=if_absent)
        except StorageUnavailable:
            # A completion whose reply did not come may still be going on: once the upload is gone it is decided.
            if upload.abort() and (head := upload.finished({composite_etag(parts)} - {None})):
                return head
            raise

    def _save_small(
        self,
        path: str,
        buffer: bytearray,
        size: int,
        reader: Reader,
        described: dict[str, Any],
        digest: str,
        expected: str | None,
        if_absent: bool,
    ) -> SavedPath:
        if size == len(buffer):
            reader.read(1)  # a sized source checks here that nothing follows
        if expected not in (None, digest):
            raise DigestMismatch
        described = {**described, "Metadata": {**described["Metadata"], SHA256_KEY: digest}}
        body = buffer if size == len(buffer) else bytes(memoryview(buffer)[:size])
        answer = self._put(path, body, digest, **described, **({"IfNoneMatch": "*"} if if_absent else {}))
        return SavedPath(path, size=size, sha256=digest, etag=etag_of(answer))

    def save_chunked(self, path: str, reader: Reader, metadata: Mapping[str, str] | None = None) -> SavedPath:
        return self.save(path, reader, metadata=metadata)

    # --- reading ---------------------------------------------------------------------------------------------

    def get_file(self, path: str) -> bytes:
        with self.open(path) as download:
            return download.read()

    def open(self, path: str, range: ByteRange | None = None) -> Download:
        path, asked = normalise(path), {}
        if range:
            range.resolve(MAX_OBJECT_BYTES)  # what is wrong whatever the size: stores answer it with the whole file
            asked = {"Range": range.header()}
        with translated():
            answer = self._client.get_object(**self._where(path), **asked)
        size, start = int(answer["ContentLength"]), 0
        try:
            count = size
            if range:
                # Such as "bytes 3-9/10" (RFC 9110, 14.4)
                span, _, total = str(answer.get("ContentRange", "")).removeprefix("bytes ").partition("/")
                if not total.isdigit():
                    range.resolve(size)  # some stores answer a range of an empty file with the empty file
                    raise StorageError("The storage does not answer ranges.")
                size = int(total)
                start, count = range.resolve(size)
                if span != f"{start}-{start + count - 1}" or count != int(answer["ContentLength"]):
                    raise StorageError("The storage answered another range than was asked for.")
            return S3Download(info_of(path, answer, size), start, count, answer["Body"])
        except BaseException:
            answer["Body"].close()
            raise

    def exists(self, path: str) -> bool:
        try:
            self.get_metadata(path)
        except FileMissing:
            return False
        return True

    def get_metadata(self, path: str) -> ObjectInfo:
        path = normalise(path)
        with translated():
            head = self._client.head_object(**self._where(path))
        return info_of(path, head, int(head["ContentLength"]))

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        prefix = normalise_prefix(prefix, allow_empty=True)
        return common.pages(lambda cursor: self.list_with_prefix(prefix, cursor))

    def list_with_prefix(self, prefix: str = "", cursor: str | None = None, limit: int = 1000) -> Page:
        """One page; like every S3 listing it knows neither content types, digests nor metadata."""
        prefix = normalise_prefix(prefix, allow_empty=True)
        after, limit = common.from_cursor(cursor, prefix), common.check_limit(limit)
        start = {"StartAfter": self._prefix + after} if after else {}
        items: list[ObjectInfo] = []
        while True:
            with translated():
                answer = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=limit - len(items), **start
                )
            found = answer.get("Contents", [])
            for item in found:
                path = item["Key"].removeprefix(self._prefix)
                if common.is_ours(path):
                    items.append(ObjectInfo(path, item["Size"], etag_of(item), item["LastModified"]))
            more = bool(answer.get("IsTruncated")) and bool(found)
            if not more or len(items) == limit:
                return Page(items, common.to_cursor(items[-1].path) if more else None)
            # Only foreign keys were left out of this page: go on behind the last of them.
            start = {"StartAfter": found[-1]["Key"]}

    def url(self, path: str, expires_in: int = 3600) -> str:
        """A presigned GET (SigV4), at the public endpoint where there is one, for at most seven days.

        Whether the file exists is not looked at.
        """
        if not 1 <= expires_in <= MAX_URL_SECONDS:
            raise InvalidRequest(f"expires_in is 1 to {MAX_URL_SECONDS} seconds.")
        if self._signer:
            return self._signer.sign("GET", self._where(normalise(path)), expires_in).url
        with translated():
            return str(
                self._client.generate_presigned_url(
                    "get_object", Params=self._where(normalise(path)), ExpiresIn=expires_in
                )
            )

    def health(self) -> Health:
        return common.round_trip(
            lambda name, body: self._put(name, body, hashlib.sha256(body).hexdigest()), self._raw, self._delete
        )

    # --- deleting --------------------------------------------------------------------------------------------

    def delete(self, path: str) -> None:
        # S3 deletes what is not there without a word; the contract wants to know.
        self.get_metadata(path)
        self._delete(normalise(path))

    def delete_prefix(self, prefix: str) -> list[str]:
        """Batches of 1,000. What cannot be deleted does not stop the rest; a `StorageError` then says how many are left."""
        prefix = normalise_prefix(prefix)
        deleted: list[str] = []
        failed = 0
        cursor: str | None = None
        while True:
            page = self.list_with_prefix(prefix, cursor, DELETE_BATCH)
            paths = [item.path for item in page.items]
            refused = self._delete_batch(paths) if paths else set()
            deleted += [path for path in paths if path not in refused]
            failed += len(refused)
            if (cursor := page.cursor) is None:
                break
        if failed:
            raise StorageError(f"{failed} files could not be deleted, {len(deleted)} were. Try again.")
        return deleted

    def _delete_batch(self, paths: Sequence[str]) -> set[str]:
        """Those that could not be deleted."""
        objects = [{"Key": self._prefix + path} for path in paths]
        with translated():
            answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": False})
        gone = {item["Key"].removeprefix(self._prefix) for item in answer.get("Deleted", [])}
        return set(paths) - gone
