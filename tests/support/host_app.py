"""The handlers that the host's tests call, and what they saw."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from chalicelib.errors import DepotError, FileExists, NotSignedIn, TooManyRequests
from chalicelib.hosting.chalice_app import DepotApp, StreamResponse, body_reader, json_body
from chalicelib.limits import MIB
from tests.support.host_server import PATIENCE

MARK: ContextVar[str] = ContextVar("mark", default="nothing")


class Blocks:
    """A download of `count` blocks that counts what is asked of it; raises `error` after the last if given."""

    def __init__(self, seen: Seen, count: int, block: bytes, error: Exception | None = None) -> None:
        self.seen, self.count, self.block, self.error = seen, count, block, error

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.count):
            self.seen.given += len(self.block)
            self.seen.progress.release()
            yield self.block
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.seen.closed.set()


@dataclass
class Seen:
    """`outcomes` gets, for every upload, its SHA-256 when it read to a clean end, or the error that ended it."""

    outcomes: queue.Queue[str | DepotError] = field(default_factory=queue.Queue)
    started: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    progress: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    given: int = 0
    calls: int = 0

    def outcome(self) -> str | DepotError:
        return self.outcomes.get(timeout=PATIENCE)


def build() -> tuple[DepotApp, Seen]:
    app, seen = DepotApp("host-test"), Seen()
    methods = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]

    @app.route("/upload", methods=["POST", "PUT", "PATCH"])
    def upload() -> dict[str, Any]:
        seen.calls += 1
        reader = body_reader(app.current_request)
        digest, count = hashlib.sha256(), 0
        try:
            while block := reader.read(MIB):
                digest.update(block)
                count += len(block)
        except DepotError as error:
            seen.outcomes.put(error)
            raise
        seen.outcomes.put(digest.hexdigest())
        known = len(reader) if hasattr(reader, "__len__") else None  # type: ignore[arg-type]
        return {"sha256": digest.hexdigest(), "bytes": count, "known": known}

    @app.route("/upload-later", methods=["POST"])
    def upload_later() -> dict[str, Any]:
        seen.started.set()
        assert seen.go.wait(PATIENCE)
        answer: dict[str, Any] = upload()
        return answer

    @app.route("/upload-first-byte", methods=["POST"])
    def upload_first_byte() -> dict[str, Any]:
        """Reads one byte, tells the test, then reads the rest."""
        body_reader(app.current_request).read(1)
        seen.started.set()
        answer: dict[str, Any] = upload()
        return answer

    @app.route("/refuse", methods=["POST", "GET"])
    def refuse() -> None:
        raise NotSignedIn

    @app.route("/conflict", methods=["POST"])
    def conflict() -> None:
        raise FileExists

    @app.route("/busy")
    def busy() -> None:
        raise TooManyRequests

    @app.route("/crash")
    def crash() -> None:
        raise FileNotFoundError(2, "No such file", "/nas/secret-canary.csv")

    @app.route("/wait")
    def wait() -> dict[str, bool]:
        seen.started.set()
        assert seen.go.wait(3 * PATIENCE)  # longer than a test waits for a process to end
        return {"waited": True}

    @app.route("/echo", methods=methods)
    def echo() -> dict[str, Any]:
        request = app.current_request
        return {
            "method": request.method,
            "query": {n: request.query_params.getlist(n) for n in request.query_params or {}},
        }

    @app.route("/json", methods=["POST"])
    def as_json() -> dict[str, Any]:
        return json_body(app.current_request)

    @app.route("/files/{file_id}/content")
    def content(file_id: str) -> dict[str, str]:
        return {"file_id": file_id}

    @app.route("/files/mine/content")
    def mine() -> dict[str, bool]:
        return {"mine": True}

    @app.route("/headers")
    def headers() -> dict[str, str]:
        return dict(app.current_request.headers)

    @app.route("/download", methods=["GET", "HEAD"])
    def download() -> StreamResponse:
        """`?count=` blocks of 64 KiB; `known` announces the length, `extra` lies about it, `fail` raises at the end."""
        query = app.current_request.query_params or {}
        count, block = int(query.get("count", "1")), b"0123456789abcdef" * 4096
        error = RuntimeError("/nas/secret-canary.csv") if "fail" in query else None
        answer: dict[str, str | int] = {"Content-Type": "text/csv"}
        if "known" in query:
            answer["Content-Length"] = count * len(block) + int(query.get("extra", "0"))
        return StreamResponse(Blocks(seen, count, block, error), answer)

    @app.route("/binary")
    def binary() -> StreamResponse:
        return StreamResponse([b"\x00\xff"], {"Content-Type": "application/octet-stream", "Transfer-Encoding": "gzip"})

    @app.route("/mark")
    def mark() -> dict[str, str]:
        """What an earlier request on this thread left behind; then leaves its own mark."""
        before = MARK.get()
        MARK.set(app.current_request.headers["x-mark"])
        return {"before": before}

    @app.route("/download-broken-header")
    def broken_header() -> StreamResponse:
        return StreamResponse(Blocks(seen, 1, b"x"), {"X-Bad": "a\r\nSet-Cookie: b"})

    return app, seen
