"""`/session`: sign in, who am I, sign out."""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth import users
from chalicelib.errors import BadCredentials, InvalidRequest
from chalicelib.hosting.chalice_app import json_body
from chalicelib.web import told
from chalicelib.web.tier import COOKIE, Tier, refuse_cross_site, token_of


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/session", methods=["POST"])
    def sign_in() -> Response:
        """`{username, password}` -> `{token, token_type, expires_in, username, role}`, and the token as a cookie."""
        sessions = tier().sessions  # first: under Lambda this is what points the tables at their names
        refuse_cross_site(bp.current_request.headers)
        body = json_body(bp.current_request)
        username, password = body.get("username"), body.get("password")
        if not isinstance(username, str) or not isinstance(password, str):
            raise InvalidRequest('Send {"username": "…", "password": "…"}.')
        try:
            user = users.authenticate(username, password)
        except BadCredentials:
            told.sign_in_failed(tier().audit, username)
            raise
        token, seconds = sessions.open(user)
        answer = {
            "token": token,
            "token_type": "Bearer",
            "expires_in": seconds,
            "username": user.username,
            "role": user.role,
        }
        return Response(answer, status_code=200, headers={"Set-Cookie": _cookie(tier, token, seconds), **_PRIVATE})

    @bp.route("/session", methods=["GET"])
    def who_am_i() -> Response:
        principal = tier().sign_in(bp.current_request)
        answer = {"username": principal.username, "role": principal.role, "cohorts": sorted(principal.cohorts)}
        return Response(answer, headers=_PRIVATE)

    @bp.route("/session", methods=["DELETE"])
    def sign_out() -> Response:
        tier().sign_in(bp.current_request)
        token, _ = token_of(bp.current_request.headers)
        tier().sessions.end(token or "")
        return Response({"signed_out": True}, headers={"Set-Cookie": _cookie(tier, "", 0), **_PRIVATE})

    return bp


_PRIVATE: dict[str, Any] = {"Cache-Control": "no-store"}


def _cookie(tier: Tier, token: str, seconds: int) -> str:
    secure = "; Secure" if tier().settings.production else ""
    return f"{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
