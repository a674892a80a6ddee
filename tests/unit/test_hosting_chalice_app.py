"""The app under Lambda: handmade API Gateway REST events, and request state that threads do not share."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from chalice import Blueprint, NotFoundError, Response

from chalicelib import observability
from chalicelib.errors import DigestMismatch
from chalicelib.hosting.chalice_app import DepotApp, StreamResponse, body_reader, json_body
from chalicelib.limits import LAMBDA_CHUNK_BYTES, MIB
from chalicelib.storage.streams import as_reader


def event(method: str, route: str, body: bytes | None = None, **headers: str) -> dict[str, Any]:
    """As API Gateway sends it for an API with binary media types."""
    headers = {"Accept": "*/*", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "resource": route, "path": route, "httpMethod": method, "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None, "multiValueQueryStringParameters": None,
        "pathParameters": None, "stageVariables": None,
        "requestContext": {"resourcePath": route, "httpMethod": method, "identity": {"sourceIp": "192.0.2.1"}},
        "body": None if body is None else base64.b64encode(body).decode(), "isBase64Encoded": body is not None,
    }  # fmt: skip


class Closing:
    def __init__(self, blocks: list[bytes], error: Exception | None = None) -> None:
        self.blocks, self.error, self.closed = blocks, error, 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.blocks
        if self.error:
            raise self.error

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def app() -> DepotApp:
    return DepotApp("unit-test")


def body_of(answer: dict[str, Any]) -> bytes:
    assert answer["isBase64Encoded"] is True
    return base64.b64decode(answer["body"])


@pytest.mark.parametrize("size", [0, 1, LAMBDA_CHUNK_BYTES])
def test_binary_bodies_pass_both_ways_up_to_4_mib(app: DepotApp, size: int) -> None:
    @app.route("/mirror", methods=["POST"])
    def mirror() -> StreamResponse:
        reader, length = as_reader(body_reader(app.current_request))
        data = reader.read()
        assert length == len(data) == size
        return StreamResponse([data[: MIB // 2], data[MIB // 2 :]], {"Content-Type": "application/octet-stream"})

    data = random.Random(size).randbytes(size)
    answer = app(event("POST", "/mirror", data, Content_Type="application/octet-stream"), None)
    assert (answer["statusCode"], body_of(answer) == data) == (200, True)
    assert set(answer) == {"statusCode", "headers", "multiValueHeaders", "body", "isBase64Encoded"}


def test_a_text_body_that_is_not_base64_is_read_too(app: DepotApp) -> None:
    @app.route("/json", methods=["POST"])
    def as_json() -> dict[str, Any]:
        return json_body(app.current_request)

    asked = event("POST", "/json") | {"body": '{"name":"é"}'}
    assert app(asked, None)["body"] == '{"name":"\\u00e9"}'


def test_a_body_that_is_not_base64_although_it_says_so_is_400(app: DepotApp) -> None:
    @app.route("/json", methods=["POST"])
    def as_json() -> dict[str, Any]:
        return json_body(app.current_request)

    assert app(event("POST", "/json") | {"body": "%%%", "isBase64Encoded": True}, None)["statusCode"] == 400


@pytest.mark.parametrize(
    "bad", [r'{"a": "\ud800"}', r'{"\udfff": 1}', '{"a": NaN}', '{"a": -Infinity}', '{"a": [Infinity]}']
)
def test_text_that_nothing_can_encode_and_numbers_that_json_does_not_have_are_400(app: DepotApp, bad: str) -> None:
    @app.route("/json", methods=["POST"])
    def as_json() -> dict[str, Any]:
        return json_body(app.current_request)

    answer = app(event("POST", "/json", bad.encode()), None)
    assert (answer["statusCode"], '"invalid_request"' in answer["body"]) == (400, True)
    good = app(event("POST", "/json", rb'{"a": "\ud83d\ude00 \\ud800"}'), None)
    assert good["statusCode"] == 200


def test_a_stream_over_4_mib_is_refused_and_closed(app: DepotApp) -> None:
    body = Closing([b"x" * MIB] * 5)
    app.route("/big")(lambda: StreamResponse(body))
    answer = app(event("GET", "/big"), None)
    assert (answer["statusCode"], body.closed) == (413, 1)
    assert '"response_too_large"' in answer["body"]


def test_a_stream_that_breaks_is_an_error_and_closed(app: DepotApp) -> None:
    body = Closing([b"x"], DigestMismatch())
    app.route("/broken")(lambda: StreamResponse(body))
    answer = app(event("GET", "/broken"), None)
    assert (answer["statusCode"], body.closed) == (422, 1)


def test_head_closes_the_stream_without_reading_it(app: DepotApp) -> None:
    body = Closing([], AssertionError("read"))
    app.route("/file", methods=["HEAD"])(lambda: StreamResponse(body, {"Content-Length": 5}))
    answer = app(event("HEAD", "/file"), None)
    assert (answer["statusCode"], answer["headers"]["Content-Length"], body.closed) == (200, "5", 1)


def test_a_stream_that_is_replaced_by_an_error_is_closed(app: DepotApp) -> None:
    """Chalice answers 400 to a request that does not accept the binary type of the answer."""
    body = Closing([b"x"])
    app.route("/file")(lambda: StreamResponse(body, {"Content-Type": "application/octet-stream"}))
    answer = app(event("GET", "/file", Accept="text/html"), None)
    assert (answer["statusCode"], body.closed) == (400, 1)
    assert '"invalid_request"' in answer["body"]


def test_the_none_body_is_empty_not_null(app: DepotApp) -> None:
    app.route("/nothing")(lambda: Response(None, status_code=204))
    assert app(event("GET", "/nothing"), None)["body"] == ""


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\0b", "snow \u2603"])
def test_a_header_that_cannot_be_sent_is_an_error(app: DepotApp, value: str) -> None:
    app.route("/header")(lambda: Response("", {"X-Name": value}))
    answer = app(event("GET", "/header"), None)
    assert (answer["statusCode"], "X-Name" in answer["headers"]) == (500, False)


def test_chalices_own_errors_take_our_form(app: DepotApp) -> None:
    def missing() -> None:
        raise NotFoundError("/nas/canary")

    app.route("/missing")(missing)
    answer = app(event("GET", "/missing"), None)
    assert answer["statusCode"] == 404
    assert '{"error":{"code":"not_found"' in answer["body"]
    assert "canary" not in answer["body"]


def test_an_answer_that_cannot_be_serialised_is_500(app: DepotApp) -> None:
    app.route("/set")(lambda: {1, 2})
    answer = app(event("GET", "/set"), None)
    assert (answer["statusCode"], answer["headers"]["Content-Type"]) == (500, "application/json")


def test_an_error_in_middleware_takes_our_form(app: DepotApp) -> None:
    @app.middleware("http")
    def check(request: Any, respond: Any) -> Any:
        raise DigestMismatch

    app.route("/any")(dict)
    assert app(event("GET", "/any"), None)["statusCode"] == 422


def test_debug_does_not_put_tracebacks_into_answers(app: DepotApp) -> None:
    app.debug = True

    def crash() -> None:
        raise ValueError("/nas/canary")

    app.route("/crash")(crash)
    assert "Traceback" not in app(event("GET", "/crash"), None)["body"]


def test_unknown_paths_do_not_grow_the_route_table(app: DepotApp) -> None:
    for number in range(3):
        assert app(event("GET", f"/unknown/{number}"), None)["statusCode"] == 404
    assert dict(app.routes) == {}


@pytest.mark.parametrize("odd", [{}, {"requestContext": {"resourcePath": "/x"}}, {"requestContext": None}])
def test_an_event_that_is_no_request_is_answered(app: DepotApp, odd: dict[str, Any]) -> None:
    app.route("/x")(dict)
    assert app(odd, None)["statusCode"] in (404, 500)


def test_the_request_id_is_at_hand_and_echoed(app: DepotApp) -> None:
    app.route("/id")(lambda: {"id": observability.current_request_id()})
    answer = app(event("GET", "/id", X_Request_ID="abcdefgh"), None)
    assert (answer["body"], answer["headers"]["X-Request-ID"]) == ('{"id":"abcdefgh"}', "abcdefgh")


def test_32_threads_never_see_each_others_requests(app: DepotApp) -> None:
    """In plain chalice nearly every one of them does."""
    blueprint, barrier = Blueprint("blueprint"), threading.Barrier(32)

    @blueprint.route("/who", methods=["POST"])
    def who() -> dict[str, Any]:
        mine = body_reader(blueprint.current_request).read()
        barrier.wait(20)  # all 32 are inside
        request = app.current_request
        return {
            "body": mine.decode(), "app": request.headers["x-who"], "blueprint": blueprint.current_request.headers["x-who"],
            "context": app.lambda_context, "id": observability.current_request_id(),
        }  # fmt: skip

    app.register_blueprint(blueprint)

    def call(number: int) -> bool:
        name = f"caller-{number:04}"
        answer = app(event("POST", "/who", name.encode(), X_Who=name, X_Request_ID=name), name)
        return bool(answer["body"].count(name) == 5)

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(call, range(32 * 20)))


def test_two_apps_in_one_thread_keep_their_own_request(app: DepotApp) -> None:
    other = DepotApp("other")
    other.route("/inner")(dict)

    @app.route("/outer")
    def outer() -> dict[str, str]:
        other(event("GET", "/inner"), None)
        return {"path": app.current_request.path}

    assert app(event("GET", "/outer"), None)["body"] == '{"path":"/outer"}'
