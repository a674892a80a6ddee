"""`/app/account`: one's own password, sessions, second factor and personal tokens. Secrets are shown once."""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import TOKEN_PERMISSIONS, Principal
from chalicelib.errors import DepotError, InvalidRequest
from chalicelib.web.pages.kit import FORM, SIGN_IN, Kit
from chalicelib.web.pages.render import see_other
from chalicelib.web.session import cookie
from chalicelib.web.target import is_id
from chalicelib.web.tier import Tier


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    def shown(principal: Principal, status: int = 200, **told: Any) -> Response:
        usual = {"problem": None, "secret": None, "codes": None, "enrolling": None, "done": ""}
        allowed = [name for name in sorted(TOKEN_PERMISSIONS) if principal.scope(name) != frozenset()]
        return kit.show(
            "account.html",
            status,
            principal=principal,
            sessions=tier().people.ask("sessions")["sessions"],
            tokens=tier().people.ask("tokens")["tokens"],
            permissions=allowed,
            **{**usual, **told},
        )

    @bp.route("/app/account", methods=["GET"])
    @kit.page
    def account() -> Response:
        return shown(kit.sign_in())

    @bp.route("/app/account", methods=["POST"], content_types=[FORM])
    @kit.page
    def change() -> Response:
        """`do`: `password`, `sessions`, `token`, `revoke`, `enrol`, `confirm`, `drop`."""
        principal, form, people = kit.sign_in(), kit.form(), tier().people
        do = form.get("do", "")
        try:
            if do == "password":
                people.ask("change_password", {"old": form.get("old", ""), "new": form.get("new", "")})
                return shown(principal, done="Your password was changed. Your other sessions have ended.")
            if do == "sessions":
                people.ask("end_sessions")
                return see_other(SIGN_IN, cookie(tier, "", 0))
            if do == "token":
                scopes = [name for name in TOKEN_PERMISSIONS if form.get(f"may_{name}")]
                asked = {"name": form.get("name", "").strip(), "permissions": sorted(scopes)}
                made = people.ask("create_token", {**asked, **_days(form.get("days", ""))})
                return shown(principal, 201, secret=made["token"])
            if do == "revoke" and is_id(form.get("token_id", "")):
                people.ask("revoke_token", token_id=form["token_id"])
                return shown(principal, done="The token was revoked.")
            if do == "enrol":
                return shown(principal, enrolling=people.ask("enrol", {"password": form.get("password", "")}))
            if do == "confirm":
                codes = people.ask("confirm", {"code": form.get("code", "").strip()})["recovery_codes"]
                return shown(principal, codes=codes)
            if do == "drop":
                asked = {"password": form.get("password", ""), "code": form.get("code", "").strip()}
                people.ask("drop_factor", asked)
                return shown(principal, done="Signing in needs the password alone again.")
        except DepotError as error:
            return shown(principal, error.status, problem=error)
        raise InvalidRequest("This form is not one of this page's.")

    return bp


def _days(text: str) -> dict[str, int]:
    if not text.strip():
        return {}
    if not text.isascii() or not text.isdigit():
        raise InvalidRequest("days must be a whole number.")
    return {"days": int(text)}
