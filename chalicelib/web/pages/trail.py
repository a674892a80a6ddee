"""`/app/audit`: the audit trail, filtered, a page at a time, with links to its exports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import Permission
from chalicelib.errors import InvalidRequest
from chalicelib.storage.audit import FORMATS, Question
from chalicelib.web.pages.kit import Kit, cohorts_of, following
from chalicelib.web.tier import Tier

PAGE_EVENTS = 100
# Without any filter the trail of these last days is shown.
USUAL_DAYS = 7
OUTCOMES = ("intent", "completed", "failed", "unknown")


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    @bp.route("/app/audit", methods=["GET"])
    @kit.page
    def audit() -> Response:
        principal, query = kit.sign_in(), kit.query
        choice = cohorts_of(principal, Permission.LEDGER)
        cohort = query.get("cohort") or (choice[0] if choice else "")
        principal.require(Permission.LEDGER, cohort or None)
        asked = {
            name: query.get(name, "").strip() for name in ("user", "action", "outcome", "file_id", "since", "until")
        }
        times = {name: _moment(name, asked[name]) for name in ("since", "until")}
        question = Question.of({**asked, **times, "cohort": cohort})
        if not set(question.given()) - {"outcome", "until"}:
            since = (datetime.now(UTC) - timedelta(days=USUAL_DAYS)).date().isoformat()
            asked["since"] = since
            question = Question.of({**question.given(), "since": _moment("since", since)})
        page = tier().audit.page(question, query.get("cursor"), PAGE_EVENTS)
        exports = {form: "/audit/export?" + urlencode({**question.given(), "format": form}) for form in FORMATS}
        return kit.show(
            "audit.html",
            principal=principal,
            cohort=cohort,
            cohorts=choice,
            asked=asked,
            outcomes=OUTCOMES,
            events=page.events,
            exports=exports,
            next=following({**asked, "cohort": cohort}, page.cursor),
        )

    return bp


def _moment(name: str, text: str) -> str:
    """A date, or a date and time as a browser's field has it (UTC where it says nothing else), in ISO 8601."""
    if not text:
        return ""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{name} must be a date such as 2026-01-31.") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()
