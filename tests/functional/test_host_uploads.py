"""Request bodies on their way to a handler: whole or an error, in bounded memory, and only when they are wanted."""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Iterator

import pytest

from chalicelib.errors import BodyStalled, ClientDisconnected
from chalicelib.limits import BRIDGE_BUFFER_BYTES, MIB
from tests.support.host_app import Seen, build
from tests.support.host_client import Wire, ask
from tests.support.host_server import Running, running

POST = b"POST /upload HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def served() -> Iterator[tuple[Running, Seen]]:
    app, seen = build()
    with running(app) as server:
        yield server, seen
        seen.go.set()


def test_a_body_arrives_whole_with_its_length_known(served: tuple[Running, Seen]) -> None:
    body = random.Random(1).randbytes(3 * MIB + 7)
    answer = ask(served[0].port, "PUT", "/upload", body)
    assert answer.json == {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body), "known": len(body)}


def test_an_empty_body_is_a_clean_end(served: tuple[Running, Seen]) -> None:
    assert ask(served[0].port, "POST", "/upload", b"").json["bytes"] == 0


def test_chunks_of_any_size_arrive_as_they_were_sent(served: tuple[Running, Seen]) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    digest, sent, wire_bytes = hashlib.sha256(), 0, bytearray(CHUNKED)
    for _ in range(400):
        chunk = chance.randbytes(chance.choice([1, 2, 15, 16, 17, 255, 4095, 4096, 65535, 65537, 100_003]))
        digest.update(chunk)
        sent += len(chunk)
        wire_bytes += b"%X%s\r\n" % (len(chunk), chance.choice([b"", b";ext=1"])) + chunk + b"\r\n"
    wire_bytes += b"0\r\n\r\n"
    with Wire(served[0].port) as wire:
        at = 0
        while at < len(wire_bytes):
            step = chance.choice([1, 3, 1000, 70_000, 1_000_000])
            wire.send(bytes(wire_bytes[at : at + step]))
            at += step
        assert wire.answer().json == {"sha256": digest.hexdigest(), "bytes": sent, "known": None}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "cut",
    [
        POST + b"Content-Length: 10\r\n\r\n" + b"123456789",
        POST + b"Content-Length: 3000000\r\n\r\n" + b"x" * 2999999,
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED + b"5\r\nhello\r\n0",
        CHUNKED + b"5\r\nhell",
    ],
    ids=["length", "length at 3 MB", "between chunks", "before the last CRLF", "in the last size", "in a chunk"],
)
def test_a_body_cut_in_the_middle_is_never_a_clean_end(served: tuple[Running, Seen], cut: bytes, reset: bool) -> None:
    server, seen = served
    with Wire(server.port) as wire:
        wire.send(cut.replace(b"/upload", b"/upload-first-byte"))
        # Only once the handler reads: otherwise the cut may be known before there is anyone to be told.
        assert seen.started.wait(10)
        if reset:
            wire.reset()
    assert isinstance(seen.outcome(), ClientDisconnected)


def test_a_stalled_body_is_an_error_and_is_answered() -> None:
    app, seen = build()
    with running(app, DEPOT_BODY_STALL_SECONDS="0.2") as server, Wire(server.port) as wire:
        answer = wire.send(POST + b"Content-Length: 10\r\n\r\n123").answer()
        assert (answer.status, answer.code) == (408, "body_stalled")
        assert isinstance(seen.outcome(), BodyStalled)


def test_a_slow_body_that_keeps_moving_is_no_stall() -> None:
    app, _ = build()
    with running(app, DEPOT_BODY_STALL_SECONDS="1") as server, Wire(server.port) as wire:
        wire.send(POST + b"Content-Length: 3\r\n\r\n")
        stall = Wire(server.port)
        with stall:
            # Twice as long as a stall takes, measured by one that stalls meanwhile.
            stall.send(POST + b"Content-Length: 3\r\n\r\n1")
            wire.send(b"1")
            stall.socket.settimeout(0.6)
            with pytest.raises(TimeoutError):
                stall.socket.recv(1)
            wire.send(b"2")
            stall.socket.settimeout(20)
            assert stall.answer().status == 408
        assert wire.send(b"3").answer().json["bytes"] == 3


