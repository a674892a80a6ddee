"""`/reports/storage`: the storage report, for people and programs. The services tier makes it and checks again."""

from __future__ import annotations

import json
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import Permission, report_scope
from chalicelib.errors import InvalidRequest
from chalicelib.web import report_page, report_text
from chalicelib.web.tier import Tier

_TYPES = {"text": "text/plain; charset=utf-8", "json": "application/json", "html": "text/html; charset=utf-8"}


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/reports/storage", methods=["GET"])
    def storage() -> Response:
        """`?format=text|json|html`; without it a page for browsers, else JSON."""
        request = bp.current_request
        principal = tier().sign_in(request)
        query: dict[str, str] = dict(request.query_params or {})
        form = query.get("format") or ("html" if "text/html" in request.headers.get("accept", "") else "json")
        if form not in report_text.FORMATS:
            raise InvalidRequest(f"format must be one of {', '.join(report_text.FORMATS)}.")
        scope = report_scope(principal)
        if scope is not None and not scope:
            principal.require(Permission.LEDGER, None)
        headers: dict[str, str | list[str]] = {
            "Content-Type": _TYPES[form],
            "Cache-Control": "private, no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": f"{report_page.POLICY}; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
        }
        return Response(render(form, tier().reports.storage()), headers)

    return bp


def render(form: str, report: dict[str, Any]) -> str:
    """The report in one of `report_text.FORMATS`."""
    if form == "json":
        return json.dumps(report, ensure_ascii=False)
    return report_page.render(report) if form == "html" else report_text.render(report)
