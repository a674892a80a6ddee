"""How one tier calls the other: pooled HTTP connections, streamed bodies, errors as the classes they were raised with.

With `driver.py`, the only code that imports `requests`. Bodies are readers: a known length goes as `Content-Length`, an
unknown one as chunked coding; a source that breaks breaks the connection, so the other side never takes it for the end.

What is retried: GET and HEAD (three tries), and any call whose connection could not be made, since nothing was sent.
A POST with a body is never repeated by itself: its source can be read only once, and it may have taken effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.retry import Retry

from chalicelib import errors
from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.seal import SealedBody

USER_AGENT = "DepotRemoteStorage/1.0"
CONNECT_TIMEOUT = 5.0
RETRIES = 3

_NOT_OURS = "The services tier answered in a form that is not Depot's. Check SERVICES_URL."


class Transport:
    """Calls to one services tier. Thread-safe.

    `headers` gives what belongs to the request being handled (request id, the user's assertion); `timeout` is in seconds
    without a byte either way; `ca_bundle` names the file with the internal CA where the system's does not hold it.
    """

    def __init__(
        self,
        service_url: str,
        api_key: str,
        *,
        role: str = "web",
        timeout: float = 120.0,
        headers: Callable[[], Mapping[str, str]] = dict,
        ca_bundle: str | None = None,
    ) -> None:
        self.service_url = service_url
        self._fixed = {"X-API-Key": api_key, "X-Server-Role": role, "User-Agent": USER_AGENT}
        self._timeout, self._headers = timeout, headers
        self._session = _session(timeout)
        if ca_bundle:
            self._session.verify = ca_bundle

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: SealedBody | None = None,
        json: Mapping[str, Any] | None = None,
        stream: bool = False,
        accept: tuple[int, ...] = (),
    ) -> requests.Response:
        """One call; a 2xx (or `accept`ed) answer, or the error it stands for.

        A body whose source breaks raises the source's own error, not the broken connection that follows from it.
        """
        try:
            response = self._session.request(
                method,
                self.service_url + path,
                params=query,
                headers={**self._fixed, **self._headers(), **(headers or {}), **(body.headers() if body else {})},
                data=body,
                json=json,
                stream=stream,
                timeout=(CONNECT_TIMEOUT, self._timeout),
                allow_redirects=False,
            )
        except (requests.RequestException, OSError, errors.DepotError) as error:
            _raise_cause(error, body)
        if isinstance(body, SealedBody) and body.error is not None:
            # The answer came, but the source had broken: whatever it says was not about the whole body.
            response.close()
            raise body.error
        if response.ok or response.status_code in accept:
            return response
        with response:
            try:
                answer = response.json()
            except (ValueError, requests.RequestException):
                answer = None
            refused = errors.from_body(answer, response.status_code)
            if isinstance(refused, errors.TooManyRequests) and response.headers.get("Retry-After", "").isdigit():
                refused.retry_after = int(response.headers["Retry-After"])
            raise refused

    def json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: SealedBody | None = None,
        json: Mapping[str, Any] | None = None,
        accept: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        """`call`, and the JSON object it answers with."""
        response = self.call(method, path, query, headers=headers, body=body, json=json, accept=accept)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise errors.ServicesUnavailable(_NOT_OURS)
        return answer


def _raise_cause(error: BaseException, body: object) -> NoReturn:
    if isinstance(body, SealedBody) and body.error is not None:
        raise body.error from None
    if isinstance(error, (requests.ConnectTimeout, requests.exceptions.InvalidURL)):
        raise errors.ServicesUnavailable from error
    if isinstance(error, requests.ConnectionError) and "NewConnectionError" in repr(error):
        # Nothing was sent. (requests tells a refused connection from a cut one only by the inner error.)
        raise errors.ServicesUnavailable from error
    if isinstance(error, requests.RequestException):
        raise errors.ServicesInterrupted from error
    raise error


# --- the connection pool -------------------------------------------------------------------------------------------


class _Patient(HTTPConnection):
    """urllib3 keeps the connect time-out on the socket while a body is sent: a NAS that pauses for six seconds would
    break every upload. Once connected, the longer time-out counts."""

    io_timeout = 120.0

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.io_timeout)


class _PatientTLS(HTTPSConnection):
    io_timeout = 120.0

    def connect(self) -> None:
        super().connect()
        if self.sock is not None:
            self.sock.settimeout(self.io_timeout)


class _Adapter(HTTPAdapter):
    def __init__(self, timeout: float) -> None:
        self._io_timeout = timeout
        retry = Retry(
            total=RETRIES,
            connect=RETRIES,
            read=RETRIES,
            status=RETRIES,
            backoff_factor=0.1,
            allowed_methods=frozenset({"GET", "HEAD"}),
            status_forcelist=(502, 504),
            raise_on_status=False,
        )
        # 64 is the streaming host's number of handler threads: each can hold one connection.
        super().__init__(pool_connections=4, pool_maxsize=64, max_retries=retry)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        # http.client reads a body in blocks of 16 KiB unless told otherwise.
        super().init_poolmanager(*args, **kwargs, blocksize=BLOCK_BYTES)
        http = type("_HTTP", (HTTPConnectionPool,), {"ConnectionCls": _with(_Patient, self._io_timeout)})
        https = type("_HTTPS", (HTTPSConnectionPool,), {"ConnectionCls": _with(_PatientTLS, self._io_timeout)})
        self.poolmanager.pool_classes_by_scheme = {"http": http, "https": https}


def _with(connection: type, timeout: float) -> type:
    return type(connection.__name__, (connection,), {"io_timeout": timeout})


def _session(timeout: float) -> requests.Session:
    """A session with pooled connections that takes nothing from the environment (no proxies, no .netrc)."""
    session = requests.Session()
    session.trust_env = False
    adapter = _Adapter(timeout)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
