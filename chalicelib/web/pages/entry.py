"""`/app`, sign in, sign out: the pages that need nobody to be signed in."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib.errors import BadCredentials, CodeRequired, InvalidRequest, NotSignedIn, TooManyRequests
from chalicelib.web import session
from chalicelib.web.pages.kit import FORM, HOME, SIGN_IN, Kit
from chalicelib.web.pages.render import see_other
from chalicelib.web.tier import Tier, refuse_cross_site


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
        return kit.show(
            "sign_in.html", principal=None, next=kit.query.get("next", ""), username="", problem=None, second=False
        )

    @bp.route("/app/sign-in", methods=["POST"], content_types=[FORM])
    @kit.page
    def sign_in() -> Response:
        web = tier()  # first: under Lambda this is what points the tables at their names
        refuse_cross_site(bp.current_request.headers)
        form = kit.form()
        username, code = form.get("username", ""), form.get("code", "").strip()
        try:
            _, token, seconds = session.enter(web, bp.current_request, username, form.get("password", ""), code)
        except (BadCredentials, TooManyRequests, InvalidRequest) as error:
            # The password was right: ask for the second factor. It has to be typed again, since a page never holds it.
            second = isinstance(error, CodeRequired)
            return kit.show(
                "sign_in.html",
                error.status,
                principal=None,
                next=form.get("next", ""),
                username=username,
                problem=error,
                second=second,
            )
        return see_other(within(form.get("next", "")), session.cookie(tier, token, seconds))

    @bp.route("/app/sign-out", methods=["POST"], content_types=[FORM])
    @kit.page
    def sign_out() -> Response:
        try:
            kit.sign_in()
        except NotSignedIn:
            return see_other(SIGN_IN, session.cookie(tier, "", 0))
        session.leave(tier(), bp.current_request)
        return see_other(SIGN_IN, session.cookie(tier, "", 0))

    return bp


def within(path: str) -> str:
    """Where to go after signing in: a page of ours, and nothing that a browser takes for another host.

    >>> within("/app/audit"), within("//evil.example"), within("/app/../x"), within("")
    ('/app/audit', '/app/files', '/app/files', '/app/files')
    """
    plain = path.startswith("/app/") and path.replace("/", "").replace("-", "").isalnum() and "//" not in path
    return path if plain and path.isascii() else HOME
