"""Every route of both tiers, and who may use it. The handlers enforce the same; a test walks each with every role.

A route that is not in this table fails the build, and so does a row without a route. Imports only the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from chalicelib.auth.policy import Permission


class Who(Enum):
    """Where no permission decides."""

    PUBLIC = "anybody"
    SIGNED_IN = "whoever is signed in"
    PERSON = "whoever is signed in, but not by a token"
    KEY = "whoever has the tiers' key, whoever the user is"
    SERVICE = "whoever has the tiers' key, on no user's behalf"
    REPORT = "who may read a ledger, clean up, or administer, somewhere: `policy.report_scope`"


class About(Enum):
    """What a permission is asked for."""

    COHORT = "the cohort that the request names"
    FILE = "the cohort of the file that the address names; to who may not list it, it is not there (404)"
    SOME = "any cohort at all"
    ALL = "no one cohort: only roles that have it everywhere"
    OWN = "an upload or a plan of one's own; anybody else's is not there (404)"


@dataclass(frozen=True, slots=True)
class Route:
    """`permission` and what it is asked for. On the services tier besides the key, of the user whose assertion came along."""

    permission: Permission | Who
    about: About = About.ALL


P, W, A = Permission, Who, About
_PUBLIC, _SIGNED_IN, _PERSON, _KEY = Route(W.PUBLIC), Route(W.SIGNED_IN), Route(W.PERSON), Route(W.KEY)
_SERVICE, _REPORT = Route(W.SERVICE), Route(W.REPORT)
_ADMIN, _CLEANUP, _GLASS = Route(P.ADMIN), Route(P.CLEANUP), Route(P.BREAK_GLASS)
_HOLDS, _LEDGER = Route(P.LEDGER), Route(P.LEDGER, A.COHORT)
_LIST, _READ, _DELETE = Route(P.LIST, A.FILE), Route(P.READ, A.FILE), Route(P.DELETE, A.FILE)
_UPLOAD, _OWN_UPLOAD = Route(P.UPLOAD, A.COHORT), Route(P.UPLOAD, A.OWN)

Table = Mapping[tuple[str, str], Route]

# The calls about people are the same on both tiers, under /internal on the one that decides.
_PEOPLE: Table = {
    ("GET", "/users"): _ADMIN,
    ("POST", "/users"): _ADMIN,
    ("GET", "/users/{user_id}"): _ADMIN,
    ("PATCH", "/users/{user_id}"): _ADMIN,
    ("POST", "/users/{user_id}/password"): _ADMIN,
    ("GET", "/cohorts"): _ADMIN,
    ("POST", "/cohorts"): _ADMIN,
    ("POST", "/session/password"): _PERSON,
    ("GET", "/sessions"): _PERSON,
    ("DELETE", "/sessions"): _PERSON,
    ("GET", "/tokens"): _PERSON,
    ("POST", "/tokens"): _PERSON,
    ("DELETE", "/tokens/{token_id}"): _PERSON,
    ("POST", "/session/totp"): _PERSON,
    ("POST", "/session/totp/confirm"): _PERSON,
    ("POST", "/session/totp/remove"): _PERSON,
    ("GET", "/break-glass"): _GLASS,
    ("POST", "/break-glass"): _GLASS,
    ("DELETE", "/break-glass/{grant_id}"): _GLASS,
}

# The pages stand on the same calls. Who is not signed in is sent to the sign-in page.
PAGES: Table = {
    ("GET", "/app"): _SIGNED_IN,
    ("GET", "/app/sign-in"): _PUBLIC,
    ("POST", "/app/sign-in"): _PUBLIC,
    ("POST", "/app/sign-out"): _PUBLIC,
    ("GET", "/app/account"): _PERSON,
    ("POST", "/app/account"): _SIGNED_IN,  # what its forms ask for is for a PERSON, each by its own call
    ("GET", "/app/audit"): _LEDGER,
    ("GET", "/app/cleanup"): _CLEANUP,
    ("POST", "/app/cleanup"): _CLEANUP,
    ("GET", "/app/cleanup/{plan_id}"): _CLEANUP,
    ("POST", "/app/cleanup/{plan_id}/apply"): _CLEANUP,
    ("GET", "/app/files"): Route(P.LIST, A.COHORT),
    ("GET", "/app/files/{file_id}"): _LIST,
    ("GET", "/app/files/{file_id}/delete"): _DELETE,
    ("POST", "/app/files/{file_id}/delete"): _DELETE,
    ("GET", "/app/holds"): _HOLDS,
    ("POST", "/app/holds"): _ADMIN,
    ("GET", "/app/people"): _ADMIN,
    ("POST", "/app/people"): _ADMIN,
    ("POST", "/app/people/{user_id}"): _ADMIN,
    ("GET", "/app/report"): _REPORT,
    ("GET", "/app/system"): _CLEANUP,
    ("POST", "/app/system"): _CLEANUP,
    ("GET", "/app/upload"): Route(P.UPLOAD, A.SOME),
    ("POST", "/app/upload"): _UPLOAD,
}

WEB: Table = {
    ("GET", "/"): _PUBLIC,
    ("GET", "/health"): _PUBLIC,
    ("GET", "/config"): _PUBLIC,
    ("GET", "/openapi.json"): _PUBLIC,
    ("GET", "/docs"): _PUBLIC,
    ("OPTIONS", "/uploads"): _PUBLIC,
    ("OPTIONS", "/uploads/{upload_id}"): _PUBLIC,
    ("GET", "/static/{version}/{name}"): _PUBLIC,
    ("HEAD", "/static/{version}/{name}"): _PUBLIC,
    ("POST", "/session"): _PUBLIC,
    ("GET", "/session"): _SIGNED_IN,
    ("DELETE", "/session"): _PERSON,
    ("GET", "/session/oidc"): _PUBLIC,
    ("GET", "/session/oidc/callback"): _PUBLIC,
    **_PEOPLE,
    **PAGES,
    ("GET", "/files"): Route(P.LIST, A.COHORT),
    ("POST", "/files"): _UPLOAD,
    ("PUT", "/files"): _UPLOAD,
    ("GET", "/files/{file_id}"): _LIST,
    ("HEAD", "/files/{file_id}"): _LIST,
    ("DELETE", "/files/{file_id}"): _DELETE,
    ("GET", "/files/{file_id}/content"): _READ,
    ("HEAD", "/files/{file_id}/content"): _READ,
    ("GET", "/files/{file_id}/url"): _READ,
    ("POST", "/uploads"): _UPLOAD,
    ("POST", "/uploads/{upload_id}"): _OWN_UPLOAD,
    ("GET", "/uploads/{upload_id}"): _OWN_UPLOAD,
    ("HEAD", "/uploads/{upload_id}"): _OWN_UPLOAD,
    ("PATCH", "/uploads/{upload_id}"): _OWN_UPLOAD,
    ("DELETE", "/uploads/{upload_id}"): _OWN_UPLOAD,
    ("GET", "/s3/params"): _UPLOAD,
    ("POST", "/s3/multipart"): _UPLOAD,
    ("GET", "/s3/multipart/{upload_id}"): _OWN_UPLOAD,
    ("DELETE", "/s3/multipart/{upload_id}"): _OWN_UPLOAD,
    ("POST", "/s3/multipart/{upload_id}/complete"): _OWN_UPLOAD,
    ("GET", "/s3/multipart/{upload_id}/{number}"): _OWN_UPLOAD,
    ("GET", "/audit"): _LEDGER,
    ("GET", "/audit/export"): _LEDGER,
    ("GET", "/ledger/checkpoints"): _HOLDS,
    ("GET", "/ledger/public-key"): _HOLDS,
    ("GET", "/reports/storage"): _REPORT,
    ("POST", "/cleanup/plans"): _CLEANUP,
    ("GET", "/cleanup/plans/{plan_id}"): _CLEANUP,
    ("POST", "/cleanup/plans/{plan_id}/apply"): _CLEANUP,
    ("GET", "/cleanup/plans/{plan_id}/receipts"): _CLEANUP,
    ("GET", "/holds"): _HOLDS,
    ("POST", "/holds"): _ADMIN,
    ("POST", "/holds/lift"): _ADMIN,
}

_S = "/internal/storage"
SERVICES: Table = {
    ("GET", "/"): _PUBLIC,
    **{(method, f"/internal{path}"): route for (method, path), route in _PEOPLE.items()},
    ("POST", "/internal/session/events"): _PERSON,
    ("POST", "/internal/session/external"): _SERVICE,
    ("GET", "/internal/files"): Route(P.LIST, A.COHORT),
    ("GET", "/internal/files/{file_id}"): _LIST,
    ("POST", "/internal/files/{file_id}/url"): _READ,
    ("POST", "/internal/files/{file_id}/verify"): Route(P.ADMIN, A.FILE),
    ("POST", f"{_S}/upload"): _UPLOAD,
    ("POST", f"{_S}/upload_chunked"): _UPLOAD,
    ("GET", f"{_S}/download"): _READ,
    ("HEAD", f"{_S}/download"): _LIST,  # its description, no bytes
    ("GET", f"{_S}/exists"): _KEY,
    ("GET", f"{_S}/metadata"): _LIST,
    ("GET", f"{_S}/list"): Route(P.LIST, A.COHORT),
    ("POST", f"{_S}/delete"): _DELETE,
    ("POST", f"{_S}/delete_prefix"): _DELETE,
    ("POST", f"{_S}/cleanup"): _CLEANUP,
    ("GET", f"{_S}/health"): _KEY,
    ("GET", "/internal/uploads/config"): _KEY,
    ("GET", "/internal/uploads/{upload_id}/parts"): _OWN_UPLOAD,
    ("POST", "/internal/uploads/{upload_id}/parts"): _OWN_UPLOAD,
    ("GET", "/internal/tracking"): _LEDGER,
    ("POST", "/internal/audit/exports"): _LEDGER,
    ("POST", "/internal/audit/denials"): _KEY,
    ("POST", "/internal/audit/sign-ins"): _KEY,
    ("GET", "/internal/ledger/checkpoints"): _HOLDS,
    ("GET", "/internal/ledger/public-key"): _HOLDS,
    ("GET", "/internal/reports/storage"): _REPORT,
    ("POST", "/internal/cleanup/plans"): _CLEANUP,
    ("GET", "/internal/cleanup/plans/{plan_id}"): _CLEANUP,
    ("POST", "/internal/cleanup/plans/{plan_id}/apply"): _CLEANUP,
    ("GET", "/internal/cleanup/plans/{plan_id}/receipts"): _CLEANUP,
    ("GET", "/internal/holds"): _HOLDS,
    ("POST", "/internal/holds"): _ADMIN,
    ("POST", "/internal/holds/lift"): _ADMIN,
    ("GET", "/internal/jobs"): _CLEANUP,
    ("POST", "/internal/jobs/{name}/run"): _CLEANUP,
    ("POST", "/internal/workspace/files"): Route(P.UPLOAD),  # of no cohort
    ("POST", "/internal/workspace/files/delete"): _DELETE,
    ("GET", "/internal/workspace/usage"): _CLEANUP,
}
