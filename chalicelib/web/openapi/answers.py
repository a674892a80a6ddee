"""What the calls about this tier, files, uploads and the ledger answer, where no dataclass of the contract says it.

Declared because the services tier makes these as plain objects. Used by the operations alone; a test compares every one with
what the running tiers answer.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from chalicelib.storage.catalog import FileView
from chalicelib.storage.uploads import Receipt
from chalicelib.web.openapi.kinds import Bytes, Count, Digest, Id, Time
from chalicelib.web.openapi.schemas import says

# --- the tier itself --------------------------------------------------------------------------------------------------


class FrontDoor(TypedDict):
    """Where things are."""

    name: str
    server_role: str
    sign_in: str
    files: str
    health: str


class Landlock(TypedDict):
    """Whether the kernel keeps this process from writing: since which version of its interface, or why not."""

    enforced: bool
    abi: NotRequired[int]
    reason: NotRequired[str]


class Sandbox(TypedDict):
    """What keeps the web tier from writing. `write_attempts` counts those that were refused."""

    landlock: Landlock
    rlimit_fsize: int | None
    audit_hook: bool
    write_attempts: Count


class Health(TypedDict):
    """Whether this tier can do its job."""

    status: Literal["healthy", "unhealthy"]
    server_role: str
    services: Literal["reachable", "unreachable"]
    sandbox: Sandbox


class ClientConfig(TypedDict):
    """What a client must know before it sends anything. `max_chunk_bytes` null: no ceiling."""

    transfer: Literal["presigned", "proxy"]
    max_chunk_bytes: Bytes | None
    part_bytes: Bytes


# --- files and uploads ------------------------------------------------------------------------------------------------


class StoredFile(TypedDict):
    """A file that was stored. `ledger` is where its event stands, as `shard/sequence`."""

    file_id: Id
    path: str
    size: Bytes
    sha256: Digest | None
    tracking_id: str
    completed_at: Time
    ledger: str | None


class Files(TypedDict):
    """A page of files; `cursor` is null on the last."""

    files: list[FileView]
    cursor: str | None


class DeletedFile(TypedDict):
    file_id: Id
    deleted: Literal[True]


class UploadForm(TypedDict):
    """A form to send a whole file in. `expires` in seconds."""

    method: Literal["POST"]
    url: str
    fields: dict[str, str]
    expires: int


class DirectUpload(TypedDict):
    """An upload whose parts go straight to the storage. `key` and `uploadId` are the same."""

    key: Id
    uploadId: Id
    bucket: str
    part_bytes: Bytes


class SignedPart(TypedDict):
    """A request that stores one part. `headers` must be sent exactly as they are here; `expires` in seconds."""

    method: str
    url: str
    headers: dict[str, str]
    expires: int


class DirectPart(TypedDict):
    PartNumber: Annotated[int, says(minimum=1)]
    Size: Bytes
    ETag: str


class DirectDone(TypedDict):
    """A direct upload that is a file now. `location` is the file's address."""

    location: str
    key: Id
    bucket: str
    receipt: Receipt


class Nothing(TypedDict):
    """An empty object."""


# --- the ledger -------------------------------------------------------------------------------------------------------


class Event(TypedDict):
    """One event of the ledger. What it is and how it is hashed: docs/ledger-format.md."""

    v: int
    shard: int
    seq: Annotated[int, says(minimum=1)]
    event_id: str
    tracking_id: str
    at: Time
    action: str
    outcome: Literal["intent", "completed", "failed", "unknown"]
    server_role: str
    user: NotRequired[str]
    cohort: NotRequired[str]
    file_id: NotRequired[str]
    upload_id: NotRequired[str]
    disk: NotRequired[str]
    file_path: NotRequired[str]
    file_type: NotRequired[str]
    file_size: NotRequired[Bytes]
    file_hash: NotRequired[str]
    content_object: NotRequired[str]
    metadata: NotRequired[dict[str, str]]
    cleanup_required: bool
    expected_cleanup_by: NotRequired[Time]
    cleanup_scheduled_for: NotRequired[Time]
    request_id: NotRequired[str]
    stream_start: NotRequired[Time]
    stream_complete: NotRequired[Time]
    bytes_transferred: Bytes
    error_code: NotRequired[str]
    error_message: NotRequired[str]
    prev_hash: Digest
    hash: Digest


class Events(TypedDict):
    """A page of events in order of time. It may be short, or empty, and still have a cursor, which is null on the last."""

    events: list[Event]
    cursor: str | None


class PublicKey(TypedDict):
    """Ed25519, base64."""

    public_key: str
