"""One web tier over HTTP: pooled connections, the bearer token, answers as values or `Failure`s. Thread-safe.

With `download.py`, the only code of the CLI that knows `requests`. Redirects are never followed by themselves: the token
goes to the address that was given, and to no other.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from chalicelib.cli.client import failures
from chalicelib.cli.client.failures import Failure
from chalicelib.cli.client.signin import Credentials, is_loopback
from chalicelib.cli.client.source import Slice
from chalicelib.limits import BLOCK_BYTES, MAX_JSON_BYTES

USER_AGENT = "DepotCLI/1.0"
# Seconds without a byte either way. Completing a large file on the NAS takes the server a while.
CONNECT_TIMEOUT, IO_TIMEOUT, SIGN_OUT_TIMEOUT = 10.0, 120.0, 3.0


class Server:
    """A web tier at `url` (no slash at the end). `parallel` requests run at a time."""

    def __init__(
        self, url: str, credentials: Credentials, *, parallel: int = 1, io_timeout: float = IO_TIMEOUT
    ) -> None:
        self.url = url
        self._credentials, self._token = credentials, credentials.token
        self._lock, self._ours, self._io_timeout = threading.Lock(), False, io_timeout
        self._session = requests.Session()
        # Proxies and CA bundles of the environment count, except for this machine itself.
        self._session.trust_env = not is_loopback(url)
        self._session.cookies.set_policy(_NoCookies())
        adapter = _Adapter(parallel + 2, io_timeout)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    # --- calls -----------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Slice | None = None,
        json: Mapping[str, Any] | None = None,
        stream: bool = False,
        accept: tuple[int, ...] = (),
    ) -> requests.Response:
        """One call -> a 2xx (or `accept`ed) answer. Raises `Failure`, or what the body's source raised.

        A session that ended is opened again where user name and password are known; a call that had a body then fails
        in a way that can be tried again, since its body can be read only once.
        """
        token = self._token
        answer = self._send(method, path, token, headers, body, json, stream)
        if answer.status_code == 401 and self._renew(token):
            if body is not None:
                answer.close()
                raise Failure("signed_in_again", "The session had ended; signed in again.", status=401, retryable=True)
            answer.close()
            answer = self._send(method, path, self._token, headers, None, json, stream)
        if 200 <= answer.status_code < 300 or answer.status_code in accept:
            return answer
        with answer:
            raise failures.of_answer(answer.status_code, answer.headers, _beginning(answer))

    def json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """`call`, and the JSON object it answers with."""
        return json_object(self.call(method, path, **kwargs))

    def _send(
        self,
        method: str,
        path: str,
        token: str | None,
        headers: Mapping[str, str] | None,
        body: Slice | None,
        json: Mapping[str, Any] | None,
        stream: bool,
    ) -> requests.Response:
        try:
            return self._session.request(
                method,
                self.url + path,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **(headers or {})},
                data=body,
                json=json,
                stream=stream,
                auth=_Bearer(token),
                timeout=(CONNECT_TIMEOUT, self._io_timeout),
                allow_redirects=False,
            )
        except (requests.RequestException, HTTPError, OSError) as error:
            if body is not None and body.error is not None:
                raise body.error from None
            raise failures.of_break(error) from error

    def elsewhere(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """GET a presigned address of the store: without our token, streamed. Raises `Failure`."""
        if not (url.startswith("https://") or is_loopback(url)):
            raise Failure("insecure_address", "The server points to a storage address without TLS.")
        try:
            answer = self._session.get(
                url,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                stream=True,
                auth=_Bearer(None),
                timeout=(CONNECT_TIMEOUT, self._io_timeout),
                allow_redirects=False,
            )
        except (requests.RequestException, HTTPError, OSError) as error:
            raise failures.of_break(error) from error
        if answer.status_code in (200, 206, 416):
            return answer
        answer.close()
        # An expired address is renewed by asking Depot again.
        raise Failure(
            "store_refused",
            f"The storage answered {answer.status_code} to a presigned address.",
            status=502,
            retryable=True,
        )

    # --- the session -----------------------------------------------------------------------------------------

    def sign_in(self) -> None:
        """Make sure there is a token. Raises `Failure` (401: wrong user name or password)."""
        if self._token is None:
            self._open()

    def _open(self) -> None:
        answer = self._send("POST", "/session", None, None, None, self._credentials.login(), False)
        if answer.status_code != 200:
            with answer:
                raise failures.of_answer(answer.status_code, answer.headers, _beginning(answer))
        token = json_object(answer).get("token")
        if not isinstance(token, str) or not token:
            raise Failure("bad_answer", "The server's answer to the sign-in holds no token. Check the address.")
        self._token, self._ours = token, True

    def _renew(self, used: str | None) -> bool:
        """Sign in again unless another thread already has; False when only a token was given, or it is refused."""
        if not self._credentials.renewable:
            return False
        with self._lock:
            if self._token == used:
                self._open()
        return True

    def close(self) -> None:
        """Sign out of a session that we opened (as far as that goes), and drop the connections."""
        if self._ours and self._token is not None:
            # It ends by itself after half an hour; whoever pressed Ctrl-C is not to wait for a server that is gone.
            with contextlib.suppress(requests.RequestException, HTTPError, OSError):
                self._session.delete(self.url + "/session", auth=_Bearer(self._token), timeout=SIGN_OUT_TIMEOUT).close()
        self._token = None
        self._session.close()


def json_object(answer: requests.Response) -> dict[str, Any]:
    """The JSON object in an answer. Raises `Failure`."""
    try:
        value = answer.json()
    except (ValueError, requests.RequestException):
        value = None
    if not isinstance(value, dict):
        raise Failure("bad_answer", "The server's answer is not of Depot's form. Check the address.")
    return value


def _beginning(answer: requests.Response) -> bytes:
    """The begin of an error's body; never more than an error of ours takes."""
    try:
        return bytes(next(answer.iter_content(MAX_JSON_BYTES), b""))
    except (requests.RequestException, HTTPError, OSError):
        return b""


