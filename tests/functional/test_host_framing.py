"""Requests whose framing can be read in two ways are answered 400 and the connection is closed; no handler sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.host_app import Seen, build
from tests.support.host_client import Wire, ask
from tests.support.host_server import Running, running

POST = b"POST /upload HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"

SHAPES = {
    "length and chunked": CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\nhi",
    "a negative length": POST + b"Content-Length: -2\r\n\r\nhi",
    "a signed length": POST + b"Content-Length: +2\r\n\r\nhi",
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\nhi",
    "an empty length": POST + b"Content-Length:\r\n\r\nhi",
    "a length with a space": POST + b"Content-Length: 1 2\r\n\r\nhi",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999\r\n\r\nhi",
    "identity coding": POST + b"Transfer-Encoding: identity\r\n\r\nhi",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked after a control character": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "an empty coding": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "chunked over 1.0": b"POST /upload HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF after the request line": b"POST /upload HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF after a header": b"POST /upload HTTP/1.1\r\nHost: a\nContent-Length: 0\r\n\r\n",
    "bare LF ending the headers": b"POST /upload HTTP/1.1\r\nHost: a\r\n\n",
    "obs-fold": POST + b"X-A: a\r\n b\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "NUL in a value": POST + b"X-A: a\0b\r\n\r\n",
    "CR in a value": POST + b"X-A: a\rb\r\n\r\n",
    "a control character in a name": POST + b"X\x01A: b\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 0\r\n\r\n",
    "space before the first header": b"POST /upload HTTP/1.1\r\n Host: a\r\n\r\n",
    "no Host": b"POST /upload HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two Hosts": POST + b"Host: b\r\n\r\n",
    "HTTP/2.0 in words": b"POST /upload HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /upload\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "an upgrade with a body": POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi",
    "NUL in the address": b"GET /up\0load HTTP/1.1\r\nHost: a\r\n\r\n",
}

BROKEN_BODIES = {
    "LF after a chunk size": b"1\na\r\n0\r\n\r\n",
    "LF after a chunk": b"1\r\na\n0\r\n\r\n",
    "LF after the last chunk": b"1\r\na\r\n0\r\n\n",
    "a negative chunk size": b"1\r\na\r\n-1\r\na\r\n",
    "a prefixed chunk size": b"1\r\na\r\n0x1\r\na\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": b"1\r\na\r\nfffffffffffffffff\r\n",
    "a chunk longer than its size": b"1\r\nab\r\n0\r\n\r\n",
    "LF in a chunk extension": b"1;a\nb\r\na\r\n0\r\n\r\n",
}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Running, Seen]]:
    app, seen = build()
    with running(app, DEPOT_HEADER_TIMEOUT_SECONDS="0.3", DEPOT_BODY_STALL_SECONDS="0.3") as server:
        yield server, seen


@pytest.mark.parametrize("shape", SHAPES)
def test_ambiguous_framing_is_refused_and_the_connection_closed(served: tuple[Running, Seen], shape: str) -> None:
    server, seen = served
    before = seen.calls
    smuggled = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    with Wire(server.port) as wire:
        answer = wire.send(SHAPES[shape] + smuggled).answer()
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert answer.headers["connection"] == "close"
        assert wire.closed()
    assert seen.calls == before


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refused_request_behind_a_good_one_ends_the_connection(served: tuple[Running, Seen], shape: str) -> None:
    server, seen = served
    before = seen.calls
    with Wire(server.port) as wire:
        wire.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n" + SHAPES[shape] + POST + b"Content-Length: 0\r\n\r\n")
        assert wire.answer().json["method"] == "GET"
        assert wire.closed()
    assert seen.calls == before


@pytest.mark.parametrize("shape", BROKEN_BODIES)
def test_a_malformed_chunked_body_is_an_error_to_its_reader(served: tuple[Running, Seen], shape: str) -> None:
    server, seen = served
    with Wire(server.port) as wire:
        answer = wire.send(CHUNKED + b"\r\n" + BROKEN_BODIES[shape]).answer()
        assert answer.status == 400
        assert wire.closed()
    assert not isinstance(seen.outcome(), str)


def test_trailers_never_become_headers(served: tuple[Running, Seen]) -> None:
    server, _ = served
    with Wire(server.port) as wire:
        wire.send(
            b"GET /headers HTTP/1.1\r\nHost: a\r\nX-API-Key: mine\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nX-API-Key: other\r\nX-Role: admin\r\n\r\n"
        )
        headers = wire.answer().json
    assert headers["x-api-key"] == "mine"
    assert "x-role" not in headers


def test_nothing_is_taken_after_connection_close(served: tuple[Running, Seen]) -> None:
    server, seen = served
    before = seen.calls
    with Wire(server.port) as wire:
        wire.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + POST + b"Content-Length: 0\r\n\r\n")
        assert wire.answer().status == 200
        assert wire.closed()
    assert seen.calls == before


def test_an_offered_upgrade_is_declined_and_nothing_after_it_is_read(served: tuple[Running, Seen]) -> None:
    server, seen = served
    before = seen.calls
    with Wire(server.port) as wire:
        wire.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + POST + b"\r\n")
        assert wire.answer().json["method"] == "GET"
        assert wire.closed()
    assert seen.calls == before


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /ec", b"GET /echo HTTP/1.1\r\nHost: a\r\nX-Slow: "])
def test_headers_that_do_not_arrive_in_time_end_the_connection(served: tuple[Running, Seen], sent: bytes) -> None:
    with Wire(served[0].port) as wire:
        wire.send(sent)
        answer = wire.answer()
        assert (answer.status, wire.closed()) == (408 if len(sent) > 2 else 0, True)


def test_headers_that_trickle_do_not_extend_the_time(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        wire.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n")
        wire.socket.settimeout(0.02)
        for _ in range(1000):  # 20 s of a header every 20 ms, were it not ended
            try:
                wire.send(b"X-A: b\r\n")
                if wire.socket.recv(4096).startswith(b"HTTP/1.1 408"):
                    return
            except TimeoutError:
                continue
    pytest.fail("a trickle of headers kept the connection open")


def test_an_empty_line_does_not_keep_an_idle_connection_for_ever(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        assert wire.request("GET", "/echo").status == 200
        wire.send(b"\r\n")
        assert wire.closed()


@pytest.mark.parametrize("size", [65 * 1024, 600 * 1024])
def test_headers_over_the_limit_are_refused(served: tuple[Running, Seen], size: int) -> None:
    answer = ask(served[0].port, "GET", "/echo", X_Long="a" * size)
    assert (answer.status, answer.code) == (431, "headers_too_large")


def test_a_header_without_an_end_is_refused_before_it_ends(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        wire.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nX-Long: ")
        for _ in range(40):
            try:
                wire.send(b"a" * 16384)
            except OSError:  # already refused
                break
        assert wire.answer().status == 431


def test_trailers_without_an_end_are_refused(served: tuple[Running, Seen]) -> None:
    server, seen = served
    with Wire(server.port) as wire:
        wire.send(CHUNKED + b"\r\n1\r\na\r\n")
        wire.send(b"0\r\nX-Long: ")
        for _ in range(40):
            try:
                wire.send(b"a" * 16384)
            except OSError:
                break
        assert wire.answer().status == 400
    assert getattr(seen.outcome(), "code", None) == "invalid_request"


def test_a_request_behind_a_slow_one_may_take_its_time(served: tuple[Running, Seen]) -> None:
    """The header timeout is for the connection's next request, not for the one that is being answered."""
    server, seen = served
    seen.go.clear()
    with Wire(server.port) as wire, Wire(server.port) as late:
        wire.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /echo HT")
        late.send(b"GET /ec")
        assert late.answer().status == 408  # one header timeout has passed
        seen.go.set()
        assert wire.answer().json == {"waited": True}
        assert wire.send(b"TP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
