"""`/internal/files` and `/internal/tracking`: what files there are, and what was done with them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission
from chalicelib.errors import Forbidden, InvalidRequest
from nas_gateway.api.guard import GatewayOf
from nas_gateway.files.access import Call
from nas_gateway.files.catalog import page_of, view_of
from nas_gateway.ledger import queries

_SELECTORS = ("file_id", "cohort", "user", "action", "tracking_id")


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/internal/files", methods=["GET"])
    def files() -> Response:
        gate, query = gateway(), dict(bp.current_request.query_params or {})
        call = gate.admit(bp.current_request)
        if not query.get("cohort"):
            raise InvalidRequest("cohort is missing.")
        page = page_of(gate.transfers, call, query["cohort"], query.get("cursor"), http.page_limit(query.get("limit")))
        return Response({"files": [view.to_json() for view in page.files], "cursor": page.cursor})

    @bp.route("/internal/files/{file_id}", methods=["GET"])
    def file(file_id: str) -> Response:
        gate = gateway()
        call = gate.admit(bp.current_request)
        return Response(view_of(gate.transfers.file(call, file_id)).to_json())

    @bp.route("/internal/tracking", methods=["GET"])
    def tracking() -> Response:
        """`?file_id=|cohort=|user=|action=|since=` (ISO 8601), `until`, `limit`, `cursor` -> `{events: […], cursor}`."""
        gate, query = gateway(), dict(bp.current_request.query_params or {})
        call = gate.admit(bp.current_request)
        selected: dict[str, Any] = {name: query[name] for name in _SELECTORS if query.get(name)}
        for name in ("since", "until"):
            if query.get(name):
                selected[name] = _time(query[name], name)
        _require_ledger(call, selected.get("cohort"))
        page = queries.query(**selected, limit=http.page_limit(query.get("limit")), cursor=query.get("cursor"))
        return Response({"events": [queries.to_json(event) for event in page.events], "cursor": page.cursor})

    return bp


def _require_ledger(call: Call, cohort: str | None) -> None:
    """A user who reads the ledger for some cohorts only must ask for one of them."""
    if not call.is_service and not call.principal.may(Permission.LEDGER, cohort):
        raise Forbidden


def _time(text: str, name: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + of an offset arrives as a space
    except ValueError:
        raise InvalidRequest(f"{name} must be a time such as 2026-01-31T12:00:00Z.") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
