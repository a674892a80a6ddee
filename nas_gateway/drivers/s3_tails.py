"""Tails as objects `prefix/.depot-stage/NAME`. Used by `S3Storage` only.

No path of a caller begins with `.depot` (`paths.RESERVED_PREFIX`), and listings leave such keys out (`common.is_ours`).
"""

from __future__ import annotations

from collections.abc import Iterator

from chalicelib.storage.base import StagedTail
from nas_gateway.drivers import common
from nas_gateway.drivers.s3_bucket import S3Bucket
from nas_gateway.drivers.s3_errors import translated

_STAGE = ".depot-stage/"


class S3Tails(S3Bucket):
    """The tails of one disk."""

    def put_tail(self, name: str, data: bytes | bytearray | memoryview) -> None:
        digest = common.tail_digest(name)
        if self._digests is None:
            common.check_tail(name, data)  # otherwise the store compares what arrives with the digest in the name
        self._put(_STAGE + name, bytes(data) if isinstance(data, memoryview) else data, digest)

    def get_tail(self, name: str) -> bytes:
        common.tail_digest(name)
        return common.intact_tail(name, self._raw(_STAGE + name))

    def delete_tail(self, name: str) -> None:
        common.tail_digest(name)
        self._delete(_STAGE + name)

    def list_tails(self) -> Iterator[StagedTail]:
        folder = self._prefix + _STAGE
        start: dict[str, str] = {}
        while True:
            with translated():
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=folder, **start)
            found = answer.get("Contents", [])
            for item in found:
                name = item["Key"].removeprefix(folder)
                if common.is_tail(name):
                    yield StagedTail(name, item["Size"], item["LastModified"])
            if not answer.get("IsTruncated") or not found:
                return
            start = {"StartAfter": found[-1]["Key"]}
