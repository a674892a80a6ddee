"""JSON that no client sends on purpose, to every operation that takes any: what a fuzzer that keeps to the schema leaves out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.contract import Contract
from tests.support.lambda_events import content
from tests.support.presigned_app import LambdaApp, presigned_app

__all__ = ["presigned_app"]

# Python's parser takes NaN and Infinity; a lone surrogate is text that cannot be encoded; DynamoDB's numbers end at 1e126.
ODD = (
    "NaN", "Infinity", "1e400", "-1e-320", "1" + "0" * 400, r'"\ud800"', r'"a\u0000b"', r'"\u202e"', "[]", '[""]', '[[["x"]]]',
    "{}", '{"": {}}', "null", "true", "-1", "1e126", '""', '" "', json.dumps("x" * 60_000), json.dumps("é" * 300), "1.5",
)  # fmt: skip
BODIES = ("", "null", "[]", '"x"', "{", "\ufeff{}", "[" * 60_000, '{"a":' * 10_000, r'{"\ud800": 1}', "1" * 5_000)

# What is good enough to get past the first check, so that the odd value of another field is looked at.
GOOD: dict[str, Any] = {
    "cohort": "VACS", "cohorts": [], "role": "reader", "password": "correct horse battery", "permissions": ["read"],
    "hours": 1, "days": 1, "reason": "letter of 3 May", "file_id": None, "filename": "odd.csv", "purpose": "precheck",
    "size": 3, "part_bytes": 5 * 1024 * 1024, "sha256": "0" * 64, "overwrite": "no", "protocol_year": "2024",
}  # fmt: skip


def examples(contract: Contract) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation with a JSON body, with a good value for each field."""
    for path, methods in contract.document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            # These end the session, or the account, that the test goes on with; the fields they share are tried elsewhere.
            if body is not None and path not in ("/session/password", "/session/totp", "/session/totp/remove"):
                yield method.upper(), path, good(contract, body["schema"])


def good(contract: Contract, schema: dict[str, Any]) -> Any:
    if "$ref" in schema:
        schema = contract.document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        return good(contract, schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: GOOD[name] if name in GOOD else good(contract, one) for name, one in schema["properties"].items()}
    if kind == "array":
        return [good(contract, schema["items"])]
    return {"string": "0" * 32, "integer": 1, "number": 1, "boolean": True}.get(str(kind), 1)


def spoilt(value: Any, odd: str) -> Iterator[str]:
    """The body as text, with one field after the other replaced."""
    for name, inner in value.items():
        rest = {other: kept for other, kept in value.items() if other != name}
        head = json.dumps(rest)[:-1] + (", " if rest else "")
        yield f"{head}{json.dumps(name)}: {odd}}}"
        if isinstance(inner, dict):
            yield from (f"{head}{json.dumps(name)}: {text}}}" for text in spoilt(inner, odd))


@pytest.fixture(scope="module")
def contract(presigned_app: LambdaApp) -> Contract:
    return Contract(json.loads(content(presigned_app.call("GET", "/openapi.json"))))


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_no_odd_value_is_a_500(presigned_app: LambdaApp, contract: Contract, odd: str) -> None:
    bad = []
    for method, path, body in examples(contract):
        for text in spoilt(body, odd):
            bad += sent(presigned_app, contract, method, path, text)
    assert bad == []


@pytest.mark.slow
@pytest.mark.parametrize("text", BODIES, ids=range(len(BODIES)))
def test_no_odd_body_is_a_500(presigned_app: LambdaApp, contract: Contract, text: str) -> None:
    bad = []
    for method, path, _ in examples(contract):
        bad += sent(presigned_app, contract, method, path, text)
    assert bad == []


def sent(depot: LambdaApp, contract: Contract, method: str, path: str, text: str) -> list[str]:
    """What is wrong with the answer to this body."""
    where = {name: "0" * 32 for name in ("user_id", "plan_id", "upload_id", "grant_id") if f"{{{name}}}" in path}
    query = {"key": "0" * 32} if "{upload_id}" in path else None
    headers = {"content-type": "application/json"}
    answer = depot.call(method, path, path=where or None, query=query, headers=headers, body=text.encode())
    status, body = answer["statusCode"], content(answer)
    try:
        contract.check_answer(method, path, status, answer["headers"].get("Content-Type", "application/json"), body)
    except AssertionError as error:
        return [f"{error} for {text[:200]}: {body[:200]!r}"]
    return [f"{method} {path} {status} for {text[:200]}"] if status >= 500 else []
