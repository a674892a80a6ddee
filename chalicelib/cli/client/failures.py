"""What can go wrong on the client's side, and what an answer of the server means for going on.

Not `DepotError`s: those are the server's own table, and its documentation is printed from all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from chalicelib import errors
from chalicelib.cli.client.names import shown

# RFC 9110 and RFC 6585; 423 and 425 are what a lease that another request still holds is answered with by some servers.
_TRANSIENT = frozenset({408, 423, 425, 429, 500, 502, 503, 504})


class Failure(Exception):
    """One transfer, or one call, failed.

    `code` is for programs, `message` one line for people, `status` the HTTP status or None without an answer, `retryable`
    whether asking for the state and going on may help, `retry_after` the seconds that the server asked to wait.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status
        self.retryable, self.retry_after = retryable, retry_after

    @property
    def refused(self) -> bool:
        """Not signed in, or not allowed: another file of the same run will fare no better."""
        return self.status in (401, 403)


class SourceChanged(Failure):
    """The file is not what it was when its upload began."""

    def __init__(self, message: str = "The file changed while it was being sent. Nothing was kept; try again.") -> None:
        super().__init__("source_changed", message)


class Stopped(Failure):
    """The run was interrupted; what is under way ends at the next block."""

    def __init__(self) -> None:
        super().__init__("interrupted", "Interrupted.")


class Gone(Failure):
    """The server no longer knows the upload: it expired, failed, or was discarded."""

    def __init__(self) -> None:
        super().__init__("upload_not_found", "The server no longer knows the upload.")


def of_answer(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """The failure that an answer of 300 or more stands for. `headers` compare without case."""
    retry_after = _seconds(headers.get("Retry-After"))
    code, message, request_id = _parse(body)
    request_id = request_id or headers.get("X-Request-ID", "")
    known = errors.table().get(code)
    retryable = known.retryable if known is not None else status in _TRANSIENT
    if not message:
        message = f"The server answered {status} in a form that is not Depot's. Check the address."
        if status == 401:
            message = "The server did not accept the sign-in."
        elif status == 403:
            message = errors.Forbidden.default
    if request_id:
        message += f" (request {shown(request_id)})"
    return Failure(
        code or f"http_{status}", shown(message), status=status, retryable=retryable, retry_after=retry_after
    )


def of_break(error: BaseException) -> Failure:
    """The failure of a connection that broke, or was never made. The inner text may hold a URL: it is not shown."""
    late = "timeout" in type(error).__name__.lower()
    message = (
        "The server did not answer in time." if late else "The connection to the server could not be made, or broke."
    )
    return Failure("connection_broken", message, retryable=True)


def _parse(body: bytes) -> tuple[str, str, str]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return "", "", ""
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if not isinstance(error, dict):
        return "", "", ""
    return str(error.get("code") or ""), str(error.get("message") or ""), str(error.get("request_id") or "")


def _seconds(text: str | None) -> float | None:
    # An HTTP date is allowed too; no server of ours sends one, and the usual back-off serves as well.
    return float(text) if text and text.isascii() and text.isdigit() else None
