"""An export under Lambda: at most 4 MiB an answer, and a link to where it goes on."""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from chalicelib import dynamo
from chalicelib.auth import tables, users
from chalicelib.limits import LAMBDA_CHUNK_BYTES
from chalicelib.storage.manager import StorageManager
from nas_gateway.ledger.events import Outcome
from nas_gateway.ledger.ledger import Ledger
from tests.support.gateway import AWS, ENV
from tests.support.lambda_events import content, event
from tests.support.ledger_env import upload

pytestmark = pytest.mark.slow

# Quotation marks take four bytes each in a JSON line inside a JSON answer: 32 KiB an event.
EVENTS, METADATA = 150, {"quotes": '"' * 8000}


@pytest.fixture(scope="module")
def depot(ministack_url: str) -> Iterator[ModuleType]:
    """`app.py` as Lambda imports it in the dev stage, over a ledger that is too long for one answer."""
    with pytest.MonkeyPatch.context() as patch:
        prefix = {"AWS_ENDPOINT_URL": ministack_url, "LEDGER_TABLE_PREFIX": "audit-lambda"}
        for name, value in {**AWS, **ENV, **prefix}.items():
            patch.setenv(name, value)
        patch.delitem(sys.modules, "app", raising=False)
        module = importlib.import_module("app")
        module.web_tier()
        dynamo.create(*tables.MODELS, *importlib.import_module("nas_gateway.wiring").MODELS)
        ledger = Ledger(server_role="testing")
        for _ in range(EVENTS):
            ledger.record(upload(cohort="LONG", metadata=METADATA), Outcome.COMPLETED)
        yield module
        sys.modules.pop("app", None)
        StorageManager.clear_cache()


@pytest.fixture(scope="module")
def headers(depot: ModuleType) -> dict[str, str]:
    body = json.dumps({"username": "lambda", "password": users.create_user("lambda", "auditor")}).encode()
    answer = depot.app(event("POST", "/session", body=body, headers={"content-type": "application/json"}), None)
    return {"authorization": f"Bearer {json.loads(content(answer))['token']}"}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_export_comes_in_answers_that_lambda_can_give(depot: ModuleType, headers: dict[str, str], form: str) -> None:
    query: dict[str, str] | None = {"cohort": "LONG", "action": "file_uploaded_via_stream", "format": form}
    text, answers = "", 0
    while query is not None:
        answer: dict[str, Any] = depot.app(event("GET", "/audit/export", query=query, headers=headers), None)
        assert answer["statusCode"] == 200
        part = content(answer).decode()
        assert len(part.encode()) <= LAMBDA_CHUNK_BYTES
        text, answers, link = text + part, answers + 1, answer["headers"].get("Link")
        query = None
        if link:
            found = re.fullmatch(r'<(/audit/export\?[^>]+)>; rel="next"', link)
            assert found
            query = dict(parse_qsl(urlsplit(found[1]).query))
            assert query["cursor"] == answer["headers"]["X-Depot-Next-Cursor"]
    assert answers == 2
    if form == "csv":  # the parts put together are one table with one head
        ids = [row["event_id"] for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)]
    else:
        ids = [json.loads(line)["event_id"] for line in text.splitlines()]
    assert len(ids) == len(set(ids)) == EVENTS
