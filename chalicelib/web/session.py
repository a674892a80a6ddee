"""`/session`: sign in, who am I, sign out. What else concerns one's own account is forwarded: `people`."""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import context
from chalicelib.auth import signin
from chalicelib.auth.tables import User
from chalicelib.errors import BadCredentials, DepotError, InvalidRequest, SignInRequired
from chalicelib.hosting.chalice_app import json_body
from chalicelib.observability import log_event
from chalicelib.web import told
from chalicelib.web.address import client_address
from chalicelib.web.tier import COOKIE, SECURE_COOKIE, Tier, WebTier, refuse_cross_site, token_of


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/session", methods=["POST"])
    def sign_in() -> Response:
        """`{username, password, code?}` -> `{token, token_type, expires_in, username, role}`, and the token as a cookie."""
        web = tier()  # first: under Lambda this is what points the tables at their names
        refuse_cross_site(bp.current_request.headers)
        body = json_body(bp.current_request)
        username, password, code = body.get("username"), body.get("password"), body.get("code")
        if not isinstance(username, str) or not isinstance(password, str) or not isinstance(code, str | None):
            raise InvalidRequest('Send {"username": "…", "password": "…"}, and "code" where a second factor is on.')
        user, token, seconds = enter(web, bp.current_request, username, password, code)
        answer = {
            "token": token,
            "token_type": "Bearer",
            "expires_in": seconds,
            "username": user.username,
            "role": user.role,
        }
        return Response(answer, status_code=200, headers={"Set-Cookie": cookie(tier, token, seconds), **_PRIVATE})

    @bp.route("/session", methods=["GET"])
    def who_am_i() -> Response:
        """Who is signed in."""
        principal = tier().sign_in(bp.current_request)
        answer = {
            "username": principal.username,
            "user_id": principal.user_id,
            "role": principal.role,
            "cohorts": sorted(principal.cohorts),
            "token": principal.token,
            "break_glass": [{"cohort": grant.cohort, "until": grant.until} for grant in principal.grants],
        }
        return Response(answer, headers=_PRIVATE)

    @bp.route("/session", methods=["DELETE"])
    def sign_out() -> Response:
        """End this session."""
        if tier().sign_in(bp.current_request).token:
            raise SignInRequired("A token does not end this way: DELETE /tokens/{token_id}.")
        leave(tier(), bp.current_request)
        return Response({"signed_out": True}, headers={"Set-Cookie": cookie(tier, "", 0), **_PRIVATE})

    return bp


def enter(web: WebTier, request: Any, username: str, password: str, code: str | None) -> tuple[User, str, int]:
    """Sign in with a password, from a page or by the API: the user, the new session's token, and its seconds.

    Raises as `SignIn.check`; wrong passwords and codes are told to the ledger.
    """
    address = client_address(request, web.settings.trusted_proxies)
    try:
        user = web.gate.check(username, password, code or None, address)
    except BadCredentials as error:
        if signin.failed_at(error, code):
            told.sign_in_failed(web.audit, username)
        raise
    return (user, *begin(web, request, user))


def begin(web: WebTier, request: Any, user: User) -> tuple[str, int]:
    """A new session for somebody who proved to be `user`. The one whose cookie came along ends."""
    old, from_cookie = token_of(request.headers, secure=web.settings.production)
    if old is not None and from_cookie:
        try:
            web.sessions.end(old)
        except DepotError as error:  # it ends by itself, and nobody else has it
            log_event("old_session_not_ended", error_code=error.code)
    token, seconds = web.sessions.open(user)
    context.assertion.set(token)
    told.signed(web.people, "signed_in")
    return token, seconds


def leave(web: WebTier, request: Any) -> None:
    """End the session of a request that `sign_in` has let in."""
    token, _ = token_of(request.headers, secure=web.settings.production)
    told.signed(web.people, "signed_out")
    web.sessions.end(token or "")


_PRIVATE: dict[str, Any] = {"Cache-Control": "no-store"}


def cookie(tier: Tier, token: str, seconds: int) -> str:
    """The `Set-Cookie` of a session; with "" and 0 the one that ends it.

    In production the name's prefix makes browsers refuse one without `Secure`, or from another host of the domain.
    """
    name, secure = (SECURE_COOKIE, "; Secure") if tier().settings.production else (COOKIE, "")
    return f"{name}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
