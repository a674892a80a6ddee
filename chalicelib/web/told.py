"""What the web tier tells the ledger of: what it refused to a signed-in user by itself, and wrong passwords.

Every principal of this tier comes from `WebTier.sign_in`, so what it is refused is told in one place, whatever the handler.
What the services tier refuses it records itself. Telling can fail: the refusal stands all the same. Used by `tier` and
`session`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from chalicelib.auth.people import People
from chalicelib.auth.policy import Permission, Principal
from chalicelib.errors import DepotError, Forbidden
from chalicelib.observability import log_event, log_exception
from chalicelib.storage.audit import AuditTrail, Denial
from chalicelib.web.target import is_id


@dataclass(frozen=True, slots=True)
class ReportingPrincipal(Principal):
    """A principal whose refusals are told before they are raised."""

    refused: Callable[[Permission, str | None], None] = field(
        default=lambda permission, cohort: None, repr=False, compare=False
    )

    def require(self, permission: Permission, cohort: str | None) -> None:
        """See `Principal.require`."""
        if not self.may(permission, cohort):
            self.refused(permission, cohort)
            raise Forbidden


def reporting(principal: Principal, audit: AuditTrail, request: Any) -> Principal:
    """The same user, for this one request."""

    def refused(permission: Permission, cohort: str | None) -> None:
        file_id = (request.uri_params or {}).get("file_id", "")
        denial = Denial(
            permission=permission.value,
            cohort=cohort,
            method=request.method,
            route=str(request.context.get("resourcePath", "")),
            file_id=file_id if is_id(file_id) else None,
        )
        _tell("denial_not_recorded", lambda: audit.denied(denial))

    same = {item.name: getattr(principal, item.name) for item in fields(principal)}
    return ReportingPrincipal(**same, refused=refused)


def sign_in_failed(audit: AuditTrail, username: str) -> None:
    """Tell of a wrong password. Whether it is worth an event, the services tier decides."""
    _tell("failed_sign_in_not_recorded", lambda: audit.sign_in_failed(username))


def signed(people: People, event: str) -> None:
    """Tell that the user of the assertion has signed in, or out."""
    _tell("sign_in_not_recorded", lambda: people.ask("note_session", {"event": event}))


def _tell(event: str, call: Callable[[], object]) -> None:
    try:
        call()
    except DepotError as error:
        log_event(event, logging.WARNING, error_code=error.code)
    except Exception as error:  # noqa: BLE001 -- a refusal must stay one, whatever is wrong with the telling
        log_exception(event, error)
