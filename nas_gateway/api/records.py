"""`/internal/files`, `/internal/tracking` and `/internal/audit/*`: what files there are, and what was done with them."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import json_body
from chalicelib.storage.audit import Denial, Question
from chalicelib.storage.catalog import Listing
from nas_gateway.api import asked
from nas_gateway.api.guard import GatewayOf
from nas_gateway.files.audit import Audit
from nas_gateway.files.catalog import page_of, view_of
from nas_gateway.ledger import queries


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/internal/files", methods=["GET"])
    def files() -> Response:
        gate, query = gateway(), dict(bp.current_request.query_params or {})
        call = gate.admit(bp.current_request)
        if not query.get("cohort"):
            raise InvalidRequest("cohort is missing.")
        listing = Listing.of(query)
        limit = http.page_limit(query.get("limit"))
        page = page_of(gate.transfers, call, query["cohort"], query.get("cursor"), limit, listing)
        return Response({"files": [view.to_json() for view in page.files], "cursor": page.cursor})

    @bp.route("/internal/files/{file_id}", methods=["GET"])
    def file(file_id: str) -> Response:
        gate = gateway()
        call = gate.admit(bp.current_request)
        return Response(view_of(gate.transfers.file(call, file_id)).to_json())

    @bp.route("/internal/tracking", methods=["GET"])
    def tracking() -> Response:
        """`?file_id=|cohort=|user=|action=|tracking_id=|since=` (ISO 8601), `until`, `outcome`, `limit`, `cursor`
        -> `{events: […], cursor}`."""
        gate, query = gateway(), dict(bp.current_request.query_params or {})
        call = gate.admit(bp.current_request)
        limit = http.page_limit(query.get("limit"))
        page = Audit(gate.transfers).page(call, Question.of(query), query.get("cursor"), limit)
        return Response({"events": [queries.to_json(event) for event in page.events], "cursor": page.cursor})

    @bp.route("/internal/audit/exports", methods=["POST"])
    def exports() -> Response:
        """`{question, format, resumed}` -> 201: the trail is about to be exported."""
        gate = gateway()
        call, body = gate.admit(bp.current_request), json_body(bp.current_request)
        question = Question.of(asked.strings(body, "question"))
        form, resumed = asked.needed(body, "format"), asked.flag(body, "resumed")
        Audit(gate.transfers).exporting(call, question, form, resumed=resumed)
        return Response({"recorded": True}, status_code=201)

    @bp.route("/internal/audit/denials", methods=["POST"])
    def denials() -> Response:
        """`{permission, cohort, method, route, file_id?}` -> 201 `{recorded}`: the web tier refused this to its user."""
        gate = gateway()
        call, body = gate.admit(bp.current_request), json_body(bp.current_request)
        denial = Denial(
            permission=asked.needed(body, "permission"),
            cohort=asked.optional(body, "cohort"),
            method=asked.needed(body, "method"),
            route=asked.needed(body, "route"),
            file_id=asked.optional(body, "file_id"),
        )
        return Response({"recorded": Audit(gate.transfers).denied(call, denial)}, status_code=201)

    @bp.route("/internal/audit/sign-ins", methods=["POST"])
    def sign_ins() -> Response:
        """`{username}` -> 201: a wrong password. The answer does not say whether there is such a user."""
        gate = gateway()
        call, body = gate.admit(bp.current_request), json_body(bp.current_request)
        Audit(gate.transfers).sign_in_failed(asked.needed(body, "username"), call.request_id)
        return Response({}, status_code=201)

    return bp
