"""`/app`, sign in, sign out: the pages that need nobody to be signed in."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib.auth import users
from chalicelib.errors import BadCredentials, DepotError, InvalidRequest, TooManyRequests
from chalicelib.web import told
from chalicelib.web.pages.kit import FORM, HOME, SIGN_IN, Kit
from chalicelib.web.pages.render import see_other
from chalicelib.web.session import cookie
from chalicelib.web.tier import Tier, refuse_cross_site, token_of


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    @bp.route("/app", methods=["GET"])
    @kit.page
    def home() -> Response:
        kit.sign_in()
        return see_other(HOME)

    @bp.route("/app/sign-in", methods=["GET"])
    @kit.page
    def ask() -> Response:
        return kit.show("sign_in.html", principal=None, next=kit.query.get("next", ""), username="", problem=None)

    @bp.route("/app/sign-in", methods=["POST"], content_types=[FORM])
    @kit.page
    def sign_in() -> Response:
        sessions = tier().sessions
        refuse_cross_site(bp.current_request.headers)
        form = kit.form()
        username = form.get("username", "")
        try:
            user = users.authenticate(username, form.get("password", ""))
        except (BadCredentials, TooManyRequests, InvalidRequest) as error:
            if isinstance(error, BadCredentials):
                told.sign_in_failed(tier().audit, username)
            return kit.show(
                "sign_in.html",
                error.status,
                principal=None,
                next=form.get("next", ""),
                username=username,
                problem=error,
            )
        token, seconds = sessions.open(user)
        return see_other(within(form.get("next", "")), cookie(tier, token, seconds))

    @bp.route("/app/sign-out", methods=["POST"], content_types=[FORM])
    @kit.page
    def sign_out() -> Response:
        refuse_cross_site(bp.current_request.headers)
        token, _ = token_of(bp.current_request.headers)
        if token is not None:
            try:
                tier().sessions.end(token)
            except DepotError as error:
                return kit.failed(error)
        return see_other(SIGN_IN, cookie(tier, "", 0))

    return bp


def within(path: str) -> str:
    """Where to go after signing in: a page of ours, and nothing that a browser takes for another host.

    >>> within("/app/audit"), within("//evil.example"), within("/app/../x"), within("")
    ('/app/audit', '/app/files', '/app/files', '/app/files')
    """
    plain = path.startswith("/app/") and path.replace("/", "").replace("-", "").isalnum() and "//" not in path
    return path if plain and path.isascii() else HOME
