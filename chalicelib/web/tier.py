"""What the web tier's handlers share: settings, sessions, the catalog, and the check that somebody is signed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chalicelib import context
from chalicelib.auth.oidc import Issuer
from chalicelib.auth.people import People
from chalicelib.auth.policy import Principal
from chalicelib.auth.sessions import Sessions
from chalicelib.auth.signin import SignIn
from chalicelib.config import Settings
from chalicelib.errors import CrossSiteRequest, NotSignedIn
from chalicelib.storage.audit import AuditTrail
from chalicelib.storage.catalog import Catalog
from chalicelib.storage.checkpoints import Checkpoints
from chalicelib.storage.cleanup import CleanupCalls
from chalicelib.storage.reports import StorageReports
from chalicelib.storage.system import SystemCalls
from chalicelib.storage.uploads import UploadSessions
from chalicelib.web import told

COOKIE = "depot_session"
# In production (RFC 6265bis, 4.1.3.2): only over TLS, for this host alone.
SECURE_COOKIE = f"__Host-{COOKIE}"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Backend:
    """What the services tier does for the web tier. Over the network in the web role, in the process in the testing role."""

    catalog: Catalog
    uploads: UploadSessions
    audit: AuditTrail
    reports: StorageReports
    checkpoints: Checkpoints
    cleanup: CleanupCalls
    people: People
    system: SystemCalls


@dataclass(frozen=True, slots=True)
class WebTier(Backend):
    """What the handlers share. Made once by the wiring."""

    settings: Settings
    sessions: Sessions
    gate: SignIn
    issuer: Issuer | None = None

    def sign_in(self, request: Any) -> Principal:
        """Who sent this request; also sets the assertion that calls to the services tier carry.

        What this tier then refuses by `Principal.require` is told to the services tier, which records it.

        Bearer token first, else the session cookie; a cookie counts for unsafe methods only when the request comes from
        our own pages. Raises `NotSignedIn`, `CrossSiteRequest`.
        """
        token, from_cookie = token_of(request.headers, secure=self.settings.production)
        if token is None:
            raise NotSignedIn
        if from_cookie and request.method not in _SAFE:
            refuse_cross_site(request.headers)
        principal = self.sessions.resolve(token)
        context.assertion.set(token)
        return told.reporting(principal, self.audit, request)


Tier = Callable[[], WebTier]


def token_of(headers: Mapping[str, str], *, secure: bool = False) -> tuple[str | None, bool]:
    """The session token of a request, and whether it came as a cookie; `secure`: as the one with the prefix only."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip(), False
    cookies: dict[str, str] = {}
    for item in headers.get("cookie", "").split(";"):
        name, _, value = item.strip().partition("=")
        cookies.setdefault(name, value)
    value = cookies.get(SECURE_COOKIE) or ("" if secure else cookies.get(COOKIE, ""))
    return (value, True) if value else (None, False)


def refuse_cross_site(headers: Mapping[str, str]) -> None:
    """Cross-site request forgery: believe the browser's own word on where a request comes from.

    `Sec-Fetch-Site` where there is one, else `Origin` against `Host`; a client that sends neither is no browser (the rule
    of Go's net/http CrossOriginProtection). Raises `CrossSiteRequest`.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise CrossSiteRequest
        return
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        raise CrossSiteRequest