def test_a_slow_handler_stops_the_sender(served: tuple[Running, Seen]) -> None:
    """While the handler does not read, the server takes no more than its buffers hold."""
    server, seen = served
    total = 64 * MIB
    with Wire(server.port) as wire:
        wire.send(b"POST /upload-later HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
        assert seen.started.wait(10)
        sent = fill(wire.socket, b"x" * MIB, total)
        # The protocol's read-ahead (1 MiB and one read); the rest is what the kernel holds on both sides.
        assert sent < 24 * MIB
        seen.go.set()
        rest = total - sent
        wire.socket.settimeout(20)
        while rest:
            rest -= wire.socket.send(b"x" * min(MIB, rest))
        assert wire.answer().json["bytes"] == total


def test_a_handler_that_stops_reading_stops_the_sender_within_the_buffer() -> None:
    """The bridge itself: what the server took, counted on its side, is the buffer and the read-ahead."""
    app, seen = build()
    total = 64 * MIB

    @app.route("/one-byte", methods=["POST"])
    def one_byte() -> dict[str, int]:
        from chalicelib.hosting.chalice_app import body_reader

        reader = body_reader(app.current_request)
        count = len(reader.read(1))
        seen.started.set()
        assert seen.go.wait(20)
        while block := reader.read(MIB):
            count += len(block)
        return {"bytes": count}

    with running(app) as server, Wire(server.port) as wire:
        wire.send(b"POST /one-byte HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
        wire.send(b"x")
        assert seen.started.wait(10)
        sent = 1 + fill(wire.socket, b"x" * MIB, total - 1)
        (exchange,) = server.host._active
        assert BRIDGE_BUFFER_BYTES <= exchange._body.received <= BRIDGE_BUFFER_BYTES + 2 * MIB
        seen.go.set()
        wire.socket.settimeout(20)
        while sent < total:
            sent += wire.socket.send(b"x" * min(MIB, total - sent))
        assert wire.answer().json["bytes"] == total


def fill(sock: socket.socket, block: bytes, limit: int) -> int:
    """Send until the other side takes no more for half a second; how much it took."""
    sent = 0
    sock.settimeout(0.5)
    while sent < limit:
        try:
            sent += sock.send(block[: limit - sent])
        except TimeoutError:
            break
    return sent


def test_100_continue_is_sent_when_the_handler_reads(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        wire.send(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert wire.line_block() == b"HTTP/1.1 100 Continue"
        assert wire.send(b"hello").answer().json["bytes"] == 5


def test_100_continue_is_not_sent_where_no_body_follows(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        assert wire.request("GET", "/echo", Expect="100-continue").status == 200


def test_a_refusal_costs_the_sender_no_bytes(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        wire.send(b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_refusal_can_be_read_by_a_sender_that_does_not_look_up(served: tuple[Running, Seen], chunked: bool) -> None:
    """A peer that writes 32 MiB before it reads gets the answer, not a reset."""
    size = 32 * MIB
    framing = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size if chunked else b"Content-Length: %d\r\n\r\n" % size
    with Wire(served[0].port) as wire:
        wire.send(b"POST /conflict HTTP/1.1\r\nHost: a\r\n" + framing)
        for _ in range(32):
            wire.send(b"x" * MIB)
        if chunked:
            wire.send(b"\r\n0\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.code, answer.headers["connection"]) == (409, "file_exists", "close")
        assert wire.closed()


def test_what_is_read_after_a_refusal_is_bounded(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        wire.send(b"POST /conflict HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n")
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            wire.send(bytes(512 * MIB))


def test_a_small_body_that_nobody_reads_keeps_the_connection(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        answer = wire.request("POST", "/refuse", b"x" * 1000)
        assert (answer.status, "connection" in answer.headers) == (401, False)
        assert wire.request("GET", "/echo").status == 200


def test_pipelined_requests_are_answered_in_order(served: tuple[Running, Seen]) -> None:
    with Wire(served[0].port) as wire:
        bodies = [b"%d" % number * number for number in range(20)]
        wire.send(b"".join(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies))
        for body in bodies:
            assert wire.answer().json["sha256"] == hashlib.sha256(body).hexdigest()


def test_many_uploads_at_once_do_not_mix(served: tuple[Running, Seen]) -> None:
    wires = [Wire(served[0].port) for _ in range(8)]
    bodies = [bytes([number]) * (MIB + number) for number in range(8)]
    for wire, body in zip(wires, bodies, strict=True):
        wire.send(POST + b"Content-Length: %d\r\n\r\n" % len(body))
    for half in (slice(None, MIB // 2), slice(MIB // 2, None)):
        for wire, body in zip(wires, bodies, strict=True):
            wire.send(body[half])
    for wire, body in zip(wires, bodies, strict=True):
        with wire:
            assert wire.answer().json["sha256"] == hashlib.sha256(body).hexdigest()


def test_beyond_threads_and_queue_the_answer_is_503() -> None:
    app, seen = build()
    with running(app, threads=1, queue=1) as server, Wire(server.port) as first, Wire(server.port) as second:
        first.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert seen.started.wait(10)
        second.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        # The second waits in the queue; of the following, the first that is refused shows that it is full.
        while (answer := ask_quickly(server.port)) is None:
            continue
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "server_busy", "2")
        seen.go.set()
        assert first.answer().status == 200
        assert second.answer().status == 200


def ask_quickly(port: int):  # type: ignore[no-untyped-def]
    with Wire(port) as wire:
        wire.socket.settimeout(1)
        try:
            return wire.request("GET", "/echo")
        except TimeoutError:
            return None
