"""`/audit`: the ledger's events for people, in pages, and as a file. Registered by app.py; the services tier checks again.

A cohort manager reads the own cohorts' trail, one at a time; an auditor everything. Neither gets a file's bytes here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission, Principal
from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import StreamResponse
from chalicelib.limits import LAMBDA_CHUNK_BYTES
from chalicelib.storage.audit import FORMATS, AuditPage, AuditTrail, Question
from chalicelib.web import audit_text
from chalicelib.web.client_config import streams
from chalicelib.web.tier import Tier

_FILTERS: Final = ("cohort", "user", "action", "outcome", "file_id", "since", "until")

# Events of one page of an export: what both tiers hold of it at a time. Events have about 1 KiB, 80 KiB at most.
PAGE_EVENTS: Final = 500
# Pages of one answer under Lambda: a page is up to 32 reads of DynamoDB, and API Gateway waits 29 seconds (its quota).
MAX_PAGES: Final = 20


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    def asked(*more: str) -> tuple[Question, dict[str, str]]:
        """The question, once this user may ask it, and the query. Raises `Forbidden`, `InvalidRequest`."""
        principal = tier().sign_in(bp.current_request)
        query: dict[str, str] = dict(bp.current_request.query_params or {})
        if unknown := set(query) - {*_FILTERS, "cursor", *more}:
            # A misspelt filter would show more than was asked for, and an auditor would take it for all there is.
            raise InvalidRequest(f"{len(unknown)} of the parameters are unknown. Known: {', '.join(_FILTERS)}.")
        cohort = _cohort(principal, query.get("cohort"))
        principal.require(Permission.LEDGER, cohort)
        question = Question.of({**query, "cohort": cohort or ""})
        if not set(question.given()) - {"outcome", "until"}:
            raise InvalidRequest("Say what you look for: cohort, user, action, file_id, or since when.")
        return question, query

    @bp.route("/audit", methods=["GET"])
    def audit() -> Response:
        """`?cohort=&user=&action=&outcome=&file_id=&since=&until=&limit=&cursor=` -> `{events: […], cursor}`."""
        question, query = asked("limit")
        page = tier().audit.page(question, query.get("cursor"), http.page_limit(query.get("limit")))
        return Response({"events": list(page.events), "cursor": page.cursor}, headers={"Cache-Control": "no-store"})

    @bp.route("/audit/export", methods=["GET"])
    def export() -> Response:
        """`?format=csv|jsonl` and the filters: all the events as a file; under Lambda 4 MiB, and a link to the rest."""
        question, query = asked("format")
        form, trail, cursor = query.get("format", FORMATS[0]), tier().audit, query.get("cursor")
        if form not in FORMATS:
            raise InvalidRequest(f"format must be one of {', '.join(FORMATS)}.")
        whole = streams(bp.current_request)
        # The first page before anything else: a bad question is an answer of its own, not a broken file or an event.
        size = PAGE_EVENTS if whole else 1
        first = trail.page(question, cursor, size)
        trail.exporting(question, form, resumed=cursor is not None)
        head = audit_text.header(form) if cursor is None else ""
        headers = {
            "Content-Type": audit_text.TYPES[form],
            "Content-Disposition": http.content_disposition(f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{form}"),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        if whole:
            return StreamResponse(_blocks(trail, question, form, head, first), headers)
        text, rest = collected(trail, question, form, head, cursor)
        if rest is not None:
            again = urlencode({**question.given(), "format": form, "cursor": rest})
            headers |= {"Link": f'</audit/export?{again}>; rel="next"', "X-Depot-Next-Cursor": rest}
        return Response(text, dict(headers))

    return bp


def _blocks(trail: AuditTrail, question: Question, form: str, head: str, page: AuditPage) -> Iterator[bytes]:
    """The file a page at a time. An error in the middle breaks the connection: no short file looks whole."""
    if head:
        yield head.encode()
    while True:
        if page.events:
            yield audit_text.render(form, page.events).encode()
        if page.cursor is None:
            return
        page = trail.page(question, page.cursor, PAGE_EVENTS)


def collected(
    trail: AuditTrail, question: Question, form: str, head: str, cursor: str | None, most: int = LAMBDA_CHUNK_BYTES
) -> tuple[str, str | None]:
    """As much of the file as one answer of Lambda's holds, and the cursor of the rest; None when that is all.

    Counted as it travels: a Lambda answer is a JSON document, in which each quotation mark takes two bytes.
    """
    parts, left, limit = [head], most, PAGE_EVENTS
    for _ in range(MAX_PAGES):
        page = trail.page(question, cursor, limit)
        text = audit_text.render(form, page.events)
        size = len(json.dumps(text))
        if size > left:
            if limit == 1:
                return "".join(parts), cursor
            limit = max(1, limit // 4)  # fill the rest with smaller pages
            continue
        parts.append(text)
        left, cursor = left - size, page.cursor
        if cursor is None:
            break
    return "".join(parts), cursor


def _cohort(principal: Principal, told: str | None) -> str | None:
    """The cohort of the question: what was asked, else the only one there is for this user. Raises `InvalidRequest`."""
    scope = principal.scope(Permission.LEDGER)
    if told or not scope:  # None is everywhere, an empty set nowhere
        return told or None
    if len(scope) == 1:
        return next(iter(scope))
    raise InvalidRequest("Say which cohort: GET /audit?cohort=…")