class _Bearer(requests.auth.AuthBase):
    """The token of this call. Its mere presence also keeps `requests` from looking into ~/.netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _NoCookies(requests.cookies.cookielib.DefaultCookiePolicy):  # type: ignore[name-defined,misc]
    """The session cookie is for browsers."""

    def set_ok(self, cookie: object, request: object) -> bool:
        return False


class _Patient(HTTPConnection):
    """urllib3 keeps the connect time-out on the socket while a body is sent; once connected, the longer one counts."""

    io_timeout = IO_TIMEOUT

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.io_timeout)


class _PatientTLS(HTTPSConnection):
    io_timeout = IO_TIMEOUT

    def connect(self) -> None:
        super().connect()
        if self.sock is not None:
            self.sock.settimeout(self.io_timeout)


class _Adapter(HTTPAdapter):
    """No retries of its own: `retry.py` decides, with the server's offset at hand."""

    def __init__(self, connections: int, io_timeout: float) -> None:
        self._io_timeout = io_timeout
        super().__init__(pool_connections=2, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        # http.client reads a body in blocks of 16 KiB unless told otherwise.
        super().init_poolmanager(*args, **kwargs, blocksize=BLOCK_BYTES)
        http = type("_HTTP", (HTTPConnectionPool,), {"ConnectionCls": _with(_Patient, self._io_timeout)})
        https = type("_HTTPS", (HTTPSConnectionPool,), {"ConnectionCls": _with(_PatientTLS, self._io_timeout)})
        self.poolmanager.pool_classes_by_scheme = {"http": http, "https": https}


def _with(connection: type, timeout: float) -> type:
    return type(connection.__name__, (connection,), {"io_timeout": timeout})
