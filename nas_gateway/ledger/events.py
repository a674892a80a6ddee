"""What a ledger event says: actions, outcomes, the operation it is about, and the exact bytes that are hashed.

Knows the format only: no AWS, no tables, no clock but the one it is given. Imported by everything else in the ledger and
by use-cases; imports errors and limits. `docs/ledger-format.md` describes the same rules for people outside.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from chalicelib.errors import DepotError, InvalidRequest
from chalicelib.limits import KIB, MAX_PATH_BYTES

VERSION: Final = 1
SHARDS: Final = 16
GENESIS: Final = "0" * 64

# RFC 8785 (after I-JSON, RFC 7493): integers beyond this are not exact in every JSON reader. 5 TiB is far below.
MAX_INTEGER: Final = 2**53 - 1
# DynamoDB: a hash key of an index holds at most 2,048 bytes; names and ids need far less.
MAX_TEXT_BYTES: Final = 256
# Metadata is part of every event and of every index entry; write units are counted by KiB.
MAX_METADATA_BYTES: Final = 8 * KIB
MAX_MESSAGE_CHARS: Final = 1000
# Attributes of a row that serve its indexes: derived from the event, no part of it.
INDEX_ONLY: Final = frozenset({"at_key", "day", "failed_day"})


def index_keys(stamp: str, shard: int, seq: int, outcome: str) -> dict[str, Any]:
    """The attributes `INDEX_ONLY` of an event at the time `stamp`, as far as it has them."""
    day = stamp[:10]
    keys = {"at_key": f"{stamp}#{shard:02d}-{seq:015d}", "day": day}
    return {**keys, "failed_day": day} if outcome in (Outcome.FAILED, Outcome.UNKNOWN) else keys


class Outcome(StrEnum):
    """`intent`: about to happen. `unknown`: ended, but nobody can say how (found by the sweeper)."""

    INTENT = "intent"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Action:
    """Every action the ledger knows. The names of the first three groups are those of the seeds' documents."""

    # streaming
    FILE_UPLOADED_VIA_STREAM: Final = "file_uploaded_via_stream"
    FILE_UPLOADED_CHUNKED: Final = "file_uploaded_chunked"
    FILE_DOWNLOADED_VIA_STREAM: Final = "file_downloaded_via_stream"
    FILE_DELETED_VIA_API: Final = "file_deleted_via_api"
    PREFIX_DELETED_VIA_API: Final = "prefix_deleted_via_api"
    WORKSPACE_CLEANUP: Final = "workspace_cleanup"
    # standard
    NAS_RAW_CREATED: Final = "nas_raw_created"
    NAS_RAW_CREATION_FAILED: Final = "nas_raw_creation_failed"
    # work copies and conversion
    WORK_COPY_CREATED: Final = "work_copy_created"
    WORK_COPY_DELETED: Final = "work_copy_deleted"
    CONVERSION_STARTED: Final = "conversion_started"
    CONVERSION_COMPLETED: Final = "conversion_completed"
    # the counterparts that those need
    NAS_RAW_DELETED: Final = "nas_raw_deleted"
    NAS_DUCKDB_CREATED: Final = "nas_duckdb_created"
    NAS_DUCKDB_DELETED: Final = "nas_duckdb_deleted"
    NAS_REPORT_CREATED: Final = "nas_report_created"
    NAS_REPORT_DELETED: Final = "nas_report_deleted"
    WORK_COPY_DELETION_FAILED: Final = "work_copy_deletion_failed"
    CONVERSION_FAILED: Final = "conversion_failed"
    UPLOAD_ABORTED: Final = "upload_aborted"
    ACCESS_DENIED: Final = "access_denied"
    PRESIGNED_URL_ISSUED: Final = "presigned_url_issued"
    AUDIT_EXPORTED: Final = "audit_exported"
    SIGN_IN_FAILED: Final = "sign_in_failed"
    ORPHAN_UPLOAD_ABORTED: Final = "orphan_upload_aborted"
    ORPHAN_OBJECT_DELETED: Final = "orphan_object_deleted"
    TEMPORARY_FILE_DELETED: Final = "temporary_file_deleted"
    BACKUP_CREATED: Final = "backup_created"
    HOLD_SET: Final = "hold_set"
    HOLD_LIFTED: Final = "hold_lifted"
    DIGEST_RECORDED: Final = "digest_recorded"
    INTEGRITY_FAILED: Final = "integrity_failed"
    INTEGRITY_RESTORED: Final = "integrity_restored"
    # people
    USER_CREATED: Final = "user_created"
    USER_CHANGED: Final = "user_changed"
    USER_DISABLED: Final = "user_disabled"
    USER_ENABLED: Final = "user_enabled"
    PASSWORD_RESET: Final = "password_reset"  # noqa: S105
    PASSWORD_CHANGED: Final = "password_changed"  # noqa: S105
    COHORT_CREATED: Final = "cohort_created"
    TOKEN_CREATED: Final = "token_created"  # noqa: S105
    TOKEN_REVOKED: Final = "token_revoked"  # noqa: S105
    SECOND_FACTOR_ON: Final = "second_factor_on"
    SECOND_FACTOR_OFF: Final = "second_factor_off"
    SIGNED_IN: Final = "signed_in"
    SIGNED_OUT: Final = "signed_out"
    BREAK_GLASS_BEGUN: Final = "break_glass_begun"
    BREAK_GLASS_ENDED: Final = "break_glass_ended"

    KNOWN: frozenset[str]


Action.KNOWN = frozenset(value for name, value in vars(Action).items() if name.isupper() and isinstance(value, str))

