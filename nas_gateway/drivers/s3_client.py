"""The boto3 client of one disk, and requests signed with a digest that is already known. For `nas_gateway.drivers` only."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import botocore
from botocore.config import Config

from chalicelib.config import DiskConfig

# One RGW answers within milliseconds; a minute covers a store that recovers, and stays below the tiers' own 120 s.
CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 60
# botocore's standard mode: the first try and two more, with jittered back-off of at most 20 s.
ATTEMPTS = 3
# 40 threads of the streaming host with four parts each; connections are made when needed, not ahead.
MAX_CONNECTIONS = 160


def make_client(config: DiskConfig) -> Any:
    """A client for the disk's endpoint. Without keys in the settings, boto3's own chain finds them (a Lambda role)."""
    return boto3.client(
        "s3",
        endpoint_url=config.endpoint or None,
        region_name=config.region,
        aws_access_key_id=config.access_key.reveal() or None,
        aws_secret_access_key=config.secret_key.reveal() or None,
        config=Config(
            # boto3 presigns SigV2 on a custom endpoint in us-east-1 unless told otherwise.
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation=config.checksums,
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            max_pool_connections=MAX_CONNECTIONS,
            tcp_keepalive=True,
        ),
    )


class KnownDigests:
    """Signs PutObject and UploadPart with the SHA-256 that the driver computed anyway.

    botocore hashes every body once more to sign it: 0.6 CPU seconds a GiB and 10 % of the throughput here. The store
    compares the body with the signed digest all the same, so a byte that flips on the way is refused
    (`XAmzContentSHA256Mismatch`; tested against Ceph). Built on botocore's public events alone: for these calls its own
    signer is told to stand aside (`UNSIGNED`), and the signer it would have used is run with the digest put in.
    """

    def __init__(self, client: Any) -> None:
        self._current = threading.local()
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"choose-signer.s3.{operation}", self._choose)
            client.meta.events.register(f"before-sign.s3.{operation}", self._sign)

    @contextmanager
    def use(self, sha256: str) -> Iterator[None]:
        """Requests that this thread sends inside the block, retries too, have a body of this digest (hex)."""
        self._current.digest = sha256
        try:
            yield
        finally:
            self._current.digest = None

    def _digest(self) -> str | None:
        return getattr(self._current, "digest", None)

    def _choose(self, **_: Any) -> Any:
        # None leaves botocore's own choice; so presigned URLs and other callers of the client are not touched.
        return botocore.UNSIGNED if self._digest() else None

    def _sign(self, request: Any, request_signer: Any, signing_name: str, region_name: str, **_: Any) -> None:
        digest = self._digest()
        if digest:
            signer = request_signer.get_auth_instance(signing_name, region_name, "s3v4")
            signer.payload = lambda _request: digest
            signer.add_auth(request)


def send_content_md5(client: Any) -> None:
    """Put Content-MD5 on DeleteObjects: the original API demands it, and boto3 sends only a newer checksum since 1.36."""

    def add(params: dict[str, Any], **_: Any) -> None:
        digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()

    client.meta.events.register("before-call.s3.DeleteObjects", add)
