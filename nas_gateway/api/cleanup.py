"""`/internal/storage/cleanup`, `/internal/cleanup/*`, `/internal/holds`: plans, what came of them, and legal holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import json_body
from nas_gateway.api import asked
from nas_gateway.api.guard import Gateway, GatewayOf
from nas_gateway.cleanup.holds import Scope
from nas_gateway.cleanup.service import SHOWN
from nas_gateway.files.access import Call
from nas_gateway.jobs import Deadline


def blueprint(gateway: GatewayOf) -> Blueprint:
    """The blueprint over a gateway that is made on first use."""
    bp = Blueprint(__name__)

    def admitted() -> tuple[Gateway, Call, dict[str, Any]]:
        gate = gateway()
        call = gate.admit(bp.current_request)
        return gate, call, json_body(bp.current_request) if bp.current_request.method == "POST" else {}

    def applied(gate: Gateway, call: Call, plan_id: str, body: Mapping[str, Any]) -> Response:
        # Under Lambda it stops in time to answer, and is asked again.
        deadline = Deadline.of(bp.lambda_context)
        if (seconds := asked.count(body, "seconds")) is not None:
            deadline = Deadline.after(min(float(seconds), deadline.left()))
        return Response(gate.cleanup.apply(call, plan_id, asked.needed(body, "hash"), _limits(body), deadline))

    @bp.route("/internal/storage/cleanup", methods=["POST"])
    def cleanup() -> Response:
        """`{hours, dry_run}`: a plan, applied at once where `dry_run` is false; `{plan_id, hash, limits}`: apply that plan."""
        gate, call, body = admitted()
        if "plan_id" in body:
            return applied(gate, call, asked.needed(body, "plan_id"), body)
        return Response(gate.cleanup.clean_up(call, hours=_hours(body), dry_run=asked.flag(body, "dry_run", True)))

    @bp.route("/internal/cleanup/plans", methods=["POST"])
    def plan() -> Response:
        """`{hours}` -> 201, the plan."""
        gate, call, body = admitted()
        return Response(gate.cleanup.plan(call, _hours(body)), status_code=201)

    @bp.route("/internal/cleanup/plans/{plan_id}", methods=["GET"])
    def show(plan_id: str) -> Response:
        """`?after=&limit=`: items and skips from there on, 1,000 at most."""
        gate, call, _ = admitted()
        query = dict(bp.current_request.query_params or {})
        number = min(asked.number(query.get("limit", str(SHOWN)), "limit"), SHOWN)
        return Response(gate.cleanup.show(call, plan_id, number, asked.number(query.get("after", "0"), "after")))

    @bp.route("/internal/cleanup/plans/{plan_id}/apply", methods=["POST"])
    def apply(plan_id: str) -> Response:
        """`{hash, limits}` -> what became of each item."""
        gate, call, body = admitted()
        return applied(gate, call, plan_id, body)

    @bp.route("/internal/cleanup/plans/{plan_id}/receipts", methods=["GET"])
    def receipts(plan_id: str) -> Response:
        gate, call, _ = admitted()
        return Response(gate.cleanup.receipts(call, plan_id))

    @bp.route("/internal/holds", methods=["GET", "POST"])
    def holds() -> Response:
        """GET: every hold. POST `{file_id | cohort, reason}` -> 201, the hold."""
        gate, call, body = admitted()
        if bp.current_request.method == "GET":
            return Response({"holds": gate.holds.list(call)})
        return Response(gate.holds.set(call, _scope(body), asked.needed(body, "reason")), status_code=201)

    @bp.route("/internal/holds/lift", methods=["POST"])
    def lift() -> Response:
        """`{file_id | cohort, reason}`."""
        gate, call, body = admitted()
        return Response(gate.holds.lift(call, _scope(body), asked.needed(body, "reason")))

    return bp


def _scope(body: Mapping[str, Any]) -> Scope:
    return Scope(asked.optional(body, "file_id"), asked.optional(body, "cohort"))


def _hours(body: Mapping[str, Any]) -> float | None:
    hours = body.get("hours")
    if hours is not None and (
        isinstance(hours, bool) or not isinstance(hours, (int, float)) or not 0 <= hours <= 87600
    ):
        raise InvalidRequest(
            "hours must be a number of 0 (now) or more, or left out: then each file's own deadline counts."
        )
    return hours


def _limits(body: Mapping[str, Any]) -> dict[str, float]:
    told = body.get("limits") or {}
    good = isinstance(told, dict) and all(
        key in ("max_files", "max_percent") and isinstance(value, (int, float)) and not isinstance(value, bool)
        for key, value in told.items()
    )
    if not good:
        raise InvalidRequest("limits must be {max_files, max_percent}, numbers; either may be left out.")
    return dict(told)
