"""The ledger's DynamoDB tables: immutable events, and one row for each operation that has no outcome yet.

`chalicelib.dynamo.bind()` gives them their names. Events are only ever put (by `append`) and queried; nothing here or
elsewhere updates or deletes one. Imported by the ledger's own modules, by wiring, and for `log_operation`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self

from pynamodb.attributes import Attribute, BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.constants import STRING
from pynamodb.indexes import GlobalSecondaryIndex
from pynamodb.models import Model

from chalicelib.errors import LedgerUnavailable
from nas_gateway.ledger.events import (
    CLEANED_BY,
    GENESIS,
    INDEX_ONLY,
    Action,
    Intent,
    Operation,
    Outcome,
    event_hash,
    index_keys,
    iso,
    plain,
    utcnow,
)
from nas_gateway.ledger.indexes import (
    ByAction,
    ByCohort,
    ByDay,
    ByFailure,
    ByFile,
    ByTracking,
    ByUser,
    Projected,
)


class TimeAttribute(Attribute[datetime]):
    """A time as the text that is also hashed, to the microsecond; sorts by time."""

    attr_type = STRING

    def serialize(self, value: datetime) -> str:
        return iso(value)

    def deserialize(self, value: str) -> datetime:
        return datetime.fromisoformat(value)


class PHIFileTracking(Model):
    """One immutable event. `hash` covers every attribute but itself and the three that only serve indexes."""

    class Meta:
        suffix = "phi-file-tracking"

    shard = NumberAttribute(hash_key=True)
    seq = NumberAttribute(range_key=True)
    v = NumberAttribute()
    event_id = UnicodeAttribute()
    tracking_id = UnicodeAttribute()
    at = TimeAttribute()
    action = UnicodeAttribute()
    outcome = UnicodeAttribute()
    server_role = UnicodeAttribute()
    user = UnicodeAttribute(null=True)
    cohort = UnicodeAttribute(null=True)
    file_id = UnicodeAttribute(null=True)
    upload_id = UnicodeAttribute(null=True)
    disk = UnicodeAttribute(null=True)
    file_path = UnicodeAttribute(null=True)
    file_type = UnicodeAttribute(null=True)
    file_size = NumberAttribute(null=True)
    file_hash = UnicodeAttribute(null=True)
    content_object = UnicodeAttribute(null=True)
    metadata = JSONAttribute(null=True)
    cleanup_required = BooleanAttribute(default=False)
    expected_cleanup_by = TimeAttribute(null=True)
    cleanup_scheduled_for = TimeAttribute(null=True)
    request_id = UnicodeAttribute(null=True)
    stream_start = TimeAttribute(null=True)
    stream_complete = TimeAttribute(null=True)
    bytes_transferred = NumberAttribute(default=0)
    error_code = UnicodeAttribute(null=True)
    error_message = UnicodeAttribute(null=True)
    prev_hash = UnicodeAttribute(default=GENESIS)
    hash = UnicodeAttribute()
    # Derived from the above, for indexes only.
    at_key = UnicodeAttribute()
    day = UnicodeAttribute()
    failed_day = UnicodeAttribute(null=True)

    by_tracking = ByTracking()
    by_file = ByFile()
    by_cohort = ByCohort()
    by_user = ByUser()
    by_action = ByAction()
    by_day = ByDay()
    by_failure = ByFailure()

    @classmethod
    def linked(cls, *, seq: int, prev_hash: str, at: datetime, **values: Any) -> Self:
        """A complete event at its place in the chain, hash and index keys included."""
        stamp = iso(at)
        event = plain({**values, "seq": seq, "prev_hash": prev_hash, "at": stamp})
        # Attributes take the very text that is hashed, so that what is read back hashes the same.
        return cls(
            **{name: _native(name, value) for name, value in event.items()},
            hash=event_hash(prev_hash, event),
            **index_keys(stamp, event["shard"], seq, event["outcome"]),
        )

    @property
    def position(self) -> str:
        """Where the event stands, as a receipt tells it: `shard/sequence`."""
        return f"{int(self.shard)}/{int(self.seq)}"

    def to_dict(self) -> dict[str, Any]:
        """The event as `events.canonical` and `chain.verify_chain` take it: plain JSON values, `hash` included."""
        return plain({name: value for name, value in self.attribute_values.items() if name not in INDEX_ONLY})

    @classmethod
    def log_operation(
        cls,
        *,
        action: str,
        cohort: str | None = None,
        user: str | None = None,
        file_path: str | None = None,
        file_type: str | None = None,
        file_size: int | None = None,
        file_hash: str | None = None,
        content_object: object = None,
        metadata: Mapping[str, Any] | None = None,
        cleanup_required: bool = False,
        expected_cleanup_by: datetime | None = None,
        error_message: str | BaseException | None = None,
        bytes_transferred: int = 0,
        **more: Any,
    ) -> PHIFileTracking:
        """Record one event through the default ledger, with the signature of the seeds.

        The outcome is `failed` when there is an error message or the action says so, else `completed`. `content_object`
        may be any object with an `id`; it is kept as "Class:id". `more` is what else `Operation` takes. Raises
        `InvalidRequest`, and `LedgerUnavailable` when nothing could be written.
        """
        operation = Operation(
            action=action,
            cohort=cohort,
            user=user,
            file_path=file_path,
            file_type=file_type,
            file_size=file_size,
            file_hash=file_hash,
            content_object=_reference(content_object),
            metadata={str(k): v if isinstance(v, str) else json.dumps(v) for k, v in (metadata or {}).items()},
            cleanup_required=cleanup_required,
            expected_cleanup_by=expected_cleanup_by,
            **more,
        )
        failed = error_message is not None or action.endswith("_failed")
        outcome = Outcome.FAILED if failed else Outcome.COMPLETED
        return default_ledger().record(operation, outcome, error=error_message, bytes_transferred=bytes_transferred)

    def mark_cleaned_up(self, *, user: str | None) -> PHIFileTracking:
        """Record that what this event created is gone. Appends an event whose metadata `cleans` names this operation."""
        operation = Operation(
            action=CLEANED_BY.get(self.action, Action.WORK_COPY_DELETED),
            user=user,
            cohort=self.cohort,
            file_id=self.file_id,
            upload_id=self.upload_id,
            disk=self.disk,
            file_path=self.file_path,
            file_type=self.file_type,
            file_size=None if self.file_size is None else int(self.file_size),
            content_object=self.content_object,
            metadata={"cleans": self.tracking_id},
        )
        return default_ledger().record(operation, Outcome.COMPLETED)


_TIMES = frozenset(name for name, kind in PHIFileTracking.get_attributes().items() if isinstance(kind, TimeAttribute))


def _native(name: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if name in _TIMES else value


def _reference(thing: object) -> str | None:
    if thing is None or isinstance(thing, str):
        return thing
    return f"{type(thing).__name__}:{getattr(thing, 'id', '?')}"


class ByAge(GlobalSecondaryIndex["OpenOperation"]):
    class Meta(Projected):
        index_name = "by-age"

    shard = NumberAttribute(hash_key=True)
    opened_at = TimeAttribute(range_key=True)


class OpenOperation(Model):
    """An intent without outcome. Its row goes in the transaction that writes the outcome, so there can be only one."""

    class Meta:
        suffix = "open-operations"

    tracking_id = UnicodeAttribute(hash_key=True)
    shard = NumberAttribute()
    opened_at = TimeAttribute(default=utcnow)
    server_role = UnicodeAttribute()
    operation = JSONAttribute()

    by_age = ByAge()

    def to_intent(self) -> Intent:
        return Intent(self.tracking_id, Operation.from_json(self.operation), self.opened_at, int(self.shard))


# Every table of the ledger, for `dynamo.bind` and `dynamo.create`.
MODELS: list[type[Model]] = [PHIFileTracking, OpenOperation]


# --- the default ledger, for log_operation ---------------------------------------------------------------------


class Recorder(Protocol):
    """What `log_operation` needs of a ledger."""

    def record(
        self,
        operation: Operation,
        outcome: Outcome = ...,
        *,
        error: BaseException | str | None = None,
        bytes_transferred: int = 0,
    ) -> PHIFileTracking: ...


@dataclass(slots=True)
class _Default:
    ledger: Recorder | None = None


_default = _Default()


def set_default(ledger: Recorder | None) -> None:
    """Called by wiring, once a process."""
    _default.ledger = ledger


def default_ledger() -> Recorder:
    if _default.ledger is None:
        raise LedgerUnavailable("This process has no ledger, so no file may move. The operator should check its role.")
    return _default.ledger
