"""`DepotApp`: Chalice whose request state is per context, whose errors have one form, and whose bodies can stream.

Imported by `app.py` and by blueprints (`body_reader`, `json_body`, `StreamResponse`). Nothing here knows whether Lambda or
the streaming host calls, but for one key of the event: the host sets `STREAMING`, and then an answer's body may be a
`StreamedBody`; under Lambda that is collected and base64-encoded, because a Lambda answer is one JSON document.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from chalice.app import Chalice, Request, Response, RestAPIEventHandler

from chalicelib import context as context_of
from chalicelib.errors import DepotError, InvalidRequest, NotFound, PayloadTooLarge, ResponseTooLarge
from chalicelib.hosting.answers import BY_STATUS, StreamedBody, StreamResponse, as_depot_error, error_answer
from chalicelib.hosting.emf import Emf
from chalicelib.limits import LAMBDA_CHUNK_BYTES, MAX_JSON_BYTES
from chalicelib.observability import (
    RequestRecord,
    begin_request,
    current_record,
    end_request,
    log_access,
    request_id_from,
)
from chalicelib.storage.base import Reader
from chalicelib.storage.streams import BytesReader

__all__ = ["STREAMING", "DepotApp", "StreamResponse", "body_reader", "json_body"]

# An event that carries this key comes from the streaming host. API Gateway makes its own events; no client can set it.
STREAMING = "depotStreaming"

TUS_CHUNK_TYPE = "application/offset+octet-stream"

_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


# --- a request's body -----------------------------------------------------------------------------------------


def body_reader(request: Request, extra: int = 0) -> Reader:
    """The body as a reader, on either host; it has `__len__` when its length is known.

    `extra`: bytes that come with the payload, which do not count against Lambda's limit.

    Reading raises `ClientDisconnected`, `BodyStalled`, `ServerStopping` or `TruncatedBody` rather than ending early. Under
    Lambda a body over 4 MiB is refused whole (`PayloadTooLarge`): it would fit or not by what its base64 and headers add.
    """
    event = request.to_original_event()
    body = event.get("body")
    if body is None:
        return BytesReader(b"")
    if isinstance(body, Reader):
        return body
    if event.get("isBase64Encoded"):
        try:
            body = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequest("The body is not base64.") from None
    data = body if isinstance(body, bytes) else body.encode()
    if len(data) > LAMBDA_CHUNK_BYTES + extra:
        raise PayloadTooLarge(
            f"A request holds at most {LAMBDA_CHUNK_BYTES} bytes here: send the file in chunks to /uploads "
            "(tus; GET /config tells the size), or with `depot upload`."
        )
    return BytesReader(data)


def json_body(request: Request, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The body as a JSON object of at most `max_bytes`. Raises `PayloadTooLarge`, `InvalidRequest`."""
    reader = body_reader(request)
    data = bytearray()
    while block := reader.read(max_bytes + 1 - len(data)):
        data += block
        if len(data) > max_bytes:
            raise PayloadTooLarge(f"A JSON body has at most {max_bytes} bytes here.")
    try:
        parsed = json.loads(data.decode(), parse_constant=_no_constant)
        if b"\\u" in data:
            # Half a surrogate pair, written as an escape, is text that nothing can encode: not a hasher, not a table.
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # RecursionError: 64 KiB of "["
        raise InvalidRequest("The body is not JSON.") from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("The body is not a JSON object.")
    return parsed


def _no_constant(name: str) -> None:
    """NaN and the infinities are no JSON (RFC 8259, section 6), though Python reads them."""
    raise ValueError(name)


# --- the app --------------------------------------------------------------------------------------------------


class _Handler(RestAPIEventHandler):
    """Chalice's routing with our errors. One object a request; `record` is that request's."""

    record: RequestRecord

    def __call__(self, event: Any, context: Any) -> Any:
        self._streams: list[StreamResponse] = []
        try:
            answer = super().__call__(event, context)
        except Exception as error:  # noqa: BLE001 -- an answer that cannot be serialised must not reach the host
            answer = error_answer(as_depot_error(error), self.record.request_id).to_dict(self.api.binary_types)
        for response in self._streams:
            if response.body is not answer["body"]:
                response.body.close()  # made by the view, but something else is answered
        return answer

    def _main_rest_api_handler(self, event: Any, context: Any) -> Response:
        path = event.get("requestContext", {}).get("resourcePath")
        if path not in self.routes:  # asking chalice's defaultdict would add the path to it
            return error_answer(NotFound(), self.record.request_id)
        response = super()._main_rest_api_handler(event, context)
        body = response.body
        if response.status_code >= 400 and isinstance(body, dict) and set(body) == {"Code", "Message"}:
            error = BY_STATUS.get(response.status_code, DepotError)()
            return error_answer(error, self.record.request_id, response.headers)
        if body is None:
            response.body = ""  # chalice would send the text "null"
        return response

    def _get_view_function_response(self, view_function: Any, function_args: dict[str, Any]) -> Response:
        def noting(**arguments: Any) -> Any:
            response = view_function(**arguments)
            if isinstance(response, StreamResponse):
                self._streams.append(response)
            return response

        return super()._get_view_function_response(noting, function_args)

    def _validate_response(self, response: Response) -> None:
        for value in response.headers.values():
            for text in value if isinstance(value, list) else [value]:
                text.encode("latin-1")
                if _BAD_VALUE.search(text):
                    raise ValueError("control character in a response header")

    def _unhandled_exception_to_response(self) -> Response:
        error = sys.exc_info()[1]
        assert error is not None  # chalice calls this in its except clauses only
        return error_answer(as_depot_error(error), self.record.request_id)


