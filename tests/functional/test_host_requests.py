"""What handlers see of a request, and the one form of every answer that is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.host_app import Seen, build
from tests.support.host_client import Wire, ask
from tests.support.host_process import Process
from tests.support.host_server import Running, running


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Running, Seen]]:
    app, seen = build()
    with running(app) as server:
        yield server, seen


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_reaches_one_path(served: tuple[Running, Seen], method: str) -> None:
    answer = ask(served[0].port, method, "/echo", None if method in ("GET", "HEAD") else b"x")
    assert answer.status == 200
    assert method == "HEAD" or answer.json["method"] == method


@pytest.mark.parametrize(
    "kind", [None, "text/csv", "application/offset+octet-stream", "multipart/form-data; boundary=x"]
)
def test_a_body_of_any_content_type_is_taken(served: tuple[Running, Seen], kind: str | None) -> None:
    headers = {"Content_Type": kind} if kind else {}
    assert ask(served[0].port, "POST", "/upload", b"x", **headers).status == 200


def test_parameters_are_decoded_once_and_stay_one_segment(served: tuple[Running, Seen]) -> None:
    answer = ask(served[0].port, "GET", "/files/a%2Fb%252F%C3%A9/content")
    assert answer.json == {"file_id": "a/b%2Fé"}


def test_a_fixed_segment_is_preferred_to_a_parameter(served: tuple[Running, Seen]) -> None:
    assert ask(served[0].port, "GET", "/files/mine/content").json == {"mine": True}


def test_repeated_query_fields_are_all_seen(served: tuple[Running, Seen]) -> None:
    answer = ask(served[0].port, "GET", "/echo?a=1&a=2&b=&c=x%20y+z%2B")
    assert answer.json["query"] == {"a": ["1", "2"], "b": [""], "c": ["x y z+"]}


def test_a_repeated_header_is_neither_the_first_nor_the_last(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        wire.send(
            b"GET /headers HTTP/1.1\r\nHost: a\r\nX-API-Key: good\r\nX-API-Key: bad\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"
        )
        headers = wire.answer().json
    assert (headers["x-api-key"], headers["cookie"]) == ("good, bad", "a=1; b=2")


@pytest.mark.parametrize("target", ["/echo?a=%FF", "/files/%FF/content", "/echo?" + "a&" * 300])
def test_what_is_not_utf8_or_endless_is_400(served: tuple[Running, Seen], target: str) -> None:
    assert ask(served[0].port, "GET", target).status == 400


@pytest.mark.parametrize(
    "target", ["/nothing", "/files//content", "/files/x", "//echo", "/echo/", "/files/x/content/y", "*"]
)
def test_an_unknown_address_is_404_in_our_form(served: tuple[Running, Seen], target: str) -> None:
    answer = ask(served[0].port, "GET", target)
    assert (answer.status, set(answer.json["error"])) == (404, {"code", "message", "request_id"})
    assert answer.json["error"]["request_id"] == answer.headers["x-request-id"]


def test_an_unsupported_method_names_those_that_are(served: tuple[Running, Seen]) -> None:
    answer = ask(served[0].port, "DELETE", "/upload")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST, PUT, PATCH"


def test_401_says_how_to_sign_in(served: tuple[Running, Seen]) -> None:
    answer = ask(served[0].port, "GET", "/refuse")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_429_says_when_to_come_back(served: tuple[Running, Seen]) -> None:
    answer = ask(served[0].port, "GET", "/busy")
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "too_many_requests", "2")


@pytest.mark.parametrize(
    ("given", "kept"), [("abcd-1234_X", True), ("short", False), ("a" * 65, False), ("a b c d e f", False)]
)
def test_the_request_id_is_the_callers_where_it_has_the_form_of_one(
    served: tuple[Running, Seen], given: str, kept: bool
) -> None:
    answer = ask(served[0].port, "GET", "/refuse", X_Request_ID=given)
    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.json["error"]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{}", 200),
        (b"[]", 400),
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 60000, 400),
        (b'"' + b"x" * 65536, 413),
    ],
)
def test_a_json_body_is_an_object_of_bounded_size(served: tuple[Running, Seen], body: bytes, status: int) -> None:
    assert ask(served[0].port, "POST", "/json", body).status == status


def test_what_one_request_leaves_in_its_context_is_not_seen_by_the_next() -> None:
    app, _ = build()
    with running(app, threads=1) as server:
        answers = [ask(server.port, "GET", "/mark", X_Mark=mark).json for mark in ("one", "two")]
    assert answers == [{"before": "nothing"}] * 2


def test_a_binary_answer_goes_to_whoever_asked_and_its_framing_is_the_hosts(served: tuple[Running, Seen]) -> None:
    """Chalice refuses it without a matching Accept."""
    answer = ask(served[0].port, "GET", "/binary", Accept="text/html")
    assert (answer.status, answer.body, answer.complete) == (200, b"\x00\xff", True)


def test_no_canary_reaches_an_answer_or_a_log() -> None:
    """Names in paths, queries, headers, bodies and foreign exceptions; downloads that break after they began."""
    process = Process()
    try:
        crash = ask(process.port, "GET", "/crash")
        assert (crash.status, crash.code) == (500, "internal_error")
        assert b"canary" not in crash.body
        assert ask(process.port, "GET", "/download?fail=1").complete is False
        with Wire(process.port) as wire:
            wire.request("GET", "/files/canary-1/content?name=canary-2", X_Name="canary-3", Authorization="canary-4")
            wire.request("GET", "/canary-5/canary-6")
            wire.request("POST", "/json", b'{"canary-7": "canary-8')
            wire.send(b"GET /canary-9 HTTP/1.1\r\nHost: canary-10\r\nX canary: 11\r\n\r\n").answer()
    finally:
        process.stop()
        assert process.ended() == 0
    assert b"canary" not in process.err
    assert b"canary" not in process.out
    lines = [json.loads(line) for line in process.err.splitlines()]
    errors = [line for line in lines if line["message"] in ("unhandled_error",)]
    assert [line["error_type"] for line in errors] == ["FileNotFoundError", "RuntimeError"]
    assert all("tests.support.host_app" in line["raised_at"] for line in errors)
    access = [line for line in lines if line["message"] == "request"]
    assert [(line["route"], line["status"]) for line in access] == [
        ("/crash", 500), ("/download", 200), ("/files/{file_id}/content", 200), ("-", 404), ("/json", 400), ("-", 400),
    ]  # fmt: skip


def test_an_access_line_counts_the_bytes_both_ways() -> None:
    process = Process()
    try:
        upload = ask(process.port, "POST", "/upload", b"x" * 12345)
        ask(process.port, "GET", "/download?count=3")
    finally:
        process.stop()
        assert process.ended() == 0
    lines = [line for line in map(json.loads, process.err.splitlines()) if line["message"] == "request"]
    assert (lines[0]["bytes_in"], lines[0]["bytes_out"]) == (12345, len(upload.body))
    assert (lines[1]["bytes_in"], lines[1]["bytes_out"]) == (0, 3 * 65536)
    assert set(lines[0]) == {
        "level", "message", "timestamp", "service", "request_id", "method", "route", "status", "error_code",
        "bytes_in", "bytes_out", "duration_ms",
    }  # fmt: skip
