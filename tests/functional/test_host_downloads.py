"""Answers on their way to the client: streamed, bounded, closed in every case, and cut rather than ended when broken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chalicelib.limits import BRIDGE_BUFFER_BYTES, KIB, MIB
from tests.support.host_app import Seen, build
from tests.support.host_client import Wire, ask
from tests.support.host_server import PATIENCE, Running, running

BLOCK = 64 * KIB


@pytest.fixture
def served() -> Iterator[tuple[Running, Seen]]:
    app, seen = build()
    with running(app) as server:
        yield server, seen


def test_a_known_length_is_announced_and_kept(served: tuple[Running, Seen]) -> None:
    server, seen = served
    answer = ask(server.port, "GET", "/download?count=100&known=1")
    assert (answer.headers["content-length"], answer.complete) == (str(100 * BLOCK), True)
    assert answer.body == b"0123456789abcdef" * 4096 * 100
    assert seen.closed.wait(PATIENCE)


def test_an_unknown_length_is_chunked(served: tuple[Running, Seen]) -> None:
    answer = ask(served[0].port, "GET", "/download?count=100")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert (len(answer.body), answer.complete) == (100 * BLOCK, True)


def test_an_unknown_length_is_refused_to_http_1_0(served: tuple[Running, Seen]) -> None:
    """Only closing would end it, and a cut would look the same."""
    server, seen = served
    with Wire(server.port) as wire:
        assert wire.send(b"GET /download HTTP/1.0\r\nHost: a\r\n\r\n").answer().status == 400
    assert seen.closed.wait(PATIENCE)
    with Wire(server.port) as wire:
        answer = wire.send(b"GET /download?known=1 HTTP/1.0\r\nHost: a\r\n\r\n").answer()
        assert (answer.complete, answer.headers["connection"]) == (True, "close")


@pytest.mark.parametrize("query", ["known=1&fail=1&extra=10", "known=1&fail=1", "fail=1"])
def test_a_body_that_breaks_is_cut(served: tuple[Running, Seen], query: str) -> None:
    server, seen = served
    with Wire(server.port) as wire:
        answer = wire.request("GET", f"/download?count=3&{query}")
        # With everything announced already sent, only the end of the connection can show the failure.
        assert answer.complete is (query == "known=1&fail=1")
        assert wire.closed()
    assert seen.closed.wait(PATIENCE)


@pytest.mark.parametrize("extra", [-10, 10])
def test_a_body_of_another_length_than_announced_is_cut(served: tuple[Running, Seen], extra: int) -> None:
    server, seen = served
    with Wire(server.port) as wire:
        answer = wire.request("GET", f"/download?count=3&known=1&extra={extra}")
        assert len(answer.body) <= 3 * BLOCK
        assert not answer.complete
        assert wire.closed()
    assert seen.closed.wait(PATIENCE)


def test_head_gives_the_headers_and_closes_the_body(served: tuple[Running, Seen]) -> None:
    server, seen = served
    with Wire(server.port) as wire:
        answer = wire.request("HEAD", "/download?count=100&known=1")
        assert (answer.headers["content-length"], answer.headers["content-type"]) == (str(100 * BLOCK), "text/csv")
        assert seen.closed.wait(PATIENCE)
        assert seen.given == 0
        assert wire.request("GET", "/echo").status == 200  # nothing was sent in between


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_leaves_closes_the_body(served: tuple[Running, Seen], reset: bool) -> None:
    server, seen = served
    with Wire(server.port) as wire:
        wire.send(b"GET /download?count=100000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert wire.line_block().startswith(b"HTTP/1.1 200")
        if reset:
            wire.reset()
    assert seen.closed.wait(PATIENCE)
    assert seen.given < 100000 * BLOCK


def test_a_slow_client_stops_the_handler(served: tuple[Running, Seen]) -> None:
    """While the client does not read, the handler is asked for no more than the buffers hold."""
    server, seen = served
    count = 2048  # 128 MiB
    with Wire(server.port, receive_buffer=64 * KIB) as wire:
        wire.send(b"GET /download?known=1&count=%d HTTP/1.1\r\nHost: a\r\n\r\n" % count)
        while seen.progress.acquire(timeout=0.5):
            continue
        # Beyond our buffer there is one block in hand, what uvloop was given, and the kernel's buffers.
        assert BRIDGE_BUFFER_BYTES <= seen.given <= BRIDGE_BUFFER_BYTES + 8 * MIB
        answer = wire.answer()
        assert (len(answer.body), answer.complete) == (count * BLOCK, True)


def test_a_client_that_never_reads_is_cut() -> None:
    app, seen = build()
    with running(app, DEPOT_BODY_STALL_SECONDS="0.2") as server, Wire(server.port, receive_buffer=4096) as wire:
        wire.send(b"GET /download?count=2048 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert seen.closed.wait(PATIENCE)
        assert not wire.answer().complete


def test_a_response_that_cannot_be_sent_is_closed_and_is_an_error(served: tuple[Running, Seen]) -> None:
    server, seen = served
    answer = ask(server.port, "GET", "/download-broken-header")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "set-cookie" not in answer.headers
    assert seen.closed.wait(PATIENCE)


def test_downloads_on_one_connection_follow_each_other(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        for number in range(5):
            query = "known=1&" if number % 2 else ""
            answer = wire.request("GET", f"/download?{query}count={number}")
            assert (len(answer.body), answer.complete) == (number * BLOCK, True)