class DepotApp(Chalice):
    """The Chalice app. `current_request` and `lambda_context` belong to the running context, not to the object.

    In chalice they are attributes of the one app object: with 16 threads nearly every request saw another's data.
    """

    def __init__(self, app_name: str, **kwargs: Any) -> None:
        self._request: ContextVar[Any] = ContextVar("chalice_current_request", default=None)
        self._context: ContextVar[Any] = ContextVar("chalice_lambda_context", default=None)
        self.emf: Emf | None = None  # set under Lambda: what prints the metrics of an invocation
        kwargs.setdefault("configure_logs", False)  # its handler would print exceptions with their messages
        super().__init__(app_name, **kwargs)
        # API Gateway hands every other type on as text, which would mangle the bytes of a tus chunk.
        self.api.binary_types.append(TUS_CHUNK_TYPE)

    @property
    def current_request(self) -> Any:
        return self._request.get()

    @current_request.setter
    def current_request(self, request: Any) -> None:
        self._request.set(request)

    @property
    def lambda_context(self) -> Any:
        return self._context.get()

    @lambda_context.setter
    def lambda_context(self, context: Any) -> None:
        self._context.set(context)

    def _register_route(self, name: str, user_handler: Any, kwargs: Any, **unused: Any) -> None:
        # Bodies are files of any type, and chalice takes a missing Content-Type for JSON and answers 415.
        kwargs["kwargs"]["content_types"] = ["*/*"]
        super()._register_route(name, user_handler, kwargs, **unused)

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        record = current_record()
        if event.get(STREAMING) and record is not None:
            return self._answer(event, context, record)  # the host sends the body and writes the access line
        record = _record_of(event)
        token = begin_request(record)
        # A warm function answers many people: what one of them signed in as must not outlive the call.
        nobody = context_of.assertion.set(None)
        try:
            answer = _collected(self._answer(event, context, record), record)
            answer["headers"]["X-Request-ID"] = record.request_id
            record.status = answer["statusCode"]
            log_access(record)
        finally:
            context_of.assertion.reset(nobody)
            end_request(token)
            if self.emf is not None:
                self.emf.flush()
        return answer

    def _answer(self, event: Any, context: Any, record: RequestRecord) -> dict[str, Any]:
        self.lambda_context = context
        handler = _Handler(self.routes, self.api, self.log, False, self._get_middleware_handlers("http"))
        handler.record = record
        try:
            self.current_request = handler.create_request_object(event, context)
            answer: dict[str, Any] = handler(event, context)
        except (KeyError, AttributeError, TypeError) as error:  # an event that is no proxy event
            answer = error_answer(as_depot_error(error), record.request_id).to_dict()
        answer["headers"]["X-Request-ID"] = record.request_id
        return answer


def _record_of(event: Mapping[str, Any]) -> RequestRecord:
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    about = event.get("requestContext") or {}
    return RequestRecord(
        request_id_from(headers.get("x-request-id")),
        method=str(about.get("httpMethod", "-")),
        route=str(about.get("resourcePath", "-")),
        bytes_in=len(event.get("body") or "") * 3 // (4 if event.get("isBase64Encoded") else 3),
    )


def _collected(answer: dict[str, Any], record: RequestRecord) -> dict[str, Any]:
    """The answer with its stream read and base64-encoded. Over 4 MiB it is `ResponseTooLarge` instead."""
    stream = answer["body"]
    if not isinstance(stream, StreamedBody):
        record.bytes_out = len(stream)
        return answer
    data = bytearray()
    try:
        if record.method != "HEAD":
            for block in stream.blocks:
                data += block
                if len(data) > LAMBDA_CHUNK_BYTES:
                    raise ResponseTooLarge
    except Exception as error:  # noqa: BLE001 -- nothing is sent yet, so any failure can still be told
        return error_answer(as_depot_error(error), record.request_id).to_dict()
    finally:
        stream.close()
    record.bytes_out = len(data)
    return answer | {"body": base64.b64encode(data).decode(), "isBase64Encoded": True}
