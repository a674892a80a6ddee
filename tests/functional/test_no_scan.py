"""Every route of both tiers is walked once, and DynamoDB is never asked to scan a table.

A route that is not in the walk fails this test: add it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from botocore.client import BaseClient

from tests.support.gateway import ENV
from tests.support.lambda_events import content
from tests.support.presigned_app import LambdaApp, presigned_app
from tests.support.tus_client import CHUNK, metadata

__all__ = ["presigned_app"]

KEY = {"x-api-key": ENV["INTERNAL_API_KEY"]}
ABOUT = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient"}
GOOD = "correct horse battery"
TUS = {"tus-resumable": "1.0.0"}


class Walk:
    """Calls that must come off, and which routes they were."""

    def __init__(self, app: LambdaApp) -> None:
        self.app, self.walked = app, set[tuple[str, str]]()
        self.headers: dict[str, str] = {}

    def __call__(self, method: str, route: str, status: int = 200, **about: Any) -> Any:
        self.walked.add((method, route))
        headers = {**self.headers, **about.pop("headers", {})}
        answer = self.app.call(method, route, headers=headers, **about)
        assert answer["statusCode"] == status, (method, route, answer["statusCode"], answer["body"][:300])
        return answer

    def json(self, method: str, route: str, status: int = 200, **about: Any) -> Any:
        return json.loads(content(self(method, route, status, **about)))


@pytest.fixture
def asked() -> Iterator[Counter[str]]:
    """DynamoDB's operations while the test runs."""
    seen, real = Counter[str](), BaseClient._make_api_call

    def noting(client: Any, operation: str, values: dict[str, Any]) -> Any:
        if client.meta.service_model.service_name == "dynamodb":
            seen[operation] += 1
        return real(client, operation, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", noting)
        yield seen


def web_tier(walk: Walk) -> None:
    file = walk.json("PUT", "/files", 201, query={**ABOUT, "filename": "a.csv"}, body=b"x")
    walk("POST", "/files", 409, query={**ABOUT, "filename": "a.csv"}, body=b"x")
    walk("GET", "/files", query={"cohort": "VACS"})
    where = {"path": {"file_id": file["file_id"]}}
    for method in ("GET", "HEAD"):
        walk(method, "/files/{file_id}", **where)
        walk(method, "/files/{file_id}/content", **where)
    walk("GET", "/files/{file_id}/url", **where)
    for asked in ({"cohort": "VACS"}, {"user": "x"}, {"action": "access_denied"}, {"file_id": file["file_id"]}):
        walk("GET", "/audit", query={**asked, "outcome": "completed"})
    recent = {"since": "2020-01-01T00:00:00Z", "outcome": "failed"}
    walk("GET", "/audit", query=recent)
    walk("GET", "/audit/export", query={**recent, "cohort": "VACS"})
    walk("GET", "/audit/export", query={"cohort": "VACS", "format": "jsonl"})
    for form in ("text", "json", "html"):
        walk("GET", "/reports/storage", query={"format": form})
    for route in ("/ledger/checkpoints", "/ledger/public-key"):
        walk("GET", route)
    walk("DELETE", "/files/{file_id}", **where)
    walk("GET", "/files/{file_id}", 404, **where)
    cleanup(walk, "")
    for route in ("/", "/config", "/health", "/openapi.json", "/docs"):
        walk("GET", route)
    walk("GET", "/session")
    other = walk.app.signed_in("reader", "VACS")  # POST /session
    walk("DELETE", "/session", headers=other.headers)
    walk("POST", "/session", 401, json={"username": "nobody", "password": "wrong password here"})


def pages(walk: Walk, file_id: str) -> None:
    """The browser application. `file_id` is deleted at the end."""

    def form(route: str, status: int = 303, path: dict[str, str] | None = None, **fields: str) -> Any:
        headers = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
        return walk("POST", route, status, headers=headers, path=path or {}, body=urlencode(fields).encode())

    walk("GET", "/app", 303)
    walk("GET", "/app/sign-in")
    form("/app/sign-in", 401, username="nobody", password="wrong password here")
    for query in ({"cohort": "VACS"}, {"cohort": "VACS", "name": "a", "order": "oldest"}):
        walk("GET", "/app/files", query=query)
    walk("GET", "/app/upload")
    boundary = b"--x\r\nContent-Disposition: form-data; name="
    body = b"".join(boundary + b'"%s"\r\n\r\n%s\r\n' % (name.encode(), value.encode()) for name, value in ABOUT.items())
    body += boundary + b'"file"; filename="form.csv"\r\n\r\nx\r\n--x--\r\n'
    walk("POST", "/app/upload", 201, headers={"content-type": "multipart/form-data; boundary=x"}, body=body)
    walk("GET", "/app/audit", query={"cohort": "VACS"})
    for route in ("/app/report", "/app/cleanup", "/app/holds", "/app/people", "/app/system"):
        walk("GET", route)
    plan = form("/app/cleanup", which="due")["headers"]["Location"].rsplit("/", 1)[1]
    where = {"plan_id": plan}
    shown = content(walk("GET", "/app/cleanup/{plan_id}", path=where)).decode()
    form("/app/cleanup/{plan_id}/apply", 409, path=where, hash="0" * 64)
    assert plan in shown
    form("/app/holds", kind="cohort", name="PAGES", reason="a letter")
    form("/app/people", 201, what="cohort", name="PAGES")
    made = form("/app/people", 201, username="pages@example.org", role="reader", cohorts="PAGES")
    user_id = re.search(r">pages@.*?/app/people/([0-9a-f]{32})", content(made).decode(), re.DOTALL)[1]
    form("/app/people/{user_id}", 200, path={"user_id": user_id}, do="disable")
    form("/app/system", 200, name="report")
    walk("GET", "/app/account")
    form("/app/account", 400, do="nothing")
    name, version = "depot.css", re.search(r"/static/([0-9a-f]+)/depot.css", shown).group(1)
    for method in ("GET", "HEAD"):
        walk(method, "/static/{version}/{name}", path={"version": version, "name": name})
    where = {"file_id": file_id}
    walk("GET", "/app/files/{file_id}", path=where)
    walk("GET", "/app/files/{file_id}/delete", path=where)
    form("/app/files/{file_id}/delete", path=where)
    other = walk.app.signed_in("uploader", "VACS")
    walk("POST", "/app/sign-out", 303, headers={**other.headers, "content-type": "application/x-www-form-urlencoded"})


def cleanup(walk: Walk, prefix: str) -> None:
    """Plans and holds, on either tier: the services tier has them below `/internal`."""
    plans = f"{prefix}/cleanup/plans"
    plan = walk.json("POST", plans, 201, json={"hours": 0})
    where = {"path": {"plan_id": plan["plan_id"]}}
    walk("GET", f"{plans}/{{plan_id}}", **where)
    walk("POST", f"{plans}/{{plan_id}}/apply", json={"hash": plan["hash"]}, **where)
    walk("GET", f"{plans}/{{plan_id}}/receipts", **where)
    hold = {"cohort": "HELD", "reason": "a letter"}
    walk("POST", f"{prefix}/holds", 201, json=hold)
    walk("GET", f"{prefix}/holds")
    walk("POST", f"{prefix}/holds/lift", json=hold)


def people(walk: Walk, base: str, headers: dict[str, str]) -> None:
    """The calls about people are the same on both tiers. `headers` are a superuser's."""

    def call(method: str, route: str, status: int = 200, **about: Any) -> Any:
        return walk.json(method, base + route, status, **{"headers": headers, **about})

    cohort = f"C{base.count('/')}"
    call("POST", "/cohorts", 201, json={"name": cohort})
    call("GET", "/cohorts")
    made = call(
        "POST", "/users", 201, json={"username": f"x@{cohort}", "role": "reader", "cohorts": [cohort], "password": GOOD}
    )
    user = {"path": {"user_id": made["user_id"]}}
    call("GET", "/users", query={"limit": "1"})
    call("GET", "/users/{user_id}", **user)
    call("PATCH", "/users/{user_id}", json={"disabled": False}, **user)
    about = {"cohort": cohort, "reason": "the walk through every route"}
    grant = call("POST", "/break-glass", 201, json=about)["grant_id"]
    call("GET", "/break-glass")
    call("DELETE", "/break-glass/{grant_id}", path={"grant_id": grant})
    token = walk.app.call(
        "POST", "/session", headers={"authorization": ""}, json={"username": f"x@{cohort}", "password": GOOD}
    )
    token = json.loads(content(token))["token"]
    own = {**headers, "authorization": f"Bearer {token}", "x-depot-assertion": token}
    call("GET", "/sessions", headers=own)
    script = call("POST", "/tokens", 201, headers=own, json={"name": "walk", "permissions": ["read"]})
    call("GET", "/tokens", headers=own)
    call("DELETE", "/tokens/{token_id}", headers=own, path={"token_id": script["token_id"]})
    call("POST", "/session/totp", headers=own, json={"password": GOOD})
    call("POST", "/session/totp/confirm", 401, headers=own, json={"code": "x"})
    call("POST", "/session/totp/remove", 400, headers=own, json={"password": GOOD})
    call("POST", "/session/password", headers=own, json={"old": GOOD, "new": GOOD[::-1]})
    if base:
        call("POST", "/session/events", 201, headers=own, json={"event": "signed_out"})
        external = {"username": "y@elsewhere", "external": "issuer y", "role": "reader", "cohorts": []}
        walk("POST", "/internal/session/external", 201, json=external)
    call("DELETE", "/sessions", headers=own)
    if not base:  # no issuer is set up here
        walk("GET", "/session/oidc", 404)
        walk("GET", "/session/oidc/callback", 404)
    call("POST", "/users/{user_id}/password", **user)


def tus(walk: Walk) -> None:
    walk("OPTIONS", "/uploads", 204)

    def opened(name: str, size: int) -> str:
        told = metadata(**ABOUT, filename=name)
        headers = {**TUS, "upload-length": str(size), "upload-metadata": told, "idempotency-key": name}
        location = walk("POST", "/uploads", 201, headers=headers)["headers"]["Location"]
        return str(location.rsplit("/", 1)[1])

    upload = opened("t.csv", 3)
    assert opened("t.csv", 3) == upload
    where = {"path": {"upload_id": upload}}
    walk("OPTIONS", "/uploads/{upload_id}", 204, **where)
    for offset, end in ((0, 2), (2, 3)):
        headers = {**TUS, "upload-offset": str(offset), "content-type": CHUNK}
        walk("PATCH", "/uploads/{upload_id}", 204, headers=headers, body=b"abc"[offset:end], **where)
        walk("HEAD", "/uploads/{upload_id}", headers=TUS, **where)
        walk("GET", "/uploads/{upload_id}", **where)
    other = {"path": {"upload_id": opened("u.csv", 3)}}
    walk("POST", "/uploads/{upload_id}", 204, headers={**TUS, "x-http-method-override": "DELETE"}, **other)
    walk("DELETE", "/uploads/{upload_id}", 204, headers=TUS, path={"upload_id": opened("v.csv", 3)})


def presigned(walk: Walk) -> None:
    walk(
        "GET",
        "/s3/params",
        query={"filename": "s.csv", **{f"metadata[{name}]": value for name, value in ABOUT.items()}},
    )
    bodies = [{"filename": name, "type": "text/csv", "metadata": {**ABOUT, "size": 3}} for name in ("m.csv", "n.csv")]
    upload, given_up = [walk.json("POST", "/s3/multipart", json=body)["uploadId"] for body in bodies]
    key = {"query": {"key": upload}}
    part = {"upload_id": upload, "number": "1"}
    signed = walk.json("GET", "/s3/multipart/{upload_id}/{number}", path=part, **key)
    assert requests.put(signed["url"], data=b"abc", headers=signed["headers"], timeout=30).ok
    walk("GET", "/s3/multipart/{upload_id}", path={"upload_id": upload}, **key)
    walk("POST", "/s3/multipart/{upload_id}/complete", path={"upload_id": upload}, **key)
    walk("DELETE", "/s3/multipart/{upload_id}", path={"upload_id": given_up}, query={"key": given_up})


def services_tier(walk: Walk) -> None:
    place = {"disk": "workspace", "path": "upload_prechecks/1/p.csv"}
    saved = walk.json("POST", "/internal/storage/upload", 201, query=place, body=b"x")
    for method in ("GET", "HEAD"):
        walk(method, "/internal/storage/download", query=place)
    for name in ("exists", "metadata"):
        walk("GET", f"/internal/storage/{name}", query=place)
    walk("GET", "/internal/storage/list", query={"disk": "workspace", "prefix": "upload_prechecks/"})
    walk("GET", "/internal/files", query={"cohort": "VACS"})
    file = {"path": {"file_id": saved["file_id"]}}
    walk("GET", "/internal/files/{file_id}", **file)
    walk("POST", "/internal/files/{file_id}/url", 201, json={"expires_in": 60}, **file)
    walk("POST", "/internal/files/{file_id}/verify", **file)
    for asked in ("file_id", "cohort", "user", "action", "tracking_id"):
        walk("GET", "/internal/tracking", query={asked: saved["tracking_id"]})
    walk("GET", "/internal/tracking", query={"since": "2020-01-01", "outcome": "unknown"})
    walk("POST", "/internal/audit/exports", 201, json={"question": {}, "format": "csv", "resumed": False})
    walk("POST", "/internal/audit/sign-ins", 201, json={"username": "nobody"})
    token = {"x-depot-assertion": walk.app.headers["authorization"].removeprefix("Bearer ")}
    told = {"permission": "read", "cohort": "VACS", "method": "GET", "route": "/files"}
    walk("POST", "/internal/audit/denials", 201, json=told, headers=token)
    chunked = "/internal/storage/upload_chunked"
    for end in ("complete", "abort"):
        init = {**place, "path": f"upload_prechecks/1/{end}.csv"}
        upload = walk.json("POST", chunked, 201, query={"phase": "init"}, json=init)["upload_id"]
        step = {"upload_id": upload}
        walk("POST", chunked, query={**step, "phase": "chunk", "offset": "0"}, body=b"x")
        walk("POST", chunked, query={**step, "phase": "status"})
        walk("POST", chunked, query={**step, "phase": "size", "size": "1"})
        walk("POST", chunked, 201 if end == "complete" else 200, query={**step, "phase": end})
    pieces = []
    for _ in range(2):
        init = {"disk": "scratch", "partial": True, "size": 1}
        pieces.append(walk.json("POST", chunked, 201, query={"phase": "init"}, json=init)["upload_id"])
        step = {"upload_id": pieces[-1], "offset": "0", "finish": "true"}
        walk("POST", chunked, query={**step, "phase": "chunk"}, body=b"x")
    final = {**place, "path": "upload_prechecks/1/final.csv", "uploads": pieces}
    walk("POST", chunked, 201, query={"phase": "concat"}, json=final)
    for route in ("checkpoints", "public-key"):
        walk("GET", f"/internal/ledger/{route}")
    walk("GET", "/internal/uploads/config")
    init = {**place, "disk": "submissions", "path": "submissions/VACS/2024/patient/d.csv", "direct": True, "size": 3}
    direct = {"path": {"upload_id": walk.json("POST", chunked, 201, query={"phase": "init"}, json=init)["upload_id"]}}
    walk("POST", "/internal/uploads/{upload_id}/parts", 201, json={"number": 1}, **direct)
    walk("GET", "/internal/uploads/{upload_id}/parts", **direct)
    walk("POST", "/internal/storage/delete", json=place)
    prefix = {"disk": "workspace", "prefix": "upload_prechecks/1"}
    for dry_run in (True, False):
        walk("POST", "/internal/storage/delete_prefix", json={**prefix, "dry_run": dry_run})
        walk("POST", "/internal/storage/cleanup", json={"hours": 0, "dry_run": dry_run})
    cleanup(walk, "/internal")
    walk("GET", "/internal/storage/health")
    for name in [job["name"] for job in walk.json("GET", "/internal/jobs")["jobs"]]:
        walk("POST", "/internal/jobs/{name}/run", path={"name": name})
    work = {"disk": "scratch", "path": "scratch/audit_7/w.csv"}
    walk("POST", "/internal/workspace/files", 201, query={**work, "cleanup_hours": "2"}, body=b"x")
    walk("GET", "/internal/workspace/usage")
    walk("GET", "/internal/reports/storage")
    walk("POST", "/internal/workspace/files/delete", json=work)


def test_no_route_of_either_tier_scans_a_table(presigned_app: LambdaApp, asked: Counter[str]) -> None:
    walk = Walk(presigned_app)
    web_tier(walk)
    read = walk.json("PUT", "/files", 201, query={**ABOUT, "filename": "page.csv"}, body=b"x")
    pages(walk, read["file_id"])
    tus(walk)
    presigned(walk)
    people(walk, "", walk.app.headers)
    walk.headers = KEY
    token = walk.app.headers["authorization"].removeprefix("Bearer ")
    people(walk, "/internal", {"x-depot-assertion": token})
    services_tier(walk)
    routes = {(method, route) for route, methods in presigned_app.module.app.routes.items() for method in methods}
    assert routes - walk.walked == set(), "add these to the walk"
    print(dict(asked))
    assert asked["Query"] > 20
    assert asked["TransactWriteItems"] > 20
    assert not [operation for operation in asked if re.search("scan|statement|import|export", operation, re.IGNORECASE)]


def test_the_count_itself_would_see_a_scan(presigned_app: LambdaApp, asked: Counter[str]) -> None:
    from nas_gateway.files.tables import TrackedFile

    list(TrackedFile.scan(limit=1))
    assert asked["Scan"] == 1
