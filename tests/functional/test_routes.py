"""Every route of both tiers x every role x own, other and no cohort: the answers are those of `auth.routes`.

A route that is not in that table fails here, and so does a row without a route.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
from moto import mock_aws

from chalicelib import context, dynamo
from chalicelib.auth import routes, tables, users
from chalicelib.auth.policy import ROLES, Permission, Principal, report_scope
from chalicelib.auth.routes import About, Route, Who
from chalicelib.storage.manager import StorageManager
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway import wiring
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from tests.support.gateway import AWS, ENV
from tests.support.lambda_events import content, event

ALL = {**routes.WEB, **routes.PAGES, **routes.SERVICES}
COHORTS = {"own": frozenset({"OWN"}), "other": frozenset({"OTHER"}), "none": frozenset[str]()}
PATH = "submissions/OWN/2024/patient/p.csv"
NOBODYS = "0" * 32
KEY = {"x-api-key": ENV["INTERNAL_API_KEY"]}
ABOUT = {"cohort": "OWN", "protocol_year": "2024", "file_type": "patient"}
FORM = "application/x-www-form-urlencoded"


def tier_routes(role: str) -> set[tuple[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVER_ROLE", role)
        patch.delitem(sys.modules, "app", raising=False)
        found = importlib.import_module("app").app.routes
        sys.modules.pop("app")
    return {(method, path) for path, methods in found.items() for method in methods}


def test_every_route_is_in_the_table_and_every_row_has_a_route() -> None:
    assert tier_routes("services") == set(routes.SERVICES)
    assert tier_routes("web") == set(routes.WEB) | set(routes.PAGES)


def test_the_services_tier_asks_for_the_key_on_every_route_but_its_root() -> None:
    assert [key for key, route in routes.SERVICES.items() if route.permission is Who.PUBLIC] == [("GET", "/")]


# --- the walk -----------------------------------------------------------------------------------------------------


@dataclass
class House:
    """Both tiers in one process, one file of cohort OWN, one upload of somebody else's, and a user of every kind."""

    module: ModuleType
    file_id: str = ""
    upload_id: str = ""
    people: dict[tuple[str, str], tables.User] = field(default_factory=dict)

    @property
    def gateway(self) -> Any:
        return self.module.gateway()

    def restock(self) -> None:
        """The file, if a call has deleted it."""
        row = self.gateway.transfers.registry.at("submissions", PATH)
        if row is None:
            saved = self.gateway.transfers.upload(Call(), place("submissions", PATH), BytesReader(b"x"))
            self.file_id = saved.file_id

    def token(self, role: str, relation: str) -> str:
        name = f"{role}-{relation}"
        if (role, relation) not in self.people:
            user = tables.User(
                name, user_id=name.encode().hex()[:32].ljust(32, "0"), role=role, cohorts=set(COHORTS[relation]) or None,
                password_hash="!", created_at=1,
            )  # fmt: skip
            user.save()
            self.people[role, relation] = user
        found = users.find(name)
        assert found is not None
        return str(self.gateway.sessions.open(found)[0])

    def call(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        context.assertion.set(None)
        names = {"file_id": self.file_id, "upload_id": self.upload_id}
        where = {
            name: names.get(name, "1" if name == "number" else NOBODYS)
            for name in [part[1:-1] for part in path.split("/") if part.startswith("{")]
        }
        query: dict[str, str] = {"disk": "submissions", "path": PATH, "prefix": "submissions/OWN/", **ABOUT}
        query |= {"filename": f"{os.urandom(6).hex()}.csv", "key": self.upload_id}
        body, headers = b"", dict(headers)
        if path == "/app/upload":
            headers["content-type"], body = "multipart/form-data; boundary=x", upload_form(query["filename"])
        if path.startswith(("/audit", "/app")) or path in ("/internal/tracking", "/reports/storage"):
            query = {"cohort": "OWN"}
        if path.endswith("/upload") or path == "/internal/storage/upload_chunked":
            query |= {"path": f"submissions/OWN/2024/patient/{os.urandom(6).hex()}.csv", "phase": "init"}
        if path == "/internal/workspace/files":
            query |= {"disk": "workspace", "path": f"upload_prechecks/1/{os.urandom(6).hex()}.csv"}
        metadata = {f"metadata[{name}]": value for name, value in ABOUT.items()} if path == "/s3/params" else {}
        if path == "/uploads":
            from tests.support.tus_client import metadata as tus_metadata

            about = tus_metadata(**ABOUT, filename=query["filename"])
            headers |= {"upload-length": "3", "upload-metadata": about}
        if path.startswith("/uploads"):
            headers |= {
                "tus-resumable": "1.0.0",
                "upload-offset": "0",
                "content-type": "application/offset+octet-stream",
            }
            if path != "/uploads" and method == "POST":
                headers["x-http-method-override"] = "DELETE"
        elif path.startswith("/app"):
            headers.setdefault("content-type", FORM)
        elif method in ("POST", "PATCH", "DELETE"):
            headers["content-type"] = "application/json"
            body = BODIES.get(path, b"{}")
        for name, value in ABOUT.items() if path.startswith("/internal") else ():
            headers[f"x-depot-meta-{name.replace('_', '-')}"] = value
        answer = self.module.app(
            event(method, path, headers=headers, path=where, query={**query, **metadata}, body=body), None
        )
        return int(answer["statusCode"]), answer


def upload_form(filename: str) -> bytes:
    """A file as a browser's form sends it."""
    fields = "".join(f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in ABOUT.items())
    file = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\nx\r\n--x--\r\n'
    return (fields + file).encode()


# Presigning is off in this process, and says so before anything else; `test_presigned` is about these routes.
OFF = b"presigning_off"

BODIES = {
    "/s3/multipart": b'{"filename": "m.csv", "type": "text/csv", "metadata": {"cohort": "OWN", "protocol_year": "2024", '
    b'"file_type": "patient", "size": 3}}',
    "/internal/storage/upload_chunked": b'{"disk": "submissions", "path": "submissions/OWN/2024/patient/c.csv"}',
    "/internal/storage/delete": b'{"disk": "submissions", "path": "submissions/OWN/2024/patient/p.csv"}',
    "/internal/storage/delete_prefix": b'{"disk": "submissions", "prefix": "submissions/OWN/2024", "dry_run": true}',
    "/internal/workspace/files/delete": b'{"disk": "submissions", "path": "submissions/OWN/2024/patient/p.csv"}',
    "/internal/audit/exports": b'{"question": {"cohort": "OWN"}, "format": "csv", "resumed": false}',
    "/internal/uploads/{upload_id}/parts": b'{"number": 1}',
    "/internal/cleanup/plans/{plan_id}/apply": b'{"hash": "x"}',
    "/internal/holds": b'{"file_id": "00000000000000000000000000000000", "reason": "the walk"}',
    "/internal/holds/lift": b'{"file_id": "00000000000000000000000000000000", "reason": "the walk"}',
    "/internal/files/{file_id}/url": b'{"expires_in": 60}',
    "/internal/session/external": b'{"username": "e", "external": "i e", "role": "reader", "cohorts": []}',
}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in [name for name in os.environ if name.startswith(("S3_", "AWS_ENDPOINT"))]:
            patch.delenv(name)
        limits = {"DENIALS_PER_MINUTE": "100000", "SIGN_IN_FAILURES": "100000"}
        for name, value in {**AWS, **ENV, **limits, "LEDGER_TABLE_PREFIX": "routes"}.items():
            patch.setenv(name, value)
        patch.delitem(sys.modules, "app", raising=False)
        made = House(importlib.import_module("app"))
        made.module.web_tier()
        dynamo.create(*tables.MODELS, *wiring.MODELS)
        made.restock()
        new = NewUpload(disk="submissions", path="submissions/OWN/2024/patient/u.csv", size=3)
        made.upload_id = made.gateway.uploads.create(Call(), new).upload_id
        yield made
        sys.modules.pop("app", None)
        StorageManager.clear_cache()
        wiring.gateway.cache_clear()
        context.assertion.set(None)


def expected(route: Route, principal: Principal) -> int | None:
    """The status of the refusal, or None where it is allowed."""
    needed = route.permission
    if needed is Who.REPORT:
        return 403 if report_scope(principal) == frozenset() else None
    if not isinstance(needed, Permission):
        return 403 if needed is Who.SERVICE or (needed is Who.PERSON and principal.token) else None
    if route.about is About.OWN:
        return 404
    if route.about is About.FILE and not principal.may(Permission.LIST, "OWN"):
        return 404
    if route.about is About.SOME:
        return 403 if principal.scope(needed) == frozenset() else None
    return None if principal.may(needed, None if route.about is About.ALL else "OWN") else 403


def walked() -> list[tuple[tuple[str, str], Route]]:
    # The root of both tiers has one address; the testing role has the web tier's.
    return list(ALL.items())


def wrong(house: House, role: str, relation: str) -> list[str]:
    """Routes whose answer is not the table's."""
    faults = []
    for (method, path), route in walked():
        token = house.token(role, relation)
        headers = {**KEY, "x-depot-assertion": token} if path.startswith("/internal") else {}
        if not headers:
            headers = {"authorization": f"Bearer {token}"}
        status, answer = house.call(method, path, headers)
        wanted = expected(route, Principal("x", role, COHORTS[relation]))
        if OFF in content(answer):
            continue
        good = (
            status == wanted
            if wanted
            else status not in (401, 403) and not (route.about is About.FILE and status == 404)
        )
        if not good or (status >= 500 and status not in (501, 503)):
            faults.append(f"{method} {path}: {status}, not {wanted or 'allowed'}: {content(answer)[:120]!r}")
        if route.permission is Permission.DELETE:
            house.restock()
    return faults


FEW = [("reader", "own")]  # the slow test has them all


@pytest.mark.parametrize(("role", "relation"), FEW)
def test_the_answers_are_those_of_the_table(house: House, role: str, relation: str) -> None:
    assert "\n".join(wrong(house, role, relation)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("relation", COHORTS)
@pytest.mark.parametrize("role", ROLES)
def test_the_answers_are_those_of_the_table_for_every_role(house: House, role: str, relation: str) -> None:
    assert "\n".join(wrong(house, role, relation)) == ""


def test_nobody_gets_in_without_signing_in_or_the_key(house: House) -> None:
    faults = []
    for (method, path), route in walked():
        for headers in ({}, {"authorization": "Bearer depot_made-up"}):
            if path.startswith("/internal"):
                headers = {**headers, "x-api-key": "retired" * 5} if headers else {}
            status, answer = house.call(method, path, headers)
            away = answer["headers"].get("Location", "").startswith("/app/sign-in")
            shut = status == 401 or (path.startswith("/app") and status == 303 and away)
            public = route.permission is Who.PUBLIC
            if (shut and not away) if public else not shut:
                faults.append(f"{method} {path}: {status}")
        if path.startswith("/internal"):
            status, _ = house.call(method, path, {**KEY, "x-depot-assertion": "made-up"})
            if status != 401:
                faults.append(f"{method} {path}: {status} with a stale assertion")
    assert "\n".join(faults) == ""


@pytest.mark.slow
def test_a_token_without_a_scope_gets_nothing_and_no_token_does_what_a_person_must(house: House) -> None:
    """A superuser's token, for the ledger of another cohort only."""
    owner = users.find("superuser-none") or (house.token("superuser", "none"), users.find("superuser-none"))[1]
    assert owner is not None
    row, token = house.gateway.sessions.tokens.new(owner, "walk", ["ledger"], ["OTHER"], None)
    row.save()
    held = house.gateway.sessions.resolve(token)
    faults = []
    for (method, path), route in walked():
        headers = {**KEY, "x-depot-assertion": token} if path.startswith("/internal") else {}
        status, answer = house.call(method, path, headers or {"authorization": f"Bearer {token}"})
        wanted = expected(route, held)
        if OFF in content(answer):
            continue
        if (status != wanted) if wanted else status in (401, 403):
            faults.append(f"{method} {path}: {status}, not {wanted or 'allowed'}")
    assert "\n".join(faults) == ""
