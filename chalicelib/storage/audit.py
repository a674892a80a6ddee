"""The audit trail as the web tier asks for it, and the three things that the web tier may tell the ledger.

Reading is a question and pages of events. Telling is no way to write events: a refusal, an export, a failed sign-in. The
services tier checks each against what it knows itself and makes the event. `RemoteAuditTrail` asks over the transport;
in the testing role the services tier's own object stands in its place. Imports the contract only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from chalicelib.storage.remote import Transport

FORMATS: Final = ("csv", "jsonl")

# Every field that an event can have, in the order of docs/ledger-format.md. A test compares them with the table's.
FIELDS: Final = (
    "v", "shard", "seq", "event_id", "tracking_id", "at", "action", "outcome", "server_role", "user", "cohort",
    "file_id", "upload_id", "disk", "file_path", "file_type", "file_size", "file_hash", "content_object", "metadata",
    "cleanup_required", "expected_cleanup_by", "cleanup_scheduled_for", "request_id", "stream_start",
    "stream_complete", "bytes_transferred", "error_code", "error_message", "prev_hash", "hash",
)  # fmt: skip

# What a denial may say of where it happened (with the routes of `auth.routes`); what is not in it is told as `OTHER`. A closed
# list, so that no text of a request gets into the ledger this way.
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
OTHER: Final = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which events: all that match everything given. `since` (inclusive) and `until` (exclusive) are ISO 8601 texts."""

    cohort: str | None = None
    user: str | None = None
    action: str | None = None
    outcome: str | None = None
    file_id: str | None = None
    tracking_id: str | None = None
    since: str | None = None
    until: str | None = None

    def given(self) -> dict[str, str]:
        """What is asked for, by name."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Question:
        """The question in a query; other names are passed over, and "" counts as absent."""
        return cls(**{name: values[name] for name in cls.__slots__ if values.get(name)})


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Events in ascending order of time, as `docs/ledger-format.md` has them. `cursor` is None when there are no more.

    A page may be short, or empty, and still have a cursor: the search stops after so many reads.
    """

    events: Sequence[Mapping[str, Any]]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """What the web tier refused to the signed-in user of the request: which permission, for which cohort, on which route.

    `file_id` where the address named a file that is there.
    """

    permission: str
    cohort: str | None
    method: str
    route: str
    file_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class AuditTrail(Protocol):
    """Each call is on behalf of the signed-in user, but for `sign_in_failed`, which has none.

    All raise `LedgerUnavailable`, the remote one `ServicesUnavailable` besides.
    """

    def page(self, question: Question, cursor: str | None = None, limit: int = 100) -> AuditPage:
        """Raises `Forbidden` (recorded) for a cohort whose trail is not the user's, `InvalidRequest`."""
        ...

    def exporting(self, question: Question, form: str, *, resumed: bool) -> None:
        """Record that the trail is about to be exported. Raises as `page` does."""
        ...

    def denied(self, denial: Denial) -> None:
        """Record a refusal; nothing where the services tier would have allowed it."""
        ...

    def sign_in_failed(self, username: str) -> None:
        """Record a wrong password; nothing where there is no such user, or none was counted."""
        ...


class RemoteAuditTrail:
    """The audit trail of the services tier, for the user whose assertion the transport forwards."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def page(self, question: Question, cursor: str | None = None, limit: int = 100) -> AuditPage:
        query = {**question.given(), "limit": str(limit), **({"cursor": cursor} if cursor else {})}
        answer = self._transport.json("GET", "/internal/tracking", query)
        return AuditPage(answer["events"], answer["cursor"])

    def exporting(self, question: Question, form: str, *, resumed: bool) -> None:
        told = {"question": question.given(), "format": form, "resumed": resumed}
        self._transport.json("POST", "/internal/audit/exports", json=told)

    def denied(self, denial: Denial) -> None:
        self._transport.json("POST", "/internal/audit/denials", json=denial.to_json())

    def sign_in_failed(self, username: str) -> None:
        self._transport.json("POST", "/internal/audit/sign-ins", json={"username": username})
