"""Pages and static files through Chalice as Lambda calls it, without the streaming host; and what they weigh."""

from __future__ import annotations

import base64
import gzip
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chalicelib.limits import LAMBDA_CHUNK_BYTES
from chalicelib.web.pages import assets
from tests.support.lambda_events import content, event

Answer = dict[str, Any]
STATIC = "/static/{version}/{name}"
TYPES = {
    "depot.css": "text/css; charset=utf-8",
    "depot.js": "text/javascript; charset=utf-8",
    "depot.svg": "image/svg+xml",
}
# All scripts together, compressed: the ceiling of the requirements. What npm builds counts in tests/browser/test_weight.py.
MAX_SCRIPT_BYTES = 300 * 1000


@pytest.fixture(scope="module")
def call() -> Iterator[Callable[..., Answer]]:
    """app.py of the web role, which needs no settings for what this file asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVER_ROLE", "web")
        patch.delitem(sys.modules, "app", raising=False)
        app = importlib.import_module("app").app
        yield lambda *about, **more: app(event(*about, **more), None)
        sys.modules.pop("app", None)


def static(call: Callable[..., Answer], name: str, method: str = "GET", version: str = "", **headers: str) -> Answer:
    path = {"name": name, "version": version or assets.assets()[name].version}
    return call(method, STATIC, path=path, headers=headers)


@pytest.mark.parametrize("name", TYPES)
def test_a_static_file_is_whole_typed_and_kept_for_ever(call: Callable[..., Answer], name: str) -> None:
    answer = static(call, name)
    assert answer["statusCode"] == 200
    assert answer["isBase64Encoded"] is True
    assert content(answer) == (assets.FOLDER / name).read_bytes()
    headers = answer["headers"]
    assert headers["Content-Type"] == TYPES[name]
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert headers["ETag"] == f'"{assets.assets()[name].version}"'
    assert headers["Vary"] == "Accept-Encoding"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Length"] == str(len(content(answer)))
    assert "Content-Encoding" not in headers


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("accepted", ["gzip", "gzip, deflate, br"])
def test_who_takes_gzip_gets_it_in_base64(call: Callable[..., Answer], name: str, accepted: str) -> None:
    answer = static(call, name, **{"accept-encoding": accepted})
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
    assert answer["headers"]["Content-Encoding"] == "gzip"
    sent = base64.b64decode(answer["body"], validate=True)
    assert answer["headers"]["Content-Length"] == str(len(sent))
    assert gzip.decompress(sent) == (assets.FOLDER / name).read_bytes()


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "gzip; q=0.0, br", "notgzip"])
def test_who_does_not_take_gzip_gets_it_plain(call: Callable[..., Answer], accepted: str) -> None:
    answer = static(call, "depot.css", **{"accept-encoding": accepted})
    assert "Content-Encoding" not in answer["headers"]
    assert content(answer) == (assets.FOLDER / "depot.css").read_bytes()


def test_who_has_it_is_told_so(call: Callable[..., Answer]) -> None:
    etag = static(call, "depot.css")["headers"]["ETag"]
    answer = static(call, "depot.css", **{"if-none-match": f'W/"other", {etag}', "accept-encoding": "gzip"})
    assert (answer["statusCode"], content(answer), answer["headers"]["ETag"]) == (304, b"", etag)
    assert static(call, "depot.css", **{"if-none-match": '"other"'})["statusCode"] == 200


def test_head_says_the_same_and_sends_nothing(call: Callable[..., Answer]) -> None:
    told, head = static(call, "depot.css"), static(call, "depot.css", "HEAD")
    assert (head["statusCode"], content(head)) == (200, b"")
    for name in ("Content-Type", "Content-Length", "Cache-Control", "ETag"):
        assert head["headers"][name] == told["headers"][name]


@pytest.mark.parametrize(
    "name", ["nothing.css", "../app.py", "..%2f..%2fapp.py", "depot", "", "upload.js.LEGAL.txt", "build"]
)
def test_what_is_no_static_file_is_not_there(call: Callable[..., Answer], name: str) -> None:
    answer = call("GET", STATIC, path={"name": name, "version": assets.assets()["depot.css"].version})
    assert answer["statusCode"] == 404
    assert b'"not_found"' in content(answer)
    assert answer["headers"]["Cache-Control"] == "no-store"


def test_another_version_is_not_there_so_nothing_wrong_is_kept_for_ever(call: Callable[..., Answer]) -> None:
    answer = static(call, "depot.css", version="0" * 16)
    assert (answer["statusCode"], answer["headers"]["Cache-Control"]) == (404, "no-store")


@pytest.mark.parametrize(("route", "says"), [("/app/sign-in", "Sign in"), ("/docs", "The API")])
def test_a_page_is_text_that_no_cache_keeps(call: Callable[..., Answer], route: str, says: str) -> None:
    answer = call("GET", route)
    assert (answer["statusCode"], answer.get("isBase64Encoded", False)) == (200, False)
    assert answer["headers"]["Content-Type"] == "text/html; charset=utf-8"
    assert answer["headers"]["Cache-Control"] == "no-store"
    assert says in answer["body"]
    assert len(content(answer)) < LAMBDA_CHUNK_BYTES // 4
    for version, name in re.findall(r'"/static/([0-9a-f]+)/([^"]+)"', answer["body"]):
        assert static(call, name, version=version)["statusCode"] == 200
    assert "/static/" in answer["body"]


def test_what_the_pages_load_is_small(call: Callable[..., Answer]) -> None:
    """What is in the folder now, which is with the built part where somebody has built it."""
    found = assets.assets()
    scripts = {name: len(one.packed) for name, one in found.items() if name.endswith(".js")}
    print(scripts, {name: len(one.packed) for name, one in found.items()})
    assert "depot.js" in scripts
    assert sum(scripts.values()) < MAX_SCRIPT_BYTES
    for one in found.values():
        assert len(one.content) < LAMBDA_CHUNK_BYTES, "an answer of Lambda's"
        assert gzip.decompress(one.packed) == one.content
