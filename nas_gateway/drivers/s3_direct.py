"""Requests that clients send to the store themselves, signed here. Used by `S3Storage` only. No network.

Query-signed SigV4. What is bound: method, host, key, every query parameter (so upload id and part number), Content-Length
and, where given, the body's SHA-256 as a signed `x-amz-content-sha256`, which is then the payload hash too: Ceph 16 compares
the body with it (it does not with `x-amz-checksum-sha256`, nor with the digest as a query parameter).

**Headers that are not signed.** Amazon refuses an `x-amz-*` header that is not signed; Ceph 16 obeys it, and so did MinIO and
others until 2026: with `x-amz-copy-source` the sender of a presigned part has the store copy any file that our key can read,
another cohort's too. On Ceph a signed length of 1 or more stops it (the copy reads no body, and the store finds it missing;
tested), so no part is signed without one. That a store does not, no signature can help: the proxy before the public endpoint
must drop `x-amz-copy-source*` (docs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import boto3
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from chalicelib.config import DiskConfig
from chalicelib.errors import InvalidRequest, PresigningOff, StorageRefused, UploadLost
from chalicelib.http import content_disposition
from chalicelib.limits import GIB, PRESIGN_MAX_SECONDS
from chalicelib.storage.paths import normalise
from chalicelib.storage.uploads import SignedRequest, StoredPart
from nas_gateway.drivers import common
from nas_gateway.drivers.s3_errors import KEYS
from nas_gateway.drivers.s3_parts import S3Parts

# Amazon S3 user guide, "Multipart upload limits".
_MAX_PART_BYTES = 5 * GIB


class Signer:
    """Signs for one endpoint with a disk's keys; without keys in the settings, boto3's own chain finds them."""

    def __init__(self, config: DiskConfig) -> None:
        self._endpoint, self._region = config.public_endpoint, config.region
        self._credentials = boto3.Session(
            aws_access_key_id=config.access_key.reveal() or None,
            aws_secret_access_key=config.secret_key.reveal() or None,
        ).get_credentials()

    def sign(
        self,
        method: str,
        where: Mapping[str, str],
        expires_in: int,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SignedRequest:
        """`headers` are signed, and part of the answer: they must be sent as they are."""
        if self._credentials is None:
            raise StorageRefused(KEYS)
        url = f"{self._endpoint}/{where['Bucket']}/{quote(where['Key'], safe='/~')}"
        sent = dict(headers or {})
        request = AWSRequest(method, url, headers=sent, params=dict(query or {}))
        frozen = self._credentials.get_frozen_credentials()
        S3SigV4QueryAuth(frozen, "s3", self._region, expires_in).add_auth(request)
        return SignedRequest(method=method, url=str(request.url), headers=sent, expires_in=expires_in)


class S3Direct(S3Parts):
    """Presigned parts and downloads of one disk."""

    def __init__(self, config: DiskConfig, client: Any = None) -> None:
        super().__init__(config, client)
        self._signer = Signer(config) if config.public_endpoint else None

    def _signer_for(self, expires_in: int) -> Signer:
        if self._signer is None:
            raise PresigningOff
        if not 1 <= expires_in <= PRESIGN_MAX_SECONDS:
            raise InvalidRequest(f"expires_in is 1 to {PRESIGN_MAX_SECONDS} seconds.")
        return self._signer

    def presign_part(
        self, path: str, handle: str, number: int, *, size: int | None, sha256: str | None, expires_in: int
    ) -> SignedRequest:
        signer, digest = self._signer_for(expires_in), common.check_sha256(sha256)
        common.check_part(number, 0)
        if not handle:
            raise UploadLost  # stores take a part with an empty upload id for a whole file
        if size is None or not 1 <= size <= _MAX_PART_BYTES:
            raise InvalidRequest("The part's exact size must be known before it can be sent to the storage directly.")
        headers = {"Content-Length": str(size)}
        if digest:
            headers["x-amz-content-sha256"] = digest
        query = {"partNumber": str(number), "uploadId": handle}
        return signer.sign("PUT", self._where(normalise(path)), expires_in, query, headers)

    def presign_download(self, path: str, *, filename: str, content_type: str, expires_in: int) -> SignedRequest:
        query = {
            "response-content-disposition": content_disposition(filename),
            "response-content-type": common.check_content_type(content_type),
        }
        return self._signer_for(expires_in).sign("GET", self._where(normalise(path)), expires_in, query)

    def stored_parts(self, path: str, handle: str) -> list[StoredPart]:
        return self._multipart(path, handle).list_parts()
