"""One multipart upload: parts in parallel, complete, abort. Used by `S3Storage` only; knows keys, not paths.

Errors leave here translated. Nothing here decides what a file may be called or whether it may be replaced.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib import observability
from chalicelib.config import DiskConfig
from chalicelib.errors import (
    FileMissing,
    InvalidRequest,
    ObjectCorrupt,
    PayloadTooLarge,
    StorageError,
    StorageUnavailable,
    UploadLost,
)
from chalicelib.limits import LARGE_PART_BYTES, MAX_PARTS, grown_part_bytes, part_bytes_for
from chalicelib.storage.base import Part, Reader
from chalicelib.storage.uploads import StoredPart
from nas_gateway.drivers.common import fill
from nas_gateway.drivers.s3_client import KnownDigests
from nas_gateway.drivers.s3_errors import translate, translated

# An abort races with parts that the store is still taking in (Amazon: "it might be necessary to abort more than once").
ABORT_TRIES = 5
ABORT_PAUSE_SECONDS = 0.1


def in_flight(part_bytes: int, concurrency: int) -> int:
    """How many parts of this size may be in flight, so that memory stays that of `concurrency` parts of 16 MiB."""
    return max(1, min(concurrency, concurrency * LARGE_PART_BYTES // part_bytes))


def peak_upload_bytes(config: DiskConfig, size: int | None = None) -> int:
    """The most memory one `S3Storage.save` holds in buffers, for a file of `size` bytes (None: not known, under 8 GiB).

    `concurrency` parts in flight, one being read, one for the copy that a short last part takes. Larger parts lower the
    parts in flight instead (`in_flight`), so only parts of over `concurrency` * 16 MiB raise the ceiling.
    """
    part = part_bytes_for(size)
    return (in_flight(part, config.concurrency) + 2) * part


def composite_etag(parts: Sequence[Part]) -> str | None:
    """The ETag that a store gives the finished object: MD5 over the parts' MD5s, and their number. None if not comparable.

    Ceph, MinIO and Amazon (but for objects encrypted with KMS keys) all do it like this.
    """
    try:
        joined = b"".join(bytes.fromhex(part.etag) for part in parts)
    except ValueError:
        return None
    if len(joined) != 16 * len(parts):
        return None
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"


class Multipart:
    """A multipart upload that exists at the store. `digests` is None where botocore must sign on its own."""

    def __init__(self, client: Any, where: Mapping[str, str], upload_id: str, digests: KnownDigests | None) -> None:
        self._client, self._digests, self.upload_id = client, digests, upload_id
        if not upload_id:
            raise UploadLost  # stores take a part with an empty upload id for a whole file
        self._where, self._upload = where, {**where, "UploadId": upload_id}

    # --- parts -----------------------------------------------------------------------------------------------

    def send_part(self, number: int, offset: int, body: bytes | bytearray) -> Part:
        """Store one part; the store compares its SHA-256. Raises `UploadLost`."""
        digest = hashlib.sha256(body).hexdigest()
        with translated(upload=True):
            if self._digests is None:
                answer = self._client.upload_part(**self._upload, PartNumber=number, Body=body)
            else:
                with self._digests.use(digest):
                    answer = self._client.upload_part(**self._upload, PartNumber=number, Body=body)
        return Part(number, offset, len(body), answer["ETag"].strip('"'), digest)

    def copy_part(self, number: int, source: Mapping[str, str], start: int, size: int) -> str:
        """Have the store copy a range of one of its objects; the part's ETag, which is the range's MD5 where ETags are.

        Raises `FileMissing` if it is the source, `UploadLost` if it is the upload. Compare the ETag: Ceph 16 decodes the
        source's key twice, so for one with `%41` in it, it copies the object with an `A` there, or finds none.
        """
        if start < 0 or size < 1:
            raise InvalidRequest("A copied part begins at 0 or later and has at least one byte.")
        span = f"bytes={start}-{start + size - 1}"
        with translated():
            answer = self._client.upload_part_copy(
                **self._upload, PartNumber=number, CopySource=dict(source), CopySourceRange=span
            )
        return str(answer["CopyPartResult"]["ETag"]).strip('"')

    def send_all(
        self, first: bytearray, reader: Reader, concurrency: int, hash_block: Callable[[memoryview], None]
    ) -> list[Part]:
        """Send `first` (a full part) and what follows in `reader`; the parts in order.

        The next part is read while earlier ones are in flight. When anything fails, those in flight are waited for and
        the error is raised; the caller aborts.
        """
        base, offset, parts, number = len(first), 0, list[Part](), 1
        spare: list[bytearray] = []
        flying: dict[Future[Part], bytearray] = {}

        def collect(at_most: int) -> None:
            while len(flying) > at_most:
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    spare.append(flying.pop(future))
                    parts.append(future.result())

        with ThreadPoolExecutor(concurrency, thread_name_prefix="s3-part") as pool:
            buffer, size = first, len(first)
            while size:
                if number > MAX_PARTS:
                    raise PayloadTooLarge("The storage takes no file of this size.")
                collect(in_flight(len(buffer), concurrency) - 1)
                # A short last part is copied: at most one part more in memory, once.
                body = buffer if size == len(buffer) else bytes(memoryview(buffer)[:size])
                flying[pool.submit(self.send_part, number, offset, body)] = buffer
                offset, number = offset + size, number + 1
                if size < len(buffer):
                    break
                want = grown_part_bytes(number, base)
                # Parts of another size cannot reuse the buffers; the old ones are let go.
                spare[:] = [kept for kept in spare if len(kept) == want]
                collect(in_flight(want, concurrency))
                buffer = spare.pop() if spare and len(spare[-1]) == want else bytearray(want)
                size = fill(reader, memoryview(buffer), hash_block)
            collect(0)
        return sorted(parts, key=lambda part: part.number)

    def list_parts(self) -> list[StoredPart]:
        """All pages. Raises `UploadLost`."""
        found: list[StoredPart] = []
        marker = 0
        while True:
            with translated(upload=True):
                answer = self._client.list_parts(**self._upload, PartNumberMarker=marker)
            found += [
                StoredPart(part["PartNumber"], part["Size"], str(part.get("ETag", "")).strip('"'))
                for part in answer.get("Parts", [])
            ]
            if not answer.get("IsTruncated"):
                return found
            marker = answer["NextPartNumberMarker"]

    # --- the end ---------------------------------------------------------------------------------------------

    def complete(self, parts: Sequence[Part], *, if_absent: bool = False) -> dict[str, Any]:
        """Make the object visible; its HEAD answer. Raises `UploadLost` unless the store shows that very object.

        An answer of success is not taken at its word (Ceph repeats it for an upload completed long ago), nor is the
        lack of one taken for a failure (a reply can be lost, and the retry then finds no upload): the object's ETag and
        size decide. An error inside a 200 is turned into a retry and then an error by botocore (tested).
        """
        only = {"IfNoneMatch": "*"} if if_absent else {}
        listed = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        # What proves that the object is ours: what these parts add up to, or what the store just said it made of them.
        tags = {composite_etag(parts)}
        try:
            answer = self._client.complete_multipart_upload(**self._upload, MultipartUpload={"Parts": listed}, **only)
            tags.add(str(answer.get("ETag", "")).strip('"') or None)  # Ceph 16 sends an empty one
        except (ClientError, BotoCoreError) as error:
            failure = translate(error)
            # Whatever the store said (Ceph 16: "500, already in progress" for ever): only an upload that is gone, with
            # the object in its place, was completed. One that is still there can be completed again.
            if not isinstance(failure, (UploadLost, FileMissing, StorageUnavailable)) or not self._is_gone():
                raise failure from None
        found = self.finished(tags)
        if found is None:
            raise UploadLost
        if found["ContentLength"] != sum(part.size for part in parts):
            raise ObjectCorrupt
        return found

    def finished(self, tags: Container[str | None]) -> dict[str, Any] | None:
        """The HEAD answer of the object if its ETag is one of these."""
        try:
            with translated():
                head: dict[str, Any] = self._client.head_object(**self._where)
        except FileMissing:
            return None
        return head if str(head["ETag"]).strip('"') in tags else None

    def _is_gone(self) -> bool:
        try:
            self.list_parts()
        except UploadLost:
            return True
        return False

    def abort(self) -> bool:
        """Discard, and look until the store holds nothing of it any more; False if it could not be made sure of."""
        for attempt in range(ABORT_TRIES):
            try:
                with translated(upload=True):
                    self._client.abort_multipart_upload(**self._upload)
                if self._is_gone():
                    return True
            except UploadLost:
                return True
            except StorageError:
                if attempt:
                    break  # the store is down or refuses us, and botocore has tried several times by now
            time.sleep(ABORT_PAUSE_SECONDS * 2**attempt)
        # The orphan sweep has to find it.
        observability.log_event("multipart_upload_not_aborted", logging.WARNING)
        return False
