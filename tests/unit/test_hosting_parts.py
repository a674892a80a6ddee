"""The host's small parts by themselves: routes, framing, the pool, the two pipes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from chalicelib.errors import (
    BodyStalled,
    ClientDisconnected,
    InvalidPath,
    InvalidRequest,
    ServerStopping,
    TruncatedBody,
)
from chalicelib.hosting.bridge import BodyPipe, BodyReader, PeerGone, ResponsePipe, SizedBodyReader
from chalicelib.hosting.events import streamed_answer, whole_answer
from chalicelib.hosting.framing import Framing, check
from chalicelib.hosting.pool import WorkerPool
from chalicelib.hosting.router import Router
from chalicelib.limits import BRIDGE_BUFFER_BYTES, KIB
from chalicelib.storage.streams import as_reader

HOST = (b"host", b"a")


# --- routes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/", ("/", {})),
        (b"/a", ("/a", {})),
        (b"/%61", ("/a", {})),
        (b"/a/x", ("/a/{id}", {"id": "x"})),
        (b"/a/b", ("/a/b", {})),
        (b"/a/b/c", ("/a/{id}/c", {"id": "b"})),
        (b"/a/b/d", None),
        (b"/a/", None),
        (b"", None),
        (b"a", None),
    ],
)
def test_a_path_finds_its_template(path: bytes, found: object) -> None:
    assert Router(["/", "/a", "/a/{id}", "/a/b", "/a/{id}/c"]).match(path) == found


def test_templates_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="parameter names"):
        Router(["/a/{x}", "/a/{y}"])
    with pytest.raises(ValueError, match="greedy"):
        Router(["/a/{proxy+}"])


def test_a_path_that_is_not_utf8_is_invalid() -> None:
    with pytest.raises(InvalidPath):
        Router(["/{a}"]).match(b"/%c3")


# --- framing (what the parser lets through; the shapes it refuses are in the functional tests) -----------------


def test_framing_tells_how_the_body_comes() -> None:
    assert check("POST", "1.1", [HOST, (b"content-length", b"7")]) == Framing(7, False)
    assert check("POST", "1.1", [HOST, (b"transfer-encoding", b"Chunked")]) == Framing(None, True)
    assert check("GET", "1.0", []) == Framing(None, False)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"-1")],
        [(b"content-length", "²".encode("latin-1"))],
        [(b"content-length", b"9" * 19)],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [HOST],
    ],
)
def test_framing_refuses_what_a_lenient_parser_would_pass(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(InvalidRequest):
        check("POST", "1.1", [HOST, *headers])


# --- answers ------------------------------------------------------------------------------------------------


def test_a_handler_does_not_frame_its_answer() -> None:
    answer = {
        "statusCode": 200, "body": "abc",
        "headers": {"Transfer-Encoding": "gzip", "Connection": "keep-alive", "Content-Length": "99", "X-A": "b"},
        "multiValueHeaders": {"Set-Cookie": ["c=1", "d=2"]},
    }  # fmt: skip
    assert sorted(whole_answer(answer, head=False).headers) == [
        (b"content-length", b"3"), (b"content-type", b"application/json"), (b"set-cookie", b"c=1"),
        (b"set-cookie", b"d=2"), (b"x-a", b"b"),
    ]  # fmt: skip
    assert dict(streamed_answer(answer, head=False).headers).keys() == {b"content-length", b"x-a", b"set-cookie"}


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_announces_none(status: int) -> None:
    made = streamed_answer({"statusCode": status, "body": None, "headers": {"Content-Length": "5"}}, head=False)
    assert (made.headers, made.body) == ([], b"")


# --- the pool -------------------------------------------------------------------------------------------------


def test_the_pool_takes_size_plus_queue_and_no_more() -> None:
    pool, go, done = WorkerPool(2, 3), threading.Event(), threading.Semaphore(0)

    def job() -> None:
        go.wait(10)
        done.release()

    assert [pool.try_submit(job) for _ in range(7)] == [True] * 5 + [False] * 2
    go.set()
    assert all(done.acquire(timeout=10) for _ in range(5))
    pool.close()
    assert not pool.try_submit(job)


def test_a_job_that_fails_does_not_take_its_thread_along() -> None:
    pool, done = WorkerPool(1, 1), threading.Event()

    def fail() -> None:
        raise RuntimeError

    assert pool.try_submit(fail)
    while not pool.try_submit(done.set):
        continue
    assert done.wait(10)


# --- the pipes ------------------------------------------------------------------------------------------------


async def pump(pipe: BodyPipe, blocks: list[bytes]) -> None:
    for block in blocks:
        if pipe.feed(block):
            await pipe.room()
    pipe.finish()


def test_a_body_pipe_gives_what_was_fed_in_any_sizes() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    blocks = [chance.randbytes(chance.choice([1, 100, 70 * KIB, 300 * KIB, 1500 * KIB])) for _ in range(60)]

    def read(pipe: BodyPipe) -> bytes:
        parts = []
        while part := pipe.read(size := chance.choice([1, 1000, 64 * KIB, 4096 * KIB])):
            assert len(part) <= size
            parts.append(part)
        return b"".join(parts)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        pipe = BodyPipe(loop, None, 10, lambda: None)
        with ThreadPoolExecutor(1) as pool:
            reading = loop.run_in_executor(pool, read, pipe)
            await pump(pipe, blocks)
            return await reading

    assert asyncio.run(main()) == b"".join(blocks)


def with_pipe(act: Callable[[BodyPipe], None], length: int | None = None, stall: float = 10) -> BodyPipe:
    """A pipe on whose loop side `act` has run; reading from it here needs no loop."""

    async def main() -> BodyPipe:
        pipe = BodyPipe(asyncio.get_running_loop(), length, stall, lambda: None)
        act(pipe)
        pipe._asked = True
        return pipe

    return asyncio.run(main())


@pytest.mark.parametrize("error", [ClientDisconnected, ServerStopping])
def test_what_arrived_before_a_failure_is_given_first_and_then_the_failure_for_ever(error: type[Exception]) -> None:
    def act(pipe: BodyPipe) -> None:
        pipe.feed(b"abc")
        pipe.fail(error)  # type: ignore[arg-type]

    pipe = with_pipe(act)
    assert pipe.read(10) == b"abc"
    for _ in range(2):
        with pytest.raises(error):
            pipe.read(10)


def test_a_failure_after_the_end_changes_nothing() -> None:
    def act(pipe: BodyPipe) -> None:
        pipe.finish()
        pipe.fail(ClientDisconnected)

    assert with_pipe(act).read(10) == b""


def test_an_end_before_the_announced_length_is_truncation() -> None:
    def act(pipe: BodyPipe) -> None:
        pipe.feed(b"abc")
        pipe.finish()

    pipe = with_pipe(act, length=4)
    assert pipe.read(10) == b"abc"
    with pytest.raises(TruncatedBody):
        pipe.read(10)


def test_a_stall_is_told_again_and_again() -> None:
    pipe = with_pipe(lambda pipe: None, stall=0.01)
    for _ in range(2):
        with pytest.raises(BodyStalled):
            pipe.read(1)


def test_a_full_pipe_says_so_and_has_room_again_when_half_is_read() -> None:
    async def main() -> None:
        pipe = BodyPipe(asyncio.get_running_loop(), None, 10, lambda: None)
        block = bytes(BRIDGE_BUFFER_BYTES // 4)
        assert [pipe.feed(block) for _ in range(4)] == [False, False, False, True]
        waiting = asyncio.ensure_future(pipe.room())
        await asyncio.to_thread(pipe.read, len(block))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(pipe.read, len(block))
        await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


def test_only_a_reader_of_known_length_has_one() -> None:
    pipe = with_pipe(lambda pipe: None)
    assert as_reader(BodyReader(pipe))[1] is None
    assert as_reader(SizedBodyReader(pipe, 7))[1] == 7


def test_a_response_pipe_blocks_when_full_and_raises_when_abandoned() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        pipe, put = ResponsePipe(loop), []
        full = threading.Semaphore(0)

        def fill() -> None:
            try:
                while True:
                    pipe.put(bytes(256 * KIB))
                    put.append(1)
                    full.release()
            except PeerGone:
                return

        with ThreadPoolExecutor(1) as pool:
            filling = loop.run_in_executor(pool, fill)
            for _ in range(BRIDGE_BUFFER_BYTES // (256 * KIB)):
                await asyncio.to_thread(full.acquire)
            assert not await asyncio.to_thread(full.acquire, timeout=0.2)
            pipe.abandon()
            await filling
        assert await pipe.take() is None
        assert not pipe.complete
        return len(put)

    assert asyncio.run(main()) == BRIDGE_BUFFER_BYTES // (256 * KIB)
