"""Signed checkpoints and the public key, as an auditor downloads them: who may, and that they are the stored ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from chalicelib.web import checkpoints
from nas_gateway.ledger.stores import AppendedFile
from tests.support.client import Client, code, internal, make_user
from tests.support.lambda_events import content
from tests.support.ledger_book import KEY, Book
from tests.support.presigned_app import LambdaApp, presigned_app

__all__ = ["presigned_app"]

ROUTES = ("/ledger/checkpoints", "/ledger/public-key")


def test_who_reads_the_whole_ledger_gets_them(tiers, web, as_user):
    stored = Path(tiers.document["env"]["LEDGER_CHECKPOINT_DIR"])
    for client in (web, as_user("auditor"), as_user("administrator")):
        answer = client.get(ROUTES[0])
        assert answer.status_code == 200
        assert answer.content == b"".join(AppendedFile(stored).read())
        assert answer.headers["Content-Type"].startswith("application/x-ndjson")
        assert re.fullmatch("[A-Za-z0-9+/]{43}=", client.get(ROUTES[1]).json()["public_key"])


def test_nobody_else_does_and_the_refusal_is_recorded(tiers, web, as_user, events):
    for role in ("cohort_manager", "uploader", "reader", "operator"):
        client = as_user(role, "MINE")
        for route in ROUTES:
            assert (client.get(route).status_code, code(client.get(route))) == (403, "forbidden")
        user = client.get("/session").json()["username"]
        told = {event["metadata"]["route"] for event in events(user=user) if event["action"] == "access_denied"}
        assert told == {f"GET {route}" for route in ROUTES}
    for route in ROUTES:
        assert Client(web.url).get(route).status_code == 401


def test_the_services_tier_refuses_too(tiers):
    """A web tier that forgot to ask is no way in."""
    token = make_user(tiers, "cohort_manager", "MINE").session.headers["Authorization"].removeprefix("Bearer ")
    for route in ROUTES:
        asked = internal(tiers)
        assert asked.get(f"/internal{route}", headers={"X-Depot-Assertion": token}).status_code == 403
        assert asked.get(f"/internal{route}").status_code == 200
        assert Client(asked.url).get(f"/internal{route}").status_code == 401


@pytest.mark.parametrize(
    "query", [{"after": "-1"}, {"after": "x"}, {"after": "٣"}, {"befor": "1"}, {"after": "9" * 16}]
)
def test_bad_questions_are_a_clear_400(web, query):
    answer = web.get(ROUTES[0], params=query)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


# --- under Lambda, where an answer is a page --------------------------------------------------------------------------


@pytest.fixture
def book(presigned_app: LambdaApp, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """Seven checkpoints in the store that the app reads."""
    folder = Path(presigned_app.module.settings().ledger_checkpoints.root)
    (folder / "checkpoints.jsonl").unlink(missing_ok=True)
    made = Book(folder)
    for _ in range(7):
        made.add(3)
        made.checkpoint()
    monkeypatch.setattr(checkpoints, "PAGE", 3)
    yield made
    (folder / "checkpoints.jsonl").unlink()


def test_a_page_tells_where_the_next_one_is(presigned_app: LambdaApp, book: Book) -> None:
    text, query, pages = b"", {"after": "1"}, 0
    while query:
        answer = presigned_app.call("GET", ROUTES[0], query=query)
        assert answer["statusCode"] == 200
        text, pages = text + content(answer), pages + 1
        link = answer["headers"].get("Link", "")
        found = re.fullmatch(r'</ledger/checkpoints\?after=(\d+)>; rel="next"', link)
        query = {"after": found[1]} if found else {}
    assert text == b"".join(book.store.read(1))
    assert pages == 3  # six in pages of three, and that there are no more
    assert content(presigned_app.call("GET", ROUTES[0], query={"after": "7"})) == b""


def test_the_key_is_that_of_the_first_checkpoint(presigned_app: LambdaApp, book: Book) -> None:
    key = json.loads(content(presigned_app.call("GET", ROUTES[1])))["public_key"]
    assert key == KEY.public  # not the one in the settings, which made none of these
