"""The audit trail on the services tier: who may read which part of it, and what the web tier may tell the ledger.

What the web tier tells is believed only as far as it can be checked here: the user comes from the assertion, a refusal
must be one by our own table, words come from closed lists. Imported by the internal API and the wiring.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from chalicelib.auth import routes, users
from chalicelib.auth.policy import Permission
from chalicelib.errors import InvalidPath, InvalidRequest
from chalicelib.storage import paths
from chalicelib.storage.audit import FORMATS, METHODS, OTHER, AuditPage, Denial, Question
from nas_gateway.files.access import LAST_DENIAL, Call
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import MAX_TEXT_BYTES, Action, Operation, Outcome

# Where the web tier can refuse: every route of it that asks who somebody is.
ROUTES = frozenset(path for (_, path), route in routes.WEB.items() if route.permission is not routes.Who.PUBLIC)


class Audit:
    """The use-cases, over the transfers' ledger and registry."""

    def __init__(self, transfers: Transfers) -> None:
        self._ledger, self._registry, self._access = transfers.ledger, transfers.registry, transfers.access

    def page(self, call: Call, question: Question, cursor: str | None, limit: int) -> queries.EventPage:
        """One page. Who reads the ledger for some cohorts only must ask for one of them.

        Raises `Forbidden` (and records it), `InvalidRequest`, `LedgerUnavailable`.
        """
        self._require(call, question)
        return queries.query(**_checked(question), limit=limit, cursor=cursor)

    def exporting(self, call: Call, question: Question, form: str, *, resumed: bool) -> None:
        """Record an export before its first line is sent. Raises as `page` does."""
        self._require(call, question)
        if form not in FORMATS:
            raise InvalidRequest(f"format must be one of {', '.join(FORMATS)}.")
        _checked(question)
        about = {f"asked_{name}": value for name, value in question.given().items()}
        operation = Operation(
            action=Action.AUDIT_EXPORTED,
            user=call.principal.username,
            cohort=question.cohort,
            metadata={**about, "format": form, "resumed": str(resumed).lower()},
            request_id=call.request_id,
        )
        self._ledger.record(operation)

    def denied(self, call: Call, denial: Denial) -> bool:
        """Record what the web tier refused to this user; False, and nothing, where our table allows it.

        Raises `InvalidRequest` for a permission that does not exist or without a user, and `LedgerUnavailable`.
        """
        if call.is_service:
            raise InvalidRequest("A refusal is recorded for a signed-in user.")
        try:
            permission = Permission(denial.permission)
        except ValueError:
            raise InvalidRequest("There is no such permission.") from None
        cohort = _segment(denial.cohort)
        if call.principal.may(permission, cohort):
            return False
        last = self._access.throttle is not None and self._access.throttle.denial(call.principal)
        file = self._registry.get(denial.file_id) if denial.file_id else None
        method = denial.method if denial.method in METHODS else OTHER
        operation = Operation(
            action=Action.ACCESS_DENIED,
            user=call.principal.username,
            cohort=cohort,
            # Only with its own cohort: a refusal about one file must not be filed under another.
            file_id=file.file_id if file is not None and file.cohort == cohort else None,
            metadata={
                "permission": permission.value,
                **(LAST_DENIAL if last else {}),
                "refused_by": "web",
                "route": f"{method} {denial.route}" if denial.route in ROUTES else OTHER,
            },
            request_id=call.request_id,
        )
        self._ledger.record(operation, Outcome.FAILED)
        return True

    def sign_in_failed(self, username: str, request_id: str | None) -> bool:
        """Record a wrong password for a user who exists and whose row counts it; False, and nothing, otherwise.

        A name that is nobody's is not kept: people type passwords and patients' names into that field. The lock-out
        bounds how often this happens. Raises `LedgerUnavailable`.
        """
        name = username.strip().casefold()
        user = users.find(name) if 1 <= len(name) <= 254 else None
        if user is None or user.disabled or not user.failed_sign_ins:
            return False
        operation = Operation(
            action=Action.SIGN_IN_FAILED,
            user=user.username,
            metadata={"in_a_row": str(int(user.failed_sign_ins))},
            request_id=request_id,
        )
        self._ledger.record(operation, Outcome.FAILED)
        return True

    def _require(self, call: Call, question: Question) -> None:
        if not call.is_service and not call.principal.may(Permission.LEDGER, question.cohort):
            self._access.deny(call, Permission.LEDGER, "", "", _segment(question.cohort))


class LocalAuditTrail:
    """`AuditTrail` without a network between: for the testing role, where both tiers are one process."""

    def __init__(self, audit: Audit, call: Callable[[], Call]) -> None:
        self._audit, self._call = audit, call

    def page(self, question: Question, cursor: str | None = None, limit: int = 100) -> AuditPage:
        page = self._audit.page(self._call(), question, cursor, limit)
        return AuditPage([queries.to_json(event) for event in page.events], page.cursor)

    def exporting(self, question: Question, form: str, *, resumed: bool) -> None:
        self._audit.exporting(self._call(), question, form, resumed=resumed)

    def denied(self, denial: Denial) -> None:
        self._audit.denied(self._call(), denial)

    def sign_in_failed(self, username: str) -> None:
        self._audit.sign_in_failed(username, self._call().request_id)


def _segment(cohort: str | None) -> str | None:
    """A cohort as an event may hold it. What could be no cohort's name is left out: it is only what somebody typed."""
    with suppress(InvalidPath):
        return paths.segment(cohort, "cohort") if cohort else None
    return None


def _checked(question: Question) -> dict[str, Any]:
    """The question as `queries.query` takes it. Raises `InvalidRequest`."""
    asked: dict[str, Any] = dict(question.given())
    for name, value in asked.items():
        if len(value.encode(errors="replace")) > MAX_TEXT_BYTES:
            raise InvalidRequest(f"{name} must be text of 1 to {MAX_TEXT_BYTES} bytes.")
    for name in {"since", "until"} & set(asked):
        asked[name] = _time(asked[name], name)
    if "outcome" in asked:
        asked["outcome"] = _outcome(asked["outcome"])
    return asked


def _outcome(text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError:
        raise InvalidRequest(f"outcome must be one of {', '.join(Outcome)}.") from None


def _time(text: str, name: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + of an offset arrives as a space
    except ValueError:
        raise InvalidRequest(f"{name} must be a time such as 2026-01-31T12:00:00Z.") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
