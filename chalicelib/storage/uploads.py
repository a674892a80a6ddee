"""Upload sessions as their callers see them: what the web tier's tus and presigned handlers stand on.

A session is one file on its way, in as many calls as its client likes, through any process of either tier; the offset that
was told is durable. `UploadSessions` is the protocol; `remote/uploads.py` speaks it to the services tier over HTTP, and the
services tier offers it in-process to the testing role. Imports the contract only.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from chalicelib.errors import InvalidRequest
from chalicelib.storage.base import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """What a session is opened with. `size` in bytes; None is a length that is told later (`declare_size`).

    `sha256` (hex) is compared before the file counts as there. `idempotency_key`: the same key with the same values gives
    the same session, with others `IdempotencyMismatch`. `note` is the client's own text (strings, 8 KiB together), given
    back by `status`. `partial`: bytes that `concatenate` will take; `path` is then chosen by the services tier.
    `direct`: parts go straight to the store by presigned URLs; `part_bytes` is then the length of every part but the last
    where the client says it, so that the lengths can be signed (any of 5 MiB or more that makes at most 10,000 parts).
    """

    disk: str
    path: str = ""
    size: int | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    sha256: str | None = None
    if_absent: bool = True
    idempotency_key: str | None = None
    note: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False
    direct: bool = False
    part_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "metadata": dict(self.metadata), "note": dict(self.note)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a finished upload is answered with. `completed_at` is ISO 8601 in UTC.

    `sha256` is None until the whole file has been verified; `parts_sha256` is then what can be said: SHA-256 over the
    parts' binary digests, a dash, their number. `ledger` is where the event stands, as `shard/sequence`.
    """

    file_id: str
    path: str
    size: int
    sha256: str | None
    parts_sha256: str | None
    etag: str
    tracking_id: str
    completed_at: str
    ledger: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{name: values.get(name) for name in cls.__slots__})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadStatus:
    """Where a session stands. `offset` bytes are durable; `expires_at` in epoch seconds; `chunk_bytes` is a good size.

    `state` is one of design section 5: `AVAILABLE` comes with a `receipt`; `ABORTED`, `FAILED`, `LOST` are over without.
    """

    upload_id: str
    offset: int
    size: int | None
    state: str
    chunk_bytes: int
    expires_at: int
    partial: bool = False
    note: Mapping[str, str] = field(default_factory=dict)
    receipt: Receipt | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "note": dict(self.note)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        known = {name: values[name] for name in cls.__slots__ if name in values}
        receipt = known.get("receipt")
        return cls(**{**known, "receipt": Receipt.from_json(receipt) if receipt else None})


@dataclass(frozen=True, slots=True)
class Checksum:
    """A digest of one chunk as a client announced it: `algorithm` is `sha1` or `sha256`, `digest` the raw bytes."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A request that anybody can send for `expires_in` seconds. `headers` must be sent exactly as they are here."""

    method: str
    url: str
    headers: Mapping[str, str]
    expires_in: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "headers": dict(self.headers)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{name: values[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One part that the store itself says it holds. `etag` without quotes."""

    number: int
    size: int
    etag: str


class UploadSessions(Protocol):
    """All raise `UploadMissing` (unknown, another user's, or ended without a file), `LedgerUnavailable`."""

    def create(self, new: NewUpload) -> UploadStatus:
        """Record the intent and open a session; one of size 0 is finished at once.

        Raises `Forbidden`, `FileExists`, `UploadInProgress`, `PayloadTooLarge`, `IdempotencyMismatch`.
        """
        ...

    def concatenate(self, new: NewUpload, upload_ids: Sequence[str]) -> UploadStatus:
        """One file from finished partial uploads, in this order; they are gone afterwards. Asking again is safe.

        Raises `InvalidRequest` unless all of them are the caller's finished partial uploads.
        """
        ...

    def status(self, upload_id: str, *, settle: bool = False) -> UploadStatus:
        """Where it stands. `settle`: one whose bytes are all there, but whose end nobody saw, is completed first."""
        ...

    def declare_size(self, upload_id: str, size: int) -> UploadStatus:
        """Say the length of an upload whose size was left open; saying the same again is no error.

        Raises `UploadStateConflict`, `PayloadTooLarge`, `LengthMismatch` when more has arrived already.
        """
        ...

    def append(self, upload_id: str, offset: int, body: Reader, *, checksum: Checksum | None = None) -> UploadStatus:
        """Add a chunk of any size at `offset`; returns when it is durable, and, at the announced size, the file finished.

        What arrived before a body broke is kept and counted; then the body's error is raised. With a `checksum` nothing
        is kept unless it matches (`ChecksumMismatch`), and the chunk holds at most `limits.CHECKED_CHUNK_BYTES`.
        Raises `OffsetConflict`, `UploadInProgress` (another call is writing), `LeaseLost`, `UploadLost`, `LengthMismatch`.
        """
        ...

    def complete(self, upload_id: str, *, sha256: str | None = None) -> UploadStatus:
        """Make the file visible, once; asking again gives the same receipt. Raises `LengthMismatch`, `DigestMismatch`."""
        ...

    def abort(self, upload_id: str) -> None:
        """Discard a session and what it stored. One that has ended is left as it is."""
        ...

    def presigning(self) -> bool:
        """Whether direct transfer is switched on for submissions; may be a minute old. Raises `ServicesUnavailable`."""
        ...

    def store_origin(self) -> str:
        """Where a browser's direct transfers of submissions go (scheme, host, port); "" where there are none."""
        ...

    def sign_part(self, upload_id: str, number: int, *, size: int | None, sha256: str | None) -> SignedRequest:
        """A presigned PUT of one part of a `direct` session. Raises `PresigningOff`, `InvalidRequest`."""
        ...

    def stored_parts(self, upload_id: str) -> Sequence[StoredPart]:
        """What the store holds of a `direct` session."""
        ...

    def file_url(self, file_id: str, expires_in: int) -> SignedRequest:
        """A presigned GET of an available file, 1 to 900 seconds. Raises `PresigningOff`, `FileMissing`, `Forbidden`."""
        ...


def checksum_of(header: str | None) -> Checksum | None:
    """`Upload-Checksum` or `X-Depot-Checksum`: an algorithm and a base64 digest. Raises `InvalidRequest`."""
    if not header:
        return None
    algorithm, _, text = header.strip().partition(" ")
    try:
        digest = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        digest = b""
    if {"sha1": 20, "sha256": 32}.get(algorithm) != len(digest):
        raise InvalidRequest("A checksum is 'sha1' or 'sha256', a space, and the digest in base64.")
    return Checksum(algorithm, digest)
