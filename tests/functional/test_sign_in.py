"""Signing in over HTTP events: cookies, rotation, the second factor, tokens, the issuer; and what the ledger says of it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pyotp
import pytest
from argon2 import PasswordHasher
from moto import mock_aws

from chalicelib import context, dynamo
from chalicelib.auth import tables, users
from chalicelib.auth.tables import User
from chalicelib.storage.manager import StorageManager
from nas_gateway import wiring
from nas_gateway.ledger import queries
from tests.support.gateway import AWS, ENV
from tests.support.issuer import CLIENT, SECRET, FakeIssuer
from tests.support.lambda_events import content, event

GOOD = "correct horse battery"


@dataclass
class Depot:
    module: ModuleType
    issuer: FakeIssuer

    def call(self, method: str, route: str, status: int, body: Any = None, **about: Any) -> Any:
        """The answer's JSON, and its headers under `headers`; `headers`, `query` and `path` as `event` takes them."""
        context.assertion.set(None)
        data = json.dumps(body).encode() if body is not None else b""
        answer = self.module.app(event(method, route, body=data, **about), None)
        assert answer["statusCode"] == status, (answer["statusCode"], content(answer))
        text = content(answer)
        told = json.loads(text) if text.startswith(b"{") else {}
        multiple = answer.get("multiValueHeaders", {})
        return {**told, "headers": answer["headers"], "cookies": multiple.get("Set-Cookie", [])}

    def sign_in(self, name: str, status: int = 200, **more: Any) -> Any:
        headers = more.pop("headers", {})
        return self.call("POST", "/session", status, {"username": name, "password": GOOD, **more}, headers=headers)

    def events(self, name: str) -> list[tuple[str, str]]:
        return [(event.action, event.outcome) for event in queries.query(user=name, limit=100).events]


