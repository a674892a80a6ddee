"""Answers: bodies that stream, and errors in their one form. Part of `chalice_app`, through which handlers import them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chalice.app import ChaliceViewError, Response

from chalicelib import errors
from chalicelib.errors import DepotError
from chalicelib.observability import current_record, log_exception

# Statuses that an asker may retry, and how long it should wait (seconds); a second suffices for a slot to come free.
RETRY_AFTER = {423: "2", 429: "2", 503: "2"}

# Chalice's own answers, by status, as ours.
BY_STATUS: dict[int, type[DepotError]] = {
    400: errors.InvalidRequest,
    401: errors.NotSignedIn,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    408: errors.BodyStalled,
    429: errors.TooManyRequests,
}


class StreamedBody:
    """A body that is sent as it is made. Closed exactly once, however the request ends."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks = blocks
        self._closed = False

    def close(self) -> None:
        close = getattr(self.blocks, "close", None)
        if close is not None and not self._closed:
            self._closed = True
            close()


class StreamResponse(Response):
    """An answer whose body is an iterable of bytes, with an optional `close()` that is always called.

    Give `Content-Length` where it is known. If the iterable raises, the connection is cut, so that the client sees a
    body that is too short; it is never ended cleanly.
    """

    def __init__(
        self, body: Iterable[bytes], headers: Mapping[str, str | int] | None = None, status_code: int = 200
    ) -> None:
        # Chalice answers 500 to a header that is an int.
        super().__init__(StreamedBody(body), {name: str(value) for name, value in (headers or {}).items()}, status_code)

    def to_dict(self, binary_types: list[str] | None = None) -> dict[str, Any]:
        single, multiple = self._sort_headers(self.headers)
        return {
            "headers": single,
            "multiValueHeaders": multiple,
            "statusCode": self.status_code,
            "body": self.body,
        }


def error_answer(error: DepotError, request_id: str, headers: Mapping[str, str | list[str]] | None = None) -> Response:
    """The answer for an error, in the one form. Notes its code for the access line."""
    record = current_record()
    if record is not None:
        record.error_code = error.code
    kept: dict[str, str | list[str]] = dict(headers or {})
    kept |= {"Content-Type": "application/json", "Cache-Control": "no-store"}
    if error.status == 401:
        kept["WWW-Authenticate"] = "Bearer"
    if error.status in RETRY_AFTER:
        kept["Retry-After"] = str(getattr(error, "retry_after", None) or RETRY_AFTER[error.status])
    return Response(error.to_body(request_id), kept, error.status)


def as_depot_error(error: BaseException) -> DepotError:
    """Depot's errors as they are; of any other, only type and location are logged, and nothing is told."""
    if isinstance(error, DepotError):
        return error
    if isinstance(error, ChaliceViewError):
        return BY_STATUS.get(error.STATUS_CODE, DepotError)()
    log_exception("unhandled_error", error)
    return DepotError()