# What `mark_cleaned_up` records for what was created; anything else that was temporary counts as a work copy.
CLEANED_BY: Final[Mapping[str, str]] = {
    Action.NAS_RAW_CREATED: Action.NAS_RAW_DELETED,
    Action.NAS_DUCKDB_CREATED: Action.NAS_DUCKDB_DELETED,
    Action.NAS_REPORT_CREATED: Action.NAS_REPORT_DELETED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is being done. `file_size` in bytes; times are aware and become UTC; "" counts as absent.

    `user` is None for what no person asked for (scheduled work). Raises `InvalidRequest` when a value cannot be recorded.
    """

    action: str
    user: str | None
    cohort: str | None = None
    file_id: str | None = None
    upload_id: str | None = None
    disk: str | None = None
    file_path: str | None = None
    file_type: str | None = None
    file_size: int | None = None
    file_hash: str | None = None
    content_object: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    cleanup_required: bool = False
    expected_cleanup_by: datetime | None = None
    cleanup_scheduled_for: datetime | None = None
    request_id: str | None = None

    def __post_init__(self) -> None:
        if self.action not in Action.KNOWN:
            raise InvalidRequest("The ledger does not know this action.")
        for name in _TEXTS:
            object.__setattr__(self, name, _text(name, getattr(self, name)))
        for name in ("expected_cleanup_by", "cleanup_scheduled_for"):
            object.__setattr__(self, name, _time(name, getattr(self, name)))
        if self.file_size is not None:
            check_count("file_size", self.file_size)
        object.__setattr__(self, "metadata", _metadata(self.metadata))
        object.__setattr__(self, "cleanup_required", bool(self.cleanup_required))

    def to_json(self) -> dict[str, Any]:
        """As an event holds it: absent fields left out, times as text."""
        return plain({item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Operation:
        """The reverse of `to_json`."""
        times = {
            name: datetime.fromisoformat(values[name])
            for name in ("expected_cleanup_by", "cleanup_scheduled_for")
            if name in values
        }
        return cls(**{"user": None, **values, **times})


_TEXTS: Final = (
    "user", "cohort", "file_id", "upload_id", "disk", "file_path", "file_type", "file_hash", "content_object", "request_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Intent:
    """An operation that the ledger has been told of and that has no outcome yet."""

    tracking_id: str
    operation: Operation
    stream_start: datetime
    shard: int


def utcnow() -> datetime:
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """ISO 8601, UTC, always six digits of microseconds and a Z: sorts as text in order of time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def shard_of(operation: Operation, tracking_id: str) -> int:
    """The chain of an operation: all events of one upload, or else of one file, hang in the same."""
    key = operation.upload_id or operation.file_id or tracking_id
    return zlib.crc32(key.encode()) % SHARDS


def describe(error: BaseException | str) -> tuple[str, str]:
    """Code and message of an error as the ledger keeps them.

    Of foreign exceptions only the class is kept: their messages may hold a path or a piece of a file.
    """
    if isinstance(error, DepotError):
        return error.code, error.message[:MAX_MESSAGE_CHARS]
    if isinstance(error, str):
        return "reported", error[:MAX_MESSAGE_CHARS]
    return "internal_error", type(error).__name__


# --- the bytes that are hashed --------------------------------------------------------------------------------

_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON holds them: None and empty metadata left out, datetimes as text, enums as their value."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or (name == "metadata" and not value):
            continue
        kept[name] = iso(value) if isinstance(value, datetime) else str(value) if isinstance(value, str) else value
    if "metadata" in kept:
        kept["metadata"] = dict(kept["metadata"])
    return kept


def canonical(event: Mapping[str, Any]) -> bytes:
    """The one serialisation of an event: every field but `hash`. Raises `ValueError` when it has none.

    >>> canonical({"seq": 1, "at": "2025-01-01T00:00:00.000000Z", "hash": "…", "user": "Ana"})
    b'{"at":"2025-01-01T00:00:00.000000Z","seq":1,"user":"Ana"}'
    """
    kept = {name: value for name, value in event.items() if name != "hash"}
    for name, value in kept.items():
        kind = type(value)
        if kind is str or kind is bool or (kind is int and -MAX_INTEGER <= value <= MAX_INTEGER):
            continue
        if kind is dict and all(type(item) is str for pair in value.items() for item in pair):
            continue
        raise ValueError(f"field {name!r} holds what has no canonical form")
    return _encode(kept).encode()


def event_hash(prev_hash: str, event: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the event's canonical bytes with `prev_hash` among its fields."""
    return digest({**event, "prev_hash": prev_hash})


def digest(event: Mapping[str, Any]) -> str:
    """`event_hash` of an event whose own `prev_hash` is known to be right."""
    return hashlib.sha256(canonical(event)).hexdigest()


# --- checks ---------------------------------------------------------------------------------------------------


def check_count(name: str, value: int) -> None:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise InvalidRequest(f"{name} must be a whole number of bytes, not negative.")


def _text(name: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    limit = MAX_PATH_BYTES if name == "file_path" else MAX_TEXT_BYTES
    if not isinstance(value, str) or _size(name, value) > limit:
        raise InvalidRequest(f"{name} must be text of at most {limit} bytes.")
    return str(value)


def _size(name: str, value: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} must be valid Unicode.") from None


def _time(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidRequest(f"{name} must be a time with a time zone.")
    return value.astimezone(UTC)


def _metadata(values: Mapping[str, str]) -> dict[str, str]:
    kept = dict(values or {})
    if not all(isinstance(item, str) for pair in kept.items() for item in pair):
        raise InvalidRequest("metadata must map text to text.")
    if sum(_size("metadata", item) for pair in kept.items() for item in pair) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"metadata must not exceed {MAX_METADATA_BYTES} bytes.")
    return kept