def made(**env: str) -> Iterator[Depot]:
    issuer = FakeIssuer()
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in [name for name in os.environ if name.startswith(("S3_", "AWS_ENDPOINT", "OIDC_"))]:
            patch.delenv(name)
        oidc = {
            "OIDC_ISSUER": issuer.url, "OIDC_CLIENT_ID": CLIENT, "OIDC_CLIENT_SECRET": SECRET, "OIDC_ROLE_CLAIM": "role",
            "OIDC_REDIRECT_URL": "http://127.0.0.1/session/oidc/callback", "OIDC_COHORT_CLAIM": "sites",
        }  # fmt: skip
        for name, value in {
            **AWS,
            **ENV,
            **oidc,
            "LEDGER_TABLE_PREFIX": "signin",
            "OIDC_AUTO_CREATE": "on",
            **env,
        }.items():
            patch.setenv(name, value)
        patch.setattr(users, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        patch.delitem(sys.modules, "app", raising=False)
        module = importlib.import_module("app")
        module.web_tier()
        dynamo.create(*tables.MODELS, *wiring.MODELS)
        yield Depot(module, issuer)
        sys.modules.pop("app", None)
        StorageManager.clear_cache()
        wiring.gateway.cache_clear()
        context.assertion.set(None)
    issuer.close()


@pytest.fixture(scope="module")
def depot() -> Iterator[Depot]:
    yield from made()


def person(name: str, role: str = "reader", *cohorts: str) -> User:
    users.create_user(name, role, cohorts, GOOD)
    found = users.find(name)
    assert found is not None
    return found


def bearer(answer: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {answer['token']}"}


def test_a_sign_in_ends_the_session_whose_cookie_came_along(depot: Depot) -> None:
    person("rotating")
    first = depot.sign_in("rotating")
    cookie = first["headers"]["Set-Cookie"].partition(";")[0]
    assert first["headers"]["Set-Cookie"].endswith("; HttpOnly; SameSite=Strict")
    second = depot.sign_in("rotating", headers={"cookie": cookie})
    depot.call("GET", "/session", 401, headers={"cookie": cookie})
    depot.call("GET", "/session", 200, headers=bearer(second))
    third = depot.sign_in("rotating", headers=bearer(second))  # another program's: it stays
    depot.call("GET", "/session", 200, headers=bearer(second))
    depot.call("DELETE", "/session", 200, headers=bearer(third))
    depot.call("GET", "/session", 401, headers=bearer(third))
    assert depot.events("rotating") == [("signed_in", "completed")] * 3 + [("signed_out", "completed")]


def test_a_cookie_from_another_site_signs_nobody_out_everywhere(depot: Depot) -> None:
    person("csrf")
    cookie = depot.sign_in("csrf")["headers"]["Set-Cookie"].partition(";")[0]
    for path, method in (("/sessions", "DELETE"), ("/tokens", "POST"), ("/session/password", "POST")):
        depot.call(method, path, 403, {}, headers={"cookie": cookie, "sec-fetch-site": "cross-site"})
    ended = depot.call("DELETE", "/sessions", 200, headers={"cookie": cookie, "sec-fetch-site": "same-origin"})
    assert "Max-Age=0" in ended["headers"]["Set-Cookie"]
    depot.call("GET", "/session", 401, headers={"cookie": cookie})


def test_the_second_factor_over_http(depot: Depot) -> None:
    person("factor")
    signed = bearer(depot.sign_in("factor"))
    told = depot.call("POST", "/session/totp", 200, {"password": GOOD}, headers=signed)
    totp = pyotp.TOTP(told["secret"])
    codes = depot.call("POST", "/session/totp/confirm", 200, {"code": totp.now()}, headers=signed)["recovery_codes"]
    assert depot.sign_in("factor", 401)["error"]["code"] == "code_required"
    assert depot.sign_in("factor", 401, code="000000x")["error"]["code"] == "code_required"
    depot.sign_in("factor", 401)  # asked again, after a failure that counts
    depot.sign_in("factor", code=codes[0])
    depot.sign_in("factor", 401, code=codes[0])
    depot.call("POST", "/session/totp/remove", 200, {"password": GOOD, "code": codes[1]}, headers=signed)
    depot.sign_in("factor")
    failed = [each for each in depot.events("factor") if each[0] == "sign_in_failed"]
    assert failed == [("sign_in_failed", "failed")] * 2  # the question for the code is none


def test_a_token_works_where_a_session_does_on_both_tiers(depot: Depot) -> None:
    person("scripted", "cohort_manager", "A", "B")
    signed = bearer(depot.sign_in("scripted"))
    asked = {"name": "nightly", "permissions": ["upload", "list"], "cohorts": ["A"]}
    token = depot.call("POST", "/tokens", 201, asked, headers=signed)
    script = bearer(token)
    query = {"cohort": "A", "protocol_year": "2024", "file_type": "patient", "filename": "t.csv"}
    saved = depot.call("PUT", "/files", 201, query=query, headers=script, body="x")
    depot.call("GET", "/files/{file_id}", 200, headers=script, path={"file_id": saved["file_id"]})
    depot.call("GET", "/files/{file_id}/content", 403, headers=script, path={"file_id": saved["file_id"]})
    depot.call("PUT", "/files", 403, query={**query, "cohort": "B"}, headers=script, body="x")
    new = {"protocol_year": "2024", "file_type": "patient", "filename": "u.csv", "cohort": "A"}
    assert depot.call("GET", "/session", 200, headers=script)["token"] is True
    depot.call("DELETE", "/session", 403, headers=script)
    reading = depot.call("POST", "/tokens", 201, {"name": "r", "permissions": ["read", "list"]}, headers=signed)
    from tests.support.tus_client import metadata

    tus = {"tus-resumable": "1.0.0", "upload-length": "3", "upload-metadata": metadata(**new)}
    where = depot.call("POST", "/uploads", 201, headers={**script, **tus})["headers"]["Location"].rsplit("/", 1)[1]
    for method in ("DELETE", "HEAD"):  # the owner's upload is not the reading token's
        depot.call(
            method,
            "/uploads/{upload_id}",
            404,
            headers={**bearer(reading), "tus-resumable": "1.0.0"},
            path={"upload_id": where},
        )
    depot.call("DELETE", "/tokens/{token_id}", 200, headers=signed, path={"token_id": token["token_id"]})
    depot.call("GET", "/session", 401, headers=script)


def through_issuer(depot: Depot, status: int, **claims: Any) -> Any:
    depot.issuer.claims = claims
    begun = depot.call("GET", "/session/oidc", 303)
    kept = begun["headers"]["Set-Cookie"]
    assert "HttpOnly; SameSite=Lax" in kept
    back = depot.issuer.authorize(begun["headers"]["Location"])
    return depot.call(
        "GET", "/session/oidc/callback", status, query=back, headers={"cookie": f"a=b; {kept.partition(';')[0]}"}
    )


def test_who_the_issuer_vouches_for_gets_a_session_and_an_account_with_the_role_of_the_claim(depot: Depot) -> None:
    tables.Cohort("cohort", "SITE", created_at=1, created_by="x").save()
    answer = through_issuer(depot, 200, email="eve@example.org", sub="eve", role="uploader", sites=["SITE"])
    session, ended = answer["cookies"]
    assert "Max-Age=0" in ended
    told = depot.call("GET", "/session", 200, headers={"cookie": session.partition(";")[0]})
    assert (told["username"], told["role"], told["cohorts"]) == ("eve@example.org", "uploader", ["SITE"])
    through_issuer(depot, 200, email="eve@example.org", sub="eve")  # from now on without a claim
    assert depot.events("eve@example.org") == [("signed_in", "completed")] * 2
    refused = through_issuer(depot, 403, email="eve@example.org", sub="another")  # the name was given to somebody else
    assert refused["error"]["code"] == "no_account"
    depot.sign_in("eve@example.org", 401)  # no password opens it
    found = users.find("eve@example.org")
    assert found is not None
    found.update([User.disabled.set(True)])
    through_issuer(depot, 403, email="eve@example.org", sub="eve")


@pytest.mark.parametrize("role", ["superuser", "king", None])
def test_no_claim_makes_a_superuser_or_a_role_that_is_none(depot: Depot, role: str | None) -> None:
    answer = through_issuer(depot, 403, email="mallory@example.org", sub="m", role=role)
    assert answer["error"]["code"] == "no_account"
    assert users.find("mallory@example.org") is None


def test_a_callback_without_its_cookie_is_refused(depot: Depot) -> None:
    back = depot.issuer.authorize(depot.call("GET", "/session/oidc", 303)["headers"]["Location"])
    assert depot.call("GET", "/session/oidc/callback", 401, query=back)["error"]["code"] == "issuer_refused"


def test_in_production_cookies_are_for_this_host_and_tls_alone() -> None:
    from chalicelib.auth.signin import SignIn
    from chalicelib.config import Settings
    from chalicelib.web.session import cookie
    from chalicelib.web.tier import token_of

    production = {
        **ENV,
        "DEPOT_ENV": "production",
        "SESSION_SECRET": "s" * 32,
        "SERVICES_URL": "https://services.example",
    }

    class Tier:
        settings = Settings.from_env({**production, "SERVER_ROLE": "web"})

    text = cookie(lambda: Tier(), "abc", 60)  # type: ignore[arg-type, return-value]
    assert text == "__Host-depot_session=abc; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure"
    tossed = {"cookie": "depot_session=planted; __Host-depot_session=abc"}
    assert token_of(tossed, secure=True) == token_of(tossed) == ("abc", True)
    assert token_of({"cookie": "depot_session=planted"}, secure=True) == (None, False)
    assert SignIn(Tier.settings)


def test_whose_address_counts_behind_proxies() -> None:
    from ipaddress import ip_network

    from chalicelib.web.address import client_address

    class Request:
        def __init__(self, peer: str, told: str = "") -> None:
            self.context, self.headers = {"identity": {"sourceIp": peer}}, {"x-forwarded-for": told}

    trusted = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))
    for peer, told, meant in (
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),  # no proxy of ours: not believed
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "made up, 198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "made up, 198.51.100.7, 10.1.2.3", "198.51.100.7"),
        ("127.0.0.1", "", "127.0.0.1"),
    ):
        assert client_address(Request(peer, told), trusted) == meant
