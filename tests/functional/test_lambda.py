"""The real app.py, called as Lambda calls it: base64 events, bodies up to 4 MiB each way, both tiers in one process."""

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from chalicelib import dynamo
from chalicelib.auth import tables, users
from chalicelib.limits import MIB
from chalicelib.storage.manager import StorageManager
from tests.support.gateway import AWS, ENV
from tests.support.lambda_events import content, event

QUERY = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient", "filename": "p.csv"}


@pytest.fixture(scope="module")
def depot(ministack_url: str) -> Iterator[ModuleType]:
    """`app.py` as Lambda imports it in the dev stage: SERVER_ROLE=testing."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**AWS, **ENV, "AWS_ENDPOINT_URL": ministack_url, "LEDGER_TABLE_PREFIX": "lambda"}.items():
            patch.setenv(name, value)
        patch.delitem(sys.modules, "app", raising=False)
        module = importlib.import_module("app")
        module.web_tier()
        dynamo.create(*tables.MODELS, *importlib.import_module("nas_gateway.wiring").MODELS)
        yield module
        sys.modules.pop("app", None)
        StorageManager.clear_cache()


@pytest.fixture(scope="module")
def headers(depot: ModuleType) -> dict[str, str]:
    password = users.create_user("lambda", "superuser")
    body = json.dumps({"username": "lambda", "password": password}).encode()
    answer = depot.app(event("POST", "/session", body=body, headers={"content-type": "application/json"}), None)
    assert answer["statusCode"] == 200
    return {"authorization": f"Bearer {json.loads(content(answer))['token']}"}


def put(depot: ModuleType, headers: dict[str, str], name: str, body: bytes) -> dict:
    return depot.app(event("PUT", "/files", query={**QUERY, "filename": name}, headers=headers, body=body), None)


@pytest.mark.parametrize("size", [0, 1, 4 * MIB - 1, 4 * MIB])
def test_a_body_of_up_to_4_mib_goes_up_and_comes_down(depot, headers, size):
    body = os.urandom(size)
    answer = put(depot, headers, f"{size}.bin", body)
    assert answer["statusCode"] == 201
    told = json.loads(content(answer))
    assert (told["size"], told["sha256"]) == (size, hashlib.sha256(body).hexdigest())
    got = depot.app(event("GET", "/files/{file_id}/content", path={"file_id": told["file_id"]}, headers=headers), None)
    assert (got["statusCode"], got["isBase64Encoded"]) == (200, True)
    assert content(got) == body


def test_a_larger_file_is_answered_with_a_pointer_to_range_and_comes_in_pieces(depot, headers):
    body = os.urandom(4 * MIB + 1000)
    StorageManager.get_submission_storage().save("submissions/VACS/2024/patient/large.bin", body)
    listed = depot.app(event("GET", "/files", query={"cohort": "VACS"}, headers=headers), None)
    found = [item for item in json.loads(content(listed))["files"] if item["filename"] == "large.bin"]
    where = {"path": {"file_id": found[0]["file_id"]}}
    whole = depot.app(event("GET", "/files/{file_id}/content", headers=headers, **where), None)
    assert whole["statusCode"] == 413
    error = json.loads(content(whole))["error"]
    assert error["code"] == "response_too_large"
    assert "Range" in error["message"]
    pieces = []
    for first in range(0, len(body), 4 * MIB):
        asked = {**headers, "range": f"bytes={first}-{first + 4 * MIB - 1}"}
        piece = depot.app(event("GET", "/files/{file_id}/content", headers=asked, **where), None)
        assert piece["statusCode"] == 206
        pieces.append(content(piece))
    assert b"".join(pieces) == body


def test_the_internal_api_is_there_too_and_takes_the_key(depot):
    asked = event("GET", "/internal/storage/health", headers={"x-api-key": ENV["INTERNAL_API_KEY"]})
    answer = depot.app(asked, None)
    assert answer["statusCode"] == 200
    assert json.loads(content(answer))["server_role"] == "testing"
    assert depot.app(event("GET", "/internal/storage/health"), None)["statusCode"] == 401


def test_the_user_of_a_request_is_the_one_the_ledger_names(depot, headers):
    told = json.loads(content(put(depot, headers, "who.csv", b"x")))
    asked = event(
        "GET",
        "/internal/tracking",
        query={"file_id": told["file_id"]},
        headers={"x-api-key": ENV["INTERNAL_API_KEY"]},
    )
    events = json.loads(content(depot.app(asked, None)))["events"]
    assert {item["user"] for item in events} == {"lambda"}
    assert {item["server_role"] for item in events} == {"testing"}
