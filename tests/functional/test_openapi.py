"""What the API's document says is what the tiers do: every call of the walk through all routes is compared with it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests

from chalicelib.web.openapi.document import is_api
from tests.functional.test_no_scan import Walk, people, presigned, tus, web_tier
from tests.support.client import Client, fresh_name
from tests.support.contract import Contract
from tests.support.lambda_events import content
from tests.support.presigned_app import LambdaApp, presigned_app
from tests.support.stack import RunningStack

__all__ = ["presigned_app"]


class Compared(Walk):
    """The walk, each call compared with the document."""

    def __init__(self, app: LambdaApp, contract: Contract) -> None:
        super().__init__(app)
        self.contract = contract

    def __call__(self, method: str, route: str, status: int = 200, **about: Any) -> Any:
        answer = super().__call__(method, route, status, **about)
        if status < 300:
            self.contract.check_call(method, route, query=about.get("query") or {}, body=about.get("json"))
        told = answer["headers"].get("Content-Type", "application/json")  # what API Gateway puts in
        self.contract.check_answer(method, route, status, told, b"" if method == "HEAD" else content(answer))
        return answer


def test_every_call_is_answered_as_the_document_says(presigned_app: LambdaApp) -> None:
    contract = Contract(json.loads(content(presigned_app.call("GET", "/openapi.json"))))
    walk = Compared(presigned_app, contract)
    web_tier(walk)
    tus(walk)
    presigned(walk)
    people(walk, "", walk.app.headers)
    told = contract.document["paths"]
    # Signing in elsewhere needs a provider: tests of its own.
    expected = {(method.upper(), path) for path, methods in told.items() for method in methods if "/oidc" not in path}
    assert {(method, path) for method, path, status in contract.seen if status < 300} >= expected - UNSEEN
    assert {(method, path) for method, path, _ in contract.seen} >= expected - {("POST", "/uploads/{upload_id}")}
    routes = {(method, path) for path, methods in presigned_app.module.app.routes.items() for method in methods}
    assert {key for key in routes if is_api(key[1])} == {
        (method.upper(), path) for path, methods in told.items() for method in methods
    }
    assert not [path for path in told if path.startswith(("/app", "/static", "/internal"))]


# What the walk only sees refused.
UNSEEN = {("POST", "/files"), ("POST", "/session"), ("POST", "/session/totp/confirm"), ("POST", "/session/totp/remove")}


# --- the running tiers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anybody(tiers: RunningStack) -> Client:
    return Client(tiers.document["web_url"])


@pytest.fixture(scope="module")
def contract(anybody: Client) -> Contract:
    return Contract(anybody.get("/openapi.json").json())


def compare(contract: Contract, method: str, path: str, answer: requests.Response) -> Any:
    contract.check_answer(method, path, answer.status_code, answer.headers.get("Content-Type", ""), answer.content)
    return answer


def test_the_document_is_for_everybody_and_asked_for_again_only_when_it_changed(anybody: Client) -> None:
    answer = anybody.get("/openapi.json")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    again = anybody.get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_document_says_nothing_of_this_installation(anybody: Client, tiers: RunningStack) -> None:
    text = anybody.get("/openapi.json").text + anybody.get("/docs").text
    told = tiers.document
    for secret in (told["web_url"], told["services_url"], told["api_key"], told["username"], *told["env"].values()):
        # short values such as a region's name or "true" are nobody's secret, and words of the text
        assert len(str(secret)) < 12 or str(secret) not in text


def test_a_person_signs_in_sends_and_reads_as_the_document_says(
    contract: Contract, anybody: Client, web: Client, tiers: RunningStack
) -> None:
    asked = {"username": tiers.document["username"], "password": tiers.document["password"]}
    compare(contract, "POST", "/session", anybody.post("/session", json=asked))
    anybody.session.cookies.clear()
    stored = compare(contract, "PUT", "/files", web.upload(b"x")).json()
    form = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient"}
    answer = web.post("/files", data=form, files={"file": (fresh_name(), b"x")})
    assert compare(contract, "POST", "/files", answer).status_code == 201
    path = "/files/{file_id}/content"
    compare(contract, "GET", path, web.content(stored["file_id"]))
    compare(contract, "GET", path, web.content(stored["file_id"], headers={"Range": "bytes=0-0"}))
    compare(contract, "GET", path, web.content(stored["file_id"], headers={"Range": "bytes=9-"}))
    etag = f'"{stored["sha256"]}"'
    answer = web.content(stored["file_id"], headers={"If-None-Match": etag})
    assert compare(contract, "GET", path, answer).status_code == 304
    for call in ("/health", "/config", "/session", "/users", "/tokens"):
        compare(contract, "GET", call, web.get(call))


def test_every_refusal_to_a_stranger_is_declared(contract: Contract, anybody: Client) -> None:
    for path, methods in contract.document["paths"].items():
        for method, operation in methods.items():
            if not operation["security"]:
                continue
            address = re.sub(r"{\w+}", "0" * 32, path)
            headers = {"Tus-Resumable": "1.0.0", "Content-Type": "application/json"}
            if (method, path) == ("post", "/uploads/{upload_id}"):
                headers["X-HTTP-Method-Override"] = "PATCH"
            answer = anybody.call(
                method.upper(), address, headers=headers, data=b"{}" if "requestBody" in operation else None
            )
            compare(contract, method.upper(), path, answer)
            assert answer.status_code in (401, 404), (method, path)
    assert ("GET", "/files", 401) in contract.seen


def test_the_page_shows_every_operation_and_object(anybody: Client, contract: Contract) -> None:
    page = anybody.get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for methods in contract.document["paths"].values():
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in page.text
    ids = re.findall(r' id="([^"]+)"', page.text)
    assert len(ids) == len(set(ids))
    for name in contract.document["components"]["schemas"]:
        assert f"shape-{name}" in ids
    assert set(re.findall(r'href="#([^"]+)"', page.text)) <= set(ids)
    assert not re.search(
        r"<(script|style)>| style=| on[a-z]+=|//(?!www\.w3)", re.sub(r"<code>.*?</code>", "", page.text)
    )


def test_the_page_has_the_navigation_of_who_is_signed_in(anybody: Client, web: Client) -> None:
    assert "/app/sign-out" not in anybody.get("/docs").text
    assert "/app/sign-out" in web.get("/docs").text
    assert anybody.get("/docs", headers={"Authorization": "Bearer nonsense"}).status_code == 200
