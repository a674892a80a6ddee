"""tus through API Gateway and Lambda: 4 MiB chunks as base64 events, a stage before the path; and pages of other origins."""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from chalicelib import dynamo
from chalicelib.auth import tables, users
from chalicelib.limits import LAMBDA_CHUNK_BYTES, MIB
from chalicelib.storage.manager import StorageManager
from tests.support.gateway import AWS, ENV
from tests.support.lambda_events import content, event
from tests.support.tus_client import CHUNK, about

PORTAL = "https://portal.example"

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def depot(ministack_url: str) -> Iterator[ModuleType]:
    """`app.py` as Lambda imports it in the dev stage, with pages of one other origin allowed."""
    env = {**AWS, **ENV, "AWS_ENDPOINT_URL": ministack_url, "LEDGER_TABLE_PREFIX": "tus", "DEPOT_CORS_ORIGINS": PORTAL}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        patch.delitem(sys.modules, "app", raising=False)
        module = importlib.import_module("app")
        module.web_tier()
        dynamo.create(*tables.MODELS, *importlib.import_module("nas_gateway.wiring").MODELS)
        yield module
        sys.modules.pop("app", None)
        StorageManager.clear_cache()


@pytest.fixture(scope="module")
def call(depot: ModuleType) -> Call:
    """`call(method, location, body, **headers)` as the superuser; `location` as the client was told it."""
    password = users.create_user("lambda-tus", "superuser")
    body = json.dumps({"username": "lambda-tus", "password": password}).encode()
    signed_in = depot.app(event("POST", "/session", body=body, headers={"content-type": "application/json"}), None)
    token = json.loads(content(signed_in))["token"]

    def ask(method: str, location: str = "/api/uploads", body: bytes = b"", **told: Any) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {token}", "tus-resumable": "1.0.0"}
        headers |= {name.replace("_", "-"): value for name, value in told.items()}
        headers = {name: str(value) for name, value in headers.items() if value is not None}
        upload_id = location.removeprefix("/api/uploads").strip("/")
        resource, path = ("/uploads/{upload_id}", {"upload_id": upload_id}) if upload_id else ("/uploads", None)
        answer: dict[str, Any] = depot.app(event(method, resource, path=path, headers=headers, body=body), None)
        return answer

    return ask


def test_api_gateway_hands_chunks_on_as_bytes(depot):
    assert CHUNK in depot.app.api.binary_types


def test_chunks_of_4_mib_and_a_location_behind_the_stage(depot, call):
    body = os.urandom(2 * LAMBDA_CHUNK_BYTES + MIB)
    made = call("POST", upload_length=len(body), upload_metadata=about())
    assert made["statusCode"] == 201
    where = made["headers"]["Location"]
    assert where.startswith("/api/uploads/")
    for at in range(0, len(body), LAMBDA_CHUNK_BYTES):
        chunk = body[at : at + LAMBDA_CHUNK_BYTES]
        answer = call("PATCH", where, chunk, upload_offset=at, content_type=CHUNK)
        assert (answer["statusCode"], answer["body"]) == (204, "")
        assert answer["headers"]["Upload-Offset"] == str(at + len(chunk))
    head = call("HEAD", where)
    assert (head["statusCode"], head["body"], head["headers"]["Upload-Offset"]) == (200, "", str(len(body)))
    view = depot.web_tier().catalog.file(answer["headers"]["X-Depot-File-Id"])
    assert StorageManager.get_storage(view.disk).get_file(view.path) == body


def test_partial_uploads_are_named_by_their_locations_behind_the_stage(call):
    told = {"upload_length": 5, "upload_concat": "partial", "content_type": CHUNK}
    places = [call("POST", body=body, **told)["headers"]["Location"] for body in (b"hello", b"world")]
    final = call("POST", upload_concat="final;" + " ".join(places), upload_metadata=about())
    assert final["statusCode"] == 201, final["body"]
    assert final["headers"]["Upload-Offset"] == "10"
    short = "final;" + " ".join(place.removeprefix("/api") for place in places)
    assert call("POST", upload_concat=short, upload_metadata=about())["statusCode"] == 400


def test_errors_to_head_have_no_body(call):
    answer = call("HEAD", "/api/uploads/" + "0" * 32)
    assert (answer["statusCode"], answer["body"]) == (404, "")


# --- pages of other origins -----------------------------------------------------------------------------------


def test_a_preflight_of_an_allowed_origin_is_answered_without_a_sign_in(call):
    asked = {"origin": PORTAL, "access_control_request_method": "PATCH", "authorization": None, "tus_resumable": None}
    answer = call("OPTIONS", "/api/uploads/" + "0" * 32, **asked)
    assert answer["statusCode"] == 204
    headers = answer["headers"]
    assert headers["Access-Control-Allow-Origin"] == PORTAL
    assert "Access-Control-Allow-Credentials" not in headers
    assert {"HEAD", "PATCH", "DELETE", "POST", "GET"} <= set(headers["Access-Control-Allow-Methods"].split(", "))
    allowed = set(headers["Access-Control-Allow-Headers"].split(", "))
    assert {"Authorization", "Content-Type", "Tus-Resumable", "Upload-Offset", "Upload-Metadata"} <= allowed
    assert headers["Vary"] == "Origin"


def test_the_page_may_read_what_the_protocol_answers_also_errors(call):
    made = call("POST", origin=PORTAL, upload_length=1, upload_metadata=about())
    shown = set(made["headers"]["Access-Control-Expose-Headers"].split(", "))
    assert {"Location", "Upload-Offset", "Upload-Length", "Tus-Resumable", "Upload-Expires", "X-Depot-File-Id"} <= shown
    for answer in (
        call("PATCH", made["headers"]["Location"], b"x", origin=PORTAL, upload_offset=7, content_type=CHUNK),
        call("POST", origin=PORTAL, upload_length=1),
        call("POST", origin=PORTAL, tus_resumable="2.0.0"),
        call("HEAD", "/api/uploads/" + "0" * 32, origin=PORTAL, authorization="Bearer none"),
    ):
        assert answer["statusCode"] >= 400
        assert answer["headers"]["Access-Control-Allow-Origin"] == PORTAL


def test_another_origins_page_is_told_nothing(call):
    answer = call("POST", origin="https://evil.example", upload_length=1, upload_metadata=about())
    assert "Access-Control-Allow-Origin" not in answer["headers"]
    assert answer["headers"]["Vary"] == "Origin"


def test_an_allowed_origin_still_cannot_use_our_cookie(call):
    made = call("POST", upload_length=1, upload_metadata=about())
    browser = {"origin": PORTAL, "sec_fetch_site": "cross-site", "authorization": None, "cookie": "depot_session=any"}
    answer = call("DELETE", made["headers"]["Location"], **browser)
    assert answer["statusCode"] == 403
    assert json.loads(answer["body"])["error"]["code"] == "cross_site_request"
