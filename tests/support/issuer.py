"""An OpenID Connect issuer on loopback, as good or as bad as a test wants it. A code stands for the claims it was given for."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwk, jwt

CLIENT, SECRET = "depot-client", "a secret of the client"


class FakeIssuer:
    """`authorize(url)` is what a browser and a person do there: it gives the query that comes back.

    `claims` changes the ID token's claims, `sign` makes the token out of them (by default with the first of `keys`).
    """

    def __init__(self) -> None:
        self.keys = [
            jwk.RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}),
            jwk.ECKey.generate_key("P-256", {"kid": "ec"}),
        ]
        self.claims: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any]], str] = lambda claims: self.signed(claims)
        self.configuration: dict[str, Any] = {}
        self.fetched: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def signed(self, claims: dict[str, Any], key: Any = None, **header: Any) -> str:
        key = key or self.keys[0]
        algorithm = "RS256" if isinstance(key, jwk.RSAKey) else "ES256"
        return jwt.encode(
            {"alg": algorithm, "kid": key.kid, **header}, claims, key, algorithms=["RS256", "ES256", "HS256"]
        )

    def authorize(self, url: str) -> dict[str, str]:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self._codes)}"
        self._codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def _token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        asked = self._codes.pop(form.get("code", ""), None)
        if asked is None or form.get("client_secret") != SECRET or form.get("redirect_uri") != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT, "sub": "subject-1", "exp": now + 300, "iat": now, "nonce": asked["nonce"],
            "email": "Ana@Example.org", "email_verified": True, **self.claims,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        return 200, {"id_token": self.sign(claims), "access_token": "x", "token_type": "Bearer"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetched.append(self.path)
                if self.path == "/.well-known/openid-configuration":
                    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
                    told = {
                        "issuer": outer.url,
                        **{name: f"{outer.url}/{name}" for name in names},
                        **outer.configuration,
                    }
                    return self._answer(200, told)
                if self.path == "/jwks_uri":
                    return self._answer(200, {"keys": [key.as_dict(private=False) for key in outer.keys]})
                return self._answer(404, {})

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._answer(*outer._token({name: values[0] for name, values in parse_qs(data).items()}))

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler
