"""Between HTTP and API Gateway's REST proxy event: what a handler sees, and what it answers. Knows no sockets.

The event's form: AWS, "Input format of a Lambda function for proxy integration". Handlers run unchanged under Lambda, so
nothing may be in it that API Gateway does not send, but for the body's reader and the `STREAMING` key.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from chalicelib.errors import InvalidRequest, NotFound
from chalicelib.hosting.chalice_app import STREAMING
from chalicelib.hosting.router import Router

Headers = list[tuple[bytes, bytes]]

# More query fields than any call takes; parse_qsl refuses the rest before it builds lists of them.
_MAX_QUERY_FIELDS = 200


@dataclass(frozen=True, slots=True)
class HostContext:
    """What handlers may ask of a Lambda context. There is no deadline on a server: the largest Lambda allows, always."""

    aws_request_id: str
    function_name: str = "depot-host"
    function_version: str = "$LATEST"
    invoked_function_arn: str = ""
    memory_limit_in_mb: str = "0"

    def get_remaining_time_in_millis(self) -> int:
        return 15 * 60 * 1000


def proxy_event(scope: Mapping[str, Any], router: Router, request_id: str) -> dict[str, Any]:
    """The event of an ASGI scope, with no body yet. Raises `NotFound`, `InvalidPath`, `InvalidRequest`."""
    found = router.match(scope["raw_path"])
    if found is None:
        raise NotFound
    template, parameters = found
    query = _query(scope["query_string"])
    headers = _request_headers(scope["headers"])
    client = scope.get("client") or ("", 0)
    return {
        "resource": template,
        "path": scope["path"],
        "httpMethod": scope["method"],
        # Repeated lines are one list (RFC 9110, section 5.3): two Authorization lines make one that is not valid,
        # rather than the one that an attacker put last.
        "headers": {name: ("; " if name == "cookie" else ", ").join(values) for name, values in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "pathParameters": parameters or None,
        "stageVariables": None,
        "requestContext": {
            "resourcePath": template,
            "httpMethod": scope["method"],
            "path": scope["path"],
            "stage": "host",
            "protocol": "HTTP/1.1",
            "requestId": request_id,
            "identity": {"sourceIp": client[0], "userAgent": ", ".join(headers.get("user-agent", []))},
        },
        "body": None,
        "isBase64Encoded": False,
        STREAMING: True,
    }


def _query(raw: bytes) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_QUERY_FIELDS
        )
    except ValueError:  # not ASCII, not UTF-8 once decoded, or too many fields
        raise InvalidRequest("The query is malformed.") from None
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def _request_headers(raw: Headers) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in raw:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    # Chalice refuses a binary answer to a request that does not accept it; every HTTP client takes what it asked for.
    accept = headers.setdefault("accept", [])
    if not any("*/*" in value for value in accept):
        accept.append("*/*")
    return headers


@dataclass(slots=True)
class Answer:
    """A handler's answer on its way out: whole (`body`), or streamed from the response pipe (`body is None`)."""

    status: int
    headers: Headers
    body: bytes | None

    @property
    def length(self) -> int | None:
        """The announced Content-Length in bytes."""
        return next((int(value) for name, value in self.headers if name == b"content-length"), None)


def streamed_answer(answer: Mapping[str, Any], *, head: bool) -> Answer:
    """The answer whose body is a `StreamedBody`; that body is not sent for HEAD and for bodiless statuses."""
    status, headers = answer["statusCode"], _response_headers(answer)
    if status in (204, 304):
        return Answer(status, [pair for pair in headers if pair[0] != b"content-length"], b"")
    return Answer(status, headers, b"" if head else None)


def whole_answer(answer: Mapping[str, Any], *, head: bool) -> Answer:
    """The answer whose body is text or base64, as chalice makes it."""
    status, body = answer["statusCode"], answer["body"]
    data = body.encode() if isinstance(body, str) else bytes(body)
    if answer.get("isBase64Encoded"):
        data = base64.b64decode(data)
    headers = [pair for pair in _response_headers(answer) if pair[0] != b"content-length"]
    if status in (204, 304):
        return Answer(status, headers, b"")
    if data and all(name != b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"application/json"))  # API Gateway's default
    headers.append((b"content-length", str(len(data)).encode()))
    return Answer(status, headers, b"" if head else data)


def _response_headers(answer: Mapping[str, Any]) -> Headers:
    """Lower-case wire headers. Those that belong to the connection are the host's, not the handler's."""
    pairs = list((answer.get("headers") or {}).items())
    for name, values in (answer.get("multiValueHeaders") or {}).items():
        pairs += [(name, value) for value in values]
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in pairs
        if name.lower() not in ("connection", "transfer-encoding", "keep-alive", "upgrade")
    ]
