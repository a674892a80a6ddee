"""A stop lets what is in flight finish, within the drain time, and then fails it cleanly."""

from __future__ import annotations

import hashlib
import signal
import socket
from collections.abc import Iterator

import pytest

from chalicelib.errors import ServerStopping
from chalicelib.hosting.server import listen
from chalicelib.limits import MIB
from tests.support.host_app import build
from tests.support.host_client import Wire, ask
from tests.support.host_process import Process
from tests.support.host_server import PATIENCE, running

UPLOAD = b"POST /upload-first-byte HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def process() -> Iterator[Process]:
    started = Process()
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.communicate()


def refuses(port: int) -> bool:
    """Wait until nothing listens there any more."""
    for _ in range(100_000):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return True
    return False


def test_an_upload_in_flight_finishes_and_the_process_ends_with_0(process: Process) -> None:
    body = b"x" * (4 * MIB)
    with Wire(process.port) as wire, Wire(process.port) as idle:
        assert idle.request("GET", "/echo").status == 200
        wire.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:MIB])
        assert ask(process.port, "GET", "/echo").status == 200
        process.stop()
        assert idle.closed()
        assert refuses(process.port)
        answer = wire.send(body[MIB:]).answer()
        assert answer.json["sha256"] == hashlib.sha256(body).hexdigest()
        assert wire.closed()
    assert process.ended() == 0
    assert b"Traceback" not in process.err


def test_a_download_in_flight_finishes(process: Process) -> None:
    with Wire(process.port, receive_buffer=65536) as wire:
        wire.send(b"GET /download?count=400&known=1 HTTP/1.1\r\nHost: a\r\n\r\n").begun()
        process.stop()
        assert refuses(process.port)
        assert wire.answer().complete
    assert process.ended() == 0


def test_a_second_signal_ends_at_once(process: Process) -> None:
    with Wire(process.port) as wire:
        wire.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        assert ask(process.port, "GET", "/echo").status == 200
        process.stop()
        assert refuses(process.port)
        process.process.send_signal(signal.SIGINT)
        assert process.ended() == 0  # the drain time is 90 s; `ended` waits 30


def test_a_handler_that_never_returns_does_not_keep_the_process() -> None:
    process = Process(DEPOT_DRAIN_SECONDS="0.1")
    with Wire(process.port) as wire:
        wire.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ask(process.port, "GET", "/echo").status == 200
        process.stop()
        assert process.ended() == 0
        assert wire.answer().status == 0


def test_an_upload_that_outlives_the_drain_fails_and_is_told() -> None:
    app, seen = build()
    with running(app, DEPOT_DRAIN_SECONDS="0.2") as server, Wire(server.port) as wire:
        wire.send(UPLOAD % 10 + b"12345")
        assert seen.started.wait(PATIENCE)
        server.stop()
        assert isinstance(seen.outcome(), ServerStopping)
        answer = wire.answer()
        assert (answer.status, answer.code) == (503, "server_stopping")
        assert server.ended()


def test_a_download_that_outlives_the_drain_is_cut() -> None:
    app, seen = build()
    with running(app, DEPOT_DRAIN_SECONDS="0.2") as server, Wire(server.port, receive_buffer=4096) as wire:
        wire.send(b"GET /download?count=2048 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert wire.line_block().startswith(b"HTTP/1.1 200")
        server.stop()
        assert seen.closed.wait(PATIENCE)
        assert server.ended()
        assert wire.closed() is False  # something came, and then the end


def test_a_request_on_an_open_connection_is_refused_while_stopping() -> None:
    app, seen = build()
    with running(app, DEPOT_DRAIN_SECONDS="20") as server, Wire(server.port) as wire:
        wire.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert seen.started.wait(PATIENCE)
        server.stop()
        assert refuses(server.port)
        seen.go.set()
        answer = wire.answer()
        assert (answer.json, answer.headers["connection"]) == ({"waited": True}, "close")
        assert wire.closed()
        assert server.ended()


def test_a_listening_socket_can_be_taken_over() -> None:
    with listen("127.0.0.1", 0) as mine:
        process = Process(fds=(mine.fileno(),), LISTEN_FD=str(mine.fileno()))
        assert process.port == mine.getsockname()[1]
    assert ask(process.port, "GET", "/echo").status == 200
    process.stop()
    assert process.ended() == 0


def test_a_taken_port_is_an_error_at_once() -> None:
    with listen("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", first.getsockname()[1])
