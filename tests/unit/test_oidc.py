"""Sign-in through an issuer: against a real one on loopback, and against what an attacker may put in its place."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwk, jwt

from chalicelib.auth.oidc import FLOW_SECONDS, Issuer
from chalicelib.config import OidcSettings, Secret, Settings
from chalicelib.errors import IssuerRefused, IssuerUnavailable, SettingsError
from tests.support.issuer import CLIENT, SECRET, FakeIssuer

CALLBACK = "http://127.0.0.1/session/oidc/callback"


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeIssuer]:
    made = FakeIssuer()
    yield made
    made.close()


@pytest.fixture
def issuer(fake: FakeIssuer) -> FakeIssuer:
    """The issuer, well-behaved again."""
    fake.claims, fake.configuration = {}, {}
    fake.sign = fake.signed
    del fake.keys[2:]
    fake.fetched.clear()
    return fake


def client(issuer: FakeIssuer, clock: Clock | None = None, **changed: Any) -> Issuer:
    known = {"issuer": issuer.url, "client_id": CLIENT, "client_secret": Secret(SECRET), "redirect_url": CALLBACK}
    return Issuer(OidcSettings(**{**known, **changed}), Secret("s" * 32), clock or Clock())


def signed_in(made: Issuer, issuer: FakeIssuer, **query: str) -> Any:
    begun = made.begin()
    return made.finish({**issuer.authorize(begun.url), **query}, begun.cookie)


def refused(made: Issuer, issuer: FakeIssuer) -> None:
    with pytest.raises(IssuerRefused):
        signed_in(made, issuer)


@pytest.mark.parametrize("number", [0, 1], ids=["RS256", "ES256"])
def test_who_the_issuer_vouches_for_is_known(issuer: FakeIssuer, number: int) -> None:
    issuer.sign = lambda claims: issuer.signed(claims, issuer.keys[number])
    issuer.claims = {"groups": ["x", "reader"], "sites": "VACS"}
    found = signed_in(client(issuer, role_claim="groups", cohort_claim="sites"), issuer)
    assert found.external == f"{issuer.url} subject-1"
    assert (found.username, found.roles, found.cohorts) == ("Ana@Example.org", ("x", "reader"), ("VACS",))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def none(claims: dict[str, Any]) -> str:
    parts = [json.dumps({"alg": "none"}), json.dumps(claims)]
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts) + "."


def confused(fake: FakeIssuer) -> Any:
    """HS256, with the bytes of the public key, which everybody has, as the shared secret."""
    secret = fake.keys[0].as_pem(private=False)

    def sign(claims: dict[str, Any]) -> str:  # joserfc itself would not make one
        text = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "one"}, claims))
        return f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"

    return sign


def stranger(fake: FakeIssuer) -> Any:
    key = jwk.RSAKey.generate_key(2048, {"kid": "one"})
    return lambda claims: fake.signed(claims, key)


def embedded(fake: FakeIssuer) -> Any:
    """The token brings its own key along."""
    key = jwk.RSAKey.generate_key(2048, {"kid": "one"})
    return lambda claims: fake.signed(claims, key, jwk=key.as_dict(private=False))


def tampered(fake: FakeIssuer) -> Any:
    def sign(claims: dict[str, Any]) -> str:
        head, _, tag = fake.signed(claims).split(".")
        body = base64.urlsafe_b64encode(json.dumps({**claims, "email": "root@example.org"}).encode()).rstrip(b"=")
        return f"{head}.{body.decode()}.{tag}"

    return sign


@pytest.mark.parametrize(
    "attack",
    [
        lambda fake: none,
        confused,
        stranger,
        embedded,
        tampered,
        lambda fake: lambda claims: "x.y.z",
        lambda fake: lambda claims: "",
    ],
    ids=["none", "confused", "stranger", "embedded", "tampered", "garbage", "empty"],
)
def test_a_token_that_the_issuer_did_not_sign_is_refused(issuer: FakeIssuer, attack: Any) -> None:
    issuer.sign = attack(issuer)
    refused(client(issuer), issuer)


def test_a_shared_secret_among_the_keys_is_no_key(issuer: FakeIssuer) -> None:
    """Even with HS256 among the algorithms, which the settings do not allow."""
    secret = jwk.OctKey.generate_key(256, {"kid": "oct"})
    issuer.keys.append(secret)  # type: ignore[arg-type]
    issuer.sign = lambda claims: jwt.encode({"alg": "HS256", "kid": "oct"}, claims, secret, algorithms=["HS256"])
    refused(client(issuer, algorithms=("RS256", "HS256")), issuer)


NOW = int(time.time())


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"}, {"iss": None}, {"aud": "another-client"}, {"aud": None}, {"aud": []},
        {"aud": [CLIENT, "another"]}, {"aud": [CLIENT, "another"], "azp": "another"}, {"azp": "another"},
        {"exp": NOW - 3600}, {"exp": None}, {"exp": "soon"}, {"iat": NOW + 3600}, {"iat": None}, {"nbf": NOW + 3600},
        {"nonce": "another"}, {"nonce": None}, {"sub": None}, {"sub": 7}, {"email": None}, {"email": ""},
        {"email_verified": False}, {"email_verified": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_claim_that_is_not_as_it_must_be_is_refused(issuer: FakeIssuer, claims: dict[str, Any]) -> None:
    issuer.claims = claims
    refused(client(issuer), issuer)


def test_an_audience_of_several_is_fine_when_the_token_was_issued_to_us(issuer: FakeIssuer) -> None:
    issuer.claims = {"aud": ["another", CLIENT], "azp": CLIENT}
    assert signed_in(client(issuer), issuer).username == "Ana@Example.org"


def test_what_comes_back_must_belong_to_what_was_begun_here(issuer: FakeIssuer) -> None:
    made = client(issuer)
    mine, theirs = made.begin(), made.begin()
    stolen = issuer.authorize(theirs.url)
    for query, cookie in (
        (stolen, mine.cookie),  # another's state: login CSRF
        ({**stolen, "state": ""}, mine.cookie),
        ({"code": stolen["code"]}, theirs.cookie),
        (stolen, None),
        (stolen, ""),
        (stolen, "x.y"),
        (stolen, theirs.cookie[:-1] + ("0" if theirs.cookie[-1] != "0" else "1")),
        (stolen, Issuer(made.settings, Secret("other" * 9)).begin().cookie),
        ({**stolen, "iss": "https://evil.example"}, theirs.cookie),
        ({**stolen, "error": "access_denied"}, theirs.cookie),
        ({"state": stolen["state"]}, theirs.cookie),
    ):
        with pytest.raises(IssuerRefused):
            made.finish(query, cookie)
    # The code of one flow with the verifier of another: PKCE.
    with pytest.raises(IssuerRefused):
        made.finish({"code": stolen["code"], "state": issuer.authorize(mine.url)["state"]}, mine.cookie)


def test_a_code_counts_once_and_the_flow_ends(issuer: FakeIssuer) -> None:
    clock = Clock()
    made = client(issuer, clock)
    begun = made.begin()
    query = issuer.authorize(begun.url)
    made.finish(query, begun.cookie)
    with pytest.raises(IssuerRefused):
        made.finish(query, begun.cookie)
    begun = made.begin()
    clock.ahead = FLOW_SECONDS + 1
    with pytest.raises(IssuerRefused, match="too long"):
        made.finish(issuer.authorize(begun.url), begun.cookie)


def test_keys_are_fetched_anew_when_they_change_but_not_for_every_made_up_id(issuer: FakeIssuer) -> None:
    clock = Clock()
    made = client(issuer, clock)
    signed_in(made, issuer)
    new = jwk.RSAKey.generate_key(2048, {"kid": "two"})
    issuer.keys.append(new)
    issuer.sign = lambda claims: issuer.signed(claims, new)
    clock.ahead = 61
    assert signed_in(made, issuer).username == "Ana@Example.org"
    assert issuer.fetched.count("/jwks_uri") == 2
    unknown = jwk.RSAKey.generate_key(2048, {"kid": "three"})
    issuer.sign = lambda claims: issuer.signed(claims, unknown)
    for _ in range(3):
        refused(made, issuer)
    assert issuer.fetched.count("/jwks_uri") == 2  # within the minute
    issuer.keys.remove(new)
    issuer.sign = lambda claims: issuer.signed(claims, new)
    clock.ahead += 3601
    refused(made, issuer)  # a key that was withdrawn


@pytest.mark.parametrize(
    "configuration",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": None},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "/missing"},
    ],
    ids=str,
)
def test_a_configuration_that_is_not_the_issuers_is_not_used(issuer: FakeIssuer, configuration: dict[str, Any]) -> None:
    issuer.configuration = configuration
    made = client(issuer)
    with pytest.raises(IssuerUnavailable):
        signed_in(made, issuer)


def test_an_issuer_that_is_not_there_is_an_answer() -> None:
    made = Issuer(OidcSettings("http://127.0.0.1:1", CLIENT, Secret(""), CALLBACK), Secret("s" * 32))
    with pytest.raises(IssuerUnavailable):
        made.begin()


WEB = {
    "SERVER_ROLE": "web",
    "INTERNAL_API_KEY": "k" * 32,
    "SERVICES_URL": "https://services",
    "SESSION_SECRET": "s" * 32,
}
OIDC = {
    "OIDC_ISSUER": "https://issuer.example", "OIDC_CLIENT_ID": "x",
    "OIDC_REDIRECT_URL": "https://depot.example/session/oidc/callback",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"OIDC_CLIENT_ID": ""}, "OIDC_CLIENT_ID required"),
        ({"OIDC_REDIRECT_URL": "https://depot.example/"}, "must end with"),
        ({"OIDC_ALGORITHMS": "RS256 HS256"}, "not 'HS256'"),
        ({"OIDC_ALGORITHMS": "none"}, "not 'none'"),
        ({"OIDC_SCOPES": "email"}, "must hold openid"),
        ({"OIDC_ISSUER": "http://issuer.example", "DEPOT_ENV": "production"}, "must begin with https"),
        ({"OIDC_AUTO_CREATE": "maybe"}, "OIDC_AUTO_CREATE must be one of"),
    ],
)
def test_settings_that_would_not_do_are_named(changed: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings.from_env({**WEB, **OIDC, **changed})


def test_the_issuer_is_the_web_tiers_and_its_secret_is_not_shown() -> None:
    made = Settings.from_env({**WEB, **OIDC, "OIDC_CLIENT_SECRET": "very secret"})
    assert made.oidc is not None
    assert "very secret" not in repr(made)
    assert Settings.from_env(WEB).oidc is None
