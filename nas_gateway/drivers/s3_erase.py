"""Deletion that leaves nothing: the object, every version of it, and a look at what remains. Used by `S3Storage` only."""

from __future__ import annotations

from collections.abc import Iterator

from chalicelib.errors import FileMissing, Unsupported
from chalicelib.storage.base import Remains
from chalicelib.storage.paths import normalise
from nas_gateway.drivers.s3_bucket import S3Bucket
from nas_gateway.drivers.s3_errors import translated


class S3Erasing(S3Bucket):
    """In a bucket that keeps versions, deleting an object only hides it: here each version goes, markers too.

    Needs s3:ListBucketVersions and s3:DeleteObjectVersion. A store that knows no versions says so (501): then there are none
    to remove, and `remains` answers that it cannot tell.
    """

    def erase(self, path: str) -> int:
        path = normalise(path)
        self._delete(path)
        removed = 0
        try:
            # All are listed before the first goes: markers of a page must not point to what is gone.
            for version, is_marker in list(self._versions(path)):
                with translated():
                    self._client.delete_object(**self._where(path), VersionId=version)
                removed += not is_marker
        except Unsupported:
            return 0
        return removed

    def remains(self, path: str) -> Remains:
        path = normalise(path)
        try:
            versions: int | None = sum(1 for _ in self._versions(path))
        except Unsupported:
            versions = None
        try:
            with translated():
                self._client.head_object(**self._where(path))
            there = True
        except FileMissing:
            there = False
        return Remains(there, versions, list(self._open_uploads_at(path)))

    def _versions(self, path: str) -> Iterator[tuple[str, bool]]:
        """(version id, whether it is a delete marker) at exactly this path, which sorts before all that begin with it."""
        where, markers = self._where(path), dict[str, str]()
        while True:
            with translated():
                answer = self._client.list_object_versions(Bucket=where["Bucket"], Prefix=where["Key"], **markers)
            for kind, is_marker in (("Versions", False), ("DeleteMarkers", True)):
                for item in answer.get(kind, []):
                    if item["Key"] == where["Key"]:
                        yield str(item["VersionId"]), is_marker
            if not answer.get("IsTruncated") or answer.get("NextKeyMarker") != where["Key"]:
                return
            markers = {"KeyMarker": answer["NextKeyMarker"]}
            if answer.get("NextVersionIdMarker"):
                markers["VersionIdMarker"] = answer["NextVersionIdMarker"]

    def _open_uploads_at(self, path: str) -> Iterator[str]:
        where, markers = self._where(path), dict[str, str]()
        while True:
            with translated():
                answer = self._client.list_multipart_uploads(Bucket=where["Bucket"], Prefix=where["Key"], **markers)
            for item in answer.get("Uploads", []):
                if item["Key"] == where["Key"]:
                    yield str(item["UploadId"])
            if not answer.get("IsTruncated") or answer.get("NextKeyMarker") != where["Key"]:
                return
            markers = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
