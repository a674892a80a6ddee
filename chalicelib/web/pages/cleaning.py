"""`/app/cleanup`: what is due, a plan to read, applying it, what became of each item; and legal holds.

Files are named by their ids only: who cleans up need not know what they are called.
"""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import Permission
from chalicelib.errors import InvalidRequest, PlanMissing
from chalicelib.web.pages.kit import FORM, Kit
from chalicelib.web.pages.render import see_other
from chalicelib.web.target import is_id
from chalicelib.web.tier import Tier

SHOWN = 200


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    @bp.route("/app/cleanup", methods=["GET"])
    @kit.page
    def ask() -> Response:
        principal = kit.sign_in()
        principal.require(Permission.CLEANUP, None)
        return kit.show("cleanup.html", principal=principal)

    @bp.route("/app/cleanup", methods=["POST"], content_types=[FORM])
    @kit.page
    def plan() -> Response:
        kit.sign_in().require(Permission.CLEANUP, None)
        form = kit.form()
        hours = None if form.get("which") == "due" else _number(form.get("hours", ""), "hours")
        return see_other(f"/app/cleanup/{tier().cleanup.plan(hours)['plan_id']}")

    @bp.route("/app/cleanup/{plan_id}", methods=["GET"])
    @kit.page
    def show(plan_id: str) -> Response:
        principal = kit.sign_in()
        principal.require(Permission.CLEANUP, None)
        made = tier().cleanup.show(_id(plan_id), 0, SHOWN)
        outcomes: dict[str, Any] = {}
        if made["state"] != "ready":
            outcomes = {row["file_id"]: row for row in tier().cleanup.receipts(plan_id)["receipts"]}
        return kit.show("plan.html", principal=principal, plan=made, outcomes=outcomes, shown=SHOWN)

    @bp.route("/app/cleanup/{plan_id}/apply", methods=["POST"], content_types=[FORM])
    @kit.page
    def apply(plan_id: str) -> Response:
        kit.sign_in().require(Permission.CLEANUP, None)
        form = kit.form()
        limits = {
            name: _number(form[name], name) for name in ("max_files", "max_percent") if form.get(name, "").strip()
        }
        tier().cleanup.apply(_id(plan_id), form.get("hash", ""), limits)
        return see_other(f"/app/cleanup/{plan_id}")

    @bp.route("/app/holds", methods=["GET"])
    @kit.page
    def holds() -> Response:
        principal = kit.sign_in()
        principal.require(Permission.LEDGER, None)
        may = principal.may(Permission.ADMIN, None)
        return kit.show("holds.html", principal=principal, holds=tier().cleanup.holds()["holds"], may=may)

    @bp.route("/app/holds", methods=["POST"], content_types=[FORM])
    @kit.page
    def change() -> Response:
        kit.sign_in().require(Permission.ADMIN, None)
        form = kit.form()
        kind, name, reason = form.get("kind", ""), form.get("name", "").strip(), form.get("reason", "").strip()
        if kind not in ("file_id", "cohort") or not name:
            raise InvalidRequest("Say which file, by its id, or which cohort.")
        if form.get("do") == "lift":
            tier().cleanup.lift_hold({kind: name}, reason)
        else:
            tier().cleanup.set_hold({kind: name}, reason)
        return see_other("/app/holds")

    return bp


def _id(plan_id: str) -> str:
    if not is_id(plan_id):
        raise PlanMissing
    return plan_id


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidRequest(f"{name} must be a number.") from None
