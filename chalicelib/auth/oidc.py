"""Sign-in through one pinned issuer: OpenID Connect's authorization code flow with PKCE, state and nonce.

The issuer's configuration and keys are fetched when first needed and kept; tokens are checked by joserfc, against the
algorithms, issuer, audience and nonce that we expect and nothing that the token proposes. With `storage.remote` and the
command line's client, the only code that imports `requests`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import requests
from joserfc import jwk, jwt
from joserfc.errors import InvalidKeyIdError, JoseError

from chalicelib.config import OidcSettings, Secret
from chalicelib.errors import IssuerRefused, IssuerUnavailable

# How long somebody may take at the issuer's sign-in page.
FLOW_SECONDS = 600
# Clocks that differ (RFC 7519, 4.1.4: "usually no more than a few minutes").
LEEWAY_SECONDS = 60
# The configuration is fetched anew after an hour; keys too, and when a token names one that is not known, but no more often
# than once a minute: anybody can make up key ids.
_CONFIGURATION_SECONDS, _KEYS_AGAIN_SECONDS = 3600, 60
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 10.0
_MAX_BYTES = 256 * 1024
_KEY_TYPES = ("RSA", "EC", "OKP")  # never "oct": a shared secret is no public key


@dataclass(frozen=True, slots=True)
class Begun:
    """Where to send the browser, and what it has to bring back as a cookie."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the issuer says has signed in. `external` stays the same for one person, whatever their name becomes."""

    external: str
    username: str
    roles: tuple[str, ...]
    cohorts: tuple[str, ...]


