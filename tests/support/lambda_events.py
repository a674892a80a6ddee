"""API Gateway REST proxy events as Lambda gets them: the body base64, everything else text."""

from __future__ import annotations

import base64
import json
from typing import Any

# AWS Lambda quotas: 6 MB for a synchronous invocation's payload, each way.
PAYLOAD_BYTES = 6 * 1024 * 1024


def event(
    method: str,
    resource: str,
    *,
    path: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> dict[str, Any]:
    """One event; fails where API Gateway would not have delivered it."""
    address = resource
    for name, value in (path or {}).items():
        address = address.replace(f"{{{name}}}", value)
    headers = {"accept": "*/*", "host": "depot.example", **(headers or {})}
    made = {
        "resource": resource,
        "path": address,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": query,
        "multiValueQueryStringParameters": {name: [value] for name, value in (query or {}).items()} or None,
        "pathParameters": path,
        "stageVariables": None,
        "requestContext": {
            "resourcePath": resource,
            "httpMethod": method,
            "path": f"/api{address}",
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }
    assert len(json.dumps(made)) <= PAYLOAD_BYTES, "API Gateway would answer 413"
    return made


def content(answer: dict[str, Any]) -> bytes:
    """The body of an answer, as the client would get it."""
    assert len(json.dumps(answer)) <= PAYLOAD_BYTES, "Lambda would fail with a response that is too large"
    body = answer["body"]
    return base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
