"""`/cleanup/plans` and `/holds`: what operators and administrators ask for. The services tier checks again, and does it.

Files are named by their ids only: who cleans up need not know what they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission
from chalicelib.errors import InvalidRequest, PlanMissing
from chalicelib.hosting.chalice_app import json_body
from chalicelib.web.target import is_id
from chalicelib.web.tier import Tier


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    def allowed(permission: Permission) -> dict[str, Any]:
        """The JSON body of a request whose sender has this permission everywhere."""
        request = bp.current_request
        tier().sign_in(request).require(permission, None)
        return json_body(request) if request.method == "POST" else {}

    @bp.route("/cleanup/plans", methods=["POST"])
    def plan() -> Response:
        """`{hours}` (0: everything now; left out: what is past its deadline) -> 201, the plan. Nothing is deleted."""
        body = allowed(Permission.CLEANUP)
        made = tier().cleanup.plan(_number(body, "hours"))
        return _json(made, 201, {"Location": f"/cleanup/plans/{made['plan_id']}"})

    @bp.route("/cleanup/plans/{plan_id}", methods=["GET"])
    def show(plan_id: str) -> Response:
        """`?after=&limit=` -> the plan, from item `after` on: what would go and why, what stays and why."""
        allowed(Permission.CLEANUP)
        query: dict[str, str] = dict(bp.current_request.query_params or {})
        after = query.get("after", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 9:
            raise InvalidRequest("after must be a whole number.")
        return _json(tier().cleanup.show(_id(plan_id), int(after), http.page_limit(query.get("limit"))))

    @bp.route("/cleanup/plans/{plan_id}/apply", methods=["POST"])
    def apply(plan_id: str) -> Response:
        """`{hash, limits: {max_files, max_percent}}` -> what became of each item. Ask again where `outcome` is `stopped`."""
        body = allowed(Permission.CLEANUP)
        limits = body.get("limits") or {}
        if not isinstance(limits, dict):
            raise InvalidRequest("limits must be an object.")
        told = {name: value for name in limits if (value := _number(limits, name)) is not None}
        return _json(tier().cleanup.apply(_id(plan_id), _text(body, "hash"), told))

    @bp.route("/cleanup/plans/{plan_id}/receipts", methods=["GET"])
    def receipts(plan_id: str) -> Response:
        """What was deleted, with a signed receipt for each item."""
        allowed(Permission.CLEANUP)
        return _json(tier().cleanup.receipts(_id(plan_id)))

    @bp.route("/holds", methods=["GET"])
    def holds() -> Response:
        """Every legal hold, for administrators and auditors."""
        allowed(Permission.LEDGER)
        return _json(tier().cleanup.holds())

    @bp.route("/holds", methods=["POST"])
    def set_hold() -> Response:
        """`{file_id | cohort, reason}` -> 201."""
        body = allowed(Permission.ADMIN)
        return _json(tier().cleanup.set_hold(_scope(body), _text(body, "reason")), 201)

    @bp.route("/holds/lift", methods=["POST"])
    def lift_hold() -> Response:
        """`{file_id | cohort, reason}`."""
        body = allowed(Permission.ADMIN)
        return _json(tier().cleanup.lift_hold(_scope(body), _text(body, "reason")))

    return bp


def _id(plan_id: str) -> str:
    if not is_id(plan_id):
        raise PlanMissing
    return plan_id


def _scope(body: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(body, name) for name in ("file_id", "cohort") if body.get(name) is not None}


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} is missing.")
    return value


def _number(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise InvalidRequest(f"{name} must be a number.")
    return value


def _json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dict(body), status_code=status, headers={"Cache-Control": "no-store", **(headers or {})})