class Issuer:
    """One issuer and our registration with it. Thread-safe. `secret` signs what the browser keeps meanwhile."""

    def __init__(self, settings: OidcSettings, secret: Secret, now: Callable[[], float] = time.time) -> None:
        self.settings, self._now = settings, now
        self._key = hmac.new(secret.reveal().encode(), b"depot oidc state", hashlib.sha256).digest()
        self._session = requests.Session()
        self._session.trust_env = False
        self._lock = threading.Lock()
        self._configuration: tuple[float, Mapping[str, Any]] | None = None
        self._keys: tuple[float, jwk.KeySet] | None = None

    def begin(self) -> Begun:
        """The first step. Raises `IssuerUnavailable`."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.settings.redirect_url,
            "scope": self.settings.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = self._endpoint("authorization_endpoint")
        ends = int(self._now()) + FLOW_SECONDS
        kept = json.dumps({"state": state, "nonce": nonce, "verifier": verifier, "ends": ends})
        return Begun(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}", self._sealed(kept))

    def finish(self, query: Mapping[str, str], cookie: str | None) -> Identity:
        """The second step, with what the browser brought back. Raises `IssuerRefused`, `IssuerUnavailable`."""
        kept = self._opened(cookie)
        if not hmac.compare_digest(query.get("state", "").encode(), str(kept["state"]).encode()):
            raise IssuerRefused
        if query.get("iss", self.settings.issuer) != self.settings.issuer:  # RFC 9207: another issuer's answer
            raise IssuerRefused
        code = query.get("code")
        if query.get("error") or not code:
            raise IssuerRefused
        claims = self._claims(self._exchange(code, str(kept["verifier"])), str(kept["nonce"]))
        return self._identity(claims)

    # --- the browser's cookie --------------------------------------------------------------------------------

    def _sealed(self, text: str) -> str:
        body = base64.urlsafe_b64encode(text.encode()).decode()
        return f"{body}.{hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()}"

    def _opened(self, cookie: str | None) -> dict[str, Any]:
        body, _, tag = (cookie or "").partition(".")
        good = hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()
        if not body or not hmac.compare_digest(tag.encode(), good.encode()):
            raise IssuerRefused
        kept: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body))
        if self._now() >= kept["ends"]:
            raise IssuerRefused("Signing in took too long. Start again.")
        return kept

    # --- the token -------------------------------------------------------------------------------------------

    def _exchange(self, code: str, verifier: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.settings.redirect_url,
            "client_id": self.settings.client_id,
            "code_verifier": verifier,
        }
        if secret := self.settings.client_secret.reveal():
            form["client_secret"] = secret
        status, answer = self._fetch("POST", self._endpoint("token_endpoint"), form)
        if 400 <= status < 500:  # the code was used, or is not one
            raise IssuerRefused
        token = answer.get("id_token") if status == 200 else None
        if not isinstance(token, str):
            raise IssuerUnavailable
        return token

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token, once everything about it is right (OpenID Connect Core, 3.1.3.7)."""
        registry = jwt.JWTClaimsRegistry(
            now=int(self._now()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self.settings.issuer},
            aud={"essential": True, "value": self.settings.client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True},
        )
        try:
            claims = dict(self._decoded(token).claims)
            registry.validate(claims)
        except (JoseError, ValueError, TypeError):
            raise IssuerRefused from None
        audience, party = claims["aud"], claims.get("azp")
        several = isinstance(audience, list) and len(audience) > 1
        if (several or party is not None) and party != self.settings.client_id:
            raise IssuerRefused
        if not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
            raise IssuerRefused
        return claims

    def _decoded(self, token: str) -> jwt.Token:
        algorithms = list(self.settings.algorithms)
        try:
            return jwt.decode(token, self._key_set(), algorithms=algorithms)
        except InvalidKeyIdError:  # the issuer may have changed its keys
            return jwt.decode(token, self._key_set(again=True), algorithms=algorithms)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        name = claims.get(self.settings.username_claim)
        if not isinstance(name, str) or not name.strip():
            raise IssuerRefused(f"The issuer does not say {self.settings.username_claim}. Tell your administrator.")
        if self.settings.username_claim == "email" and claims.get("email_verified") not in (True, "true"):
            raise IssuerRefused("Your organisation has not verified your e-mail address.")
        return Identity(
            f"{self.settings.issuer} {claims['sub']}",
            name,
            _texts(claims.get(self.settings.role_claim)) if self.settings.role_claim else (),
            _texts(claims.get(self.settings.cohort_claim)) if self.settings.cohort_claim else (),
        )

    # --- the issuer ------------------------------------------------------------------------------------------

    def _endpoint(self, name: str) -> str:
        value = self._configured().get(name)
        # What the configuration names is no less protected than the issuer itself.
        if not isinstance(value, str) or not value.startswith(("https://", "http://")):
            raise IssuerUnavailable
        if self.settings.issuer.startswith("https://") and not value.startswith("https://"):
            raise IssuerUnavailable
        return value

    def _configured(self) -> Mapping[str, Any]:
        with self._lock:
            if self._configuration is None or self._now() >= self._configuration[0] + _CONFIGURATION_SECONDS:
                address = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
                status, answer = self._fetch("GET", address)
                if status != 200 or answer.get("issuer") != self.settings.issuer:
                    raise IssuerUnavailable
                self._configuration = (self._now(), answer)
            return self._configuration[1]

    def _key_set(self, *, again: bool = False) -> jwk.KeySet:
        address = self._endpoint("jwks_uri")
        with self._lock:
            age = self._now() - self._keys[0] if self._keys is not None else None
            if age is None or age >= (_KEYS_AGAIN_SECONDS if again else _CONFIGURATION_SECONDS):
                status, answer = self._fetch("GET", address)
                found = answer.get("keys")
                if status != 200 or not isinstance(found, list):
                    raise IssuerUnavailable
                usable: Any = [key for key in found if isinstance(key, dict) and key.get("kty") in _KEY_TYPES]
                try:
                    self._keys = (self._now(), jwk.KeySet.import_key_set({"keys": usable}))
                except (JoseError, ValueError, KeyError, TypeError):
                    raise IssuerUnavailable from None
            assert self._keys is not None
            return self._keys[1]

    def _fetch(self, method: str, address: str, form: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        try:
            with self._session.request(
                method,
                address,
                data=form,
                headers={"Accept": "application/json"},
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as response:
                data = response.raw.read(_MAX_BYTES + 1, decode_content=True)
                answer = json.loads(data) if len(data) <= _MAX_BYTES else None
        except requests.RequestException as error:
            raise IssuerUnavailable from error
        except (ValueError, OSError):
            answer = None
        if not isinstance(answer, dict):
            raise IssuerUnavailable
        return response.status_code, answer


def _texts(value: object) -> tuple[str, ...]:
    """A claim that is one text or a list of them."""
    found = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(item for item in found if isinstance(item, str))
