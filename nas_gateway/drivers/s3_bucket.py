"""What every S3 call needs: client, bucket, keys; and whole objects by name. Base of `S3Storage` and its capabilities."""

from __future__ import annotations

from typing import Any

from chalicelib.config import DiskConfig
from chalicelib.errors import InvalidPath
from chalicelib.limits import MAX_PATH_BYTES
from nas_gateway.drivers.s3_client import KnownDigests, make_client, send_content_md5
from nas_gateway.drivers.s3_errors import translated


class S3Bucket:
    """One disk in a bucket: a name stands for the key `prefix/name`. Names are not checked here."""

    def __init__(self, config: DiskConfig, client: Any = None) -> None:
        self.disk, self._bucket, self._concurrency = config.name, config.bucket, config.concurrency
        # Disks of one account at one endpoint can copy from one another without us.
        self._account = (config.endpoint, config.region, config.access_key)
        self._prefix = f"{config.prefix}/" if config.prefix else ""
        self._client = make_client(config) if client is None else client
        # With when_supported botocore may send the body in signed chunks with a trailing checksum: its business then.
        self._digests = KnownDigests(self._client) if config.checksums == "when_required" else None
        send_content_md5(self._client)

    def __repr__(self) -> str:
        return f"S3Storage(disk={self.disk!r})"

    def _where(self, path: str) -> dict[str, str]:
        key = self._prefix + path
        if len(key.encode()) > MAX_PATH_BYTES:  # S3's own limit; the prefix counts
            raise InvalidPath(f"On this disk a path takes at most {MAX_PATH_BYTES - len(self._prefix.encode())} bytes.")
        return {"Bucket": self._bucket, "Key": key}

    def _put(self, path: str, body: bytes | bytearray, digest: str, **fields: Any) -> dict[str, Any]:
        """Signed with the body's SHA-256 (hex), so that the store compares it."""
        with translated():
            if self._digests is None:
                answer: dict[str, Any] = self._client.put_object(**self._where(path), Body=body, **fields)
            else:
                with self._digests.use(digest):
                    answer = self._client.put_object(**self._where(path), Body=body, **fields)
        return answer

    def _raw(self, name: str) -> bytes:
        with translated():
            answer = self._client.get_object(**self._where(name))
            with answer["Body"] as body:
                return bytes(body.read())

    def _delete(self, path: str) -> None:
        """What is not there is deleted without a word."""
        with translated():
            self._client.delete_object(**self._where(path))
