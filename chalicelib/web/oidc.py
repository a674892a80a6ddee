"""`/session/oidc` and its callback: sign-in through the organisation's issuer, where one is set up."""

from __future__ import annotations

from chalice.app import Blueprint, Response

from chalicelib.auth import users
from chalicelib.auth.oidc import FLOW_SECONDS, Identity, Issuer
from chalicelib.auth.policy import ROLES
from chalicelib.auth.tables import User
from chalicelib.errors import IssuerOff, NoSuchAccount
from chalicelib.web.session import begin, cookie
from chalicelib.web.tier import Tier, WebTier

COOKIE = "depot_oidc"
# What a claim never gives: whoever runs the issuer would be everything here.
_NOT_BY_CLAIM = frozenset({"superuser"})
# A page rather than a redirect: a browser does not send a SameSite=Strict cookie on redirects that began at another site.
_ON = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/app">'
    '<title>Signed in</title><p>Signed in. <a href="/app">Go on</a>.</p></html>'
)


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    @bp.route("/session/oidc", methods=["GET"])
    def start() -> Response:
        """-> 303 to the issuer."""
        begun = _issuer(tier()).begin()
        kept = _cookie(tier(), begun.cookie, FLOW_SECONDS)
        return Response("", {"Location": begun.url, "Set-Cookie": kept, "Cache-Control": "no-store"}, 303)

    @bp.route("/session/oidc/callback", methods=["GET"])
    def callback() -> Response:
        """The issuer sends the browser here. -> a page that leads on to the application, and the session's cookie."""
        web, request = tier(), bp.current_request
        issuer, name = _issuer(web), _name(web)
        cookies = dict(item.strip().partition("=")[::2] for item in request.headers.get("cookie", "").split(";"))
        user = account(web, issuer, issuer.finish(dict(request.query_params or {}), cookies.get(name)))
        token, seconds = begin(web, request, user)
        headers: dict[str, str | list[str]] = {
            "Content-Type": "text/html; charset=utf-8",
            "Set-Cookie": [cookie(tier, token, seconds), _cookie(web, "", 0)],
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
        }
        return Response(_ON, headers)

    return bp


def account(web: WebTier, issuer: Issuer, identity: Identity) -> User:
    """The user whom the issuer means; made where the settings say so. Raises `NoSuchAccount`."""
    username = users.normal(identity.username)
    user = users.find(username)
    if user is None and issuer.settings.auto_create:
        role = next((role for role in identity.roles if role in ROLES and role not in _NOT_BY_CLAIM), None)
        if role is None:
            raise NoSuchAccount
        values = {"username": username, "external": identity.external, "role": role, "cohorts": list(identity.cohorts)}
        web.people.ask("external_user", values)
        user = users.find(username)
    # The name may have been given to another person since: then it is not theirs to use.
    if user is None or user.disabled or (user.external is not None and user.external != identity.external):
        raise NoSuchAccount
    return user


def _issuer(web: WebTier) -> Issuer:
    if web.issuer is None:
        raise IssuerOff
    return web.issuer


def _name(web: WebTier) -> str:
    return f"__Host-{COOKIE}" if web.settings.production else COOKIE


def _cookie(web: WebTier, value: str, seconds: int) -> str:
    # Lax: it has to come along when the issuer sends the browser back.
    secure = "; Secure" if web.settings.production else ""
    return f"{_name(web)}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
