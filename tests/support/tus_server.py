"""A web tier in one object, for fault tests of its clients: sign-in, tus, files by range; in memory, on loopback.

    with TusServer() as server:
        server.plan("PATCH", Cut(1000), Answer(503, "storage_unavailable"))

Each request of a method takes the next step of that method's plan; without one it is served as it should be. It keeps what
it was sent (`requests`, `received`), so that a test can count.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """Refuse: read the body, take nothing of it, answer this."""

    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """Break the connection after `count` bytes of the body (PATCH) or of the content (GET)."""

    count: int


@dataclass(frozen=True)
class LoseAnswer:
    """Do it all, then break the connection instead of answering."""


@dataclass(frozen=True)
class Then:
    """Call something first, then serve."""

    call: Callable[[], None]


@dataclass(frozen=True)
class Hold:
    """Take `count` bytes of a PATCH, set `reached`, take no more until `release` is set, then break the connection."""

    count: int
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


Step = Answer | Cut | LoseAnswer | Then | Hold


@dataclass
class Upload:
    """One upload of the server's."""

    upload_id: str
    size: int
    metadata: dict[str, str]
    partial: bool
    data: bytearray = field(default_factory=bytearray)
    file_id: str = ""
    writing: bool = False


class TusServer:
    """The server. `tokens` are those that are valid now; `max_chunk_bytes` is enforced as API Gateway does."""

    def __init__(self, *, max_chunk_bytes: int | None = None, config: bool = True, gives_sha256: bool = True) -> None:
        self.max_chunk_bytes, self.config, self.gives_sha256 = max_chunk_bytes, config, gives_sha256
        self.username, self.password = "manager", "correct horse"
        self.tokens: set[str] = set()
        self.uploads: dict[str, Upload] = {}
        self.keys: dict[str, str] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.received = 0  # bytes of PATCH bodies that arrived, also those that were not kept
        self.lock = threading.RLock()
        self._plans: dict[str, deque[Step]] = defaultdict(deque)
        outer = self

        class Handler(_Handler):
            server_state = outer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def plan(self, method: str, *steps: Step) -> None:
        """What the next requests of a method meet. Those to `/session` and `/config` take no step."""
        self._plans[method].extend(steps)

    def next_step(self, method: str) -> Step | None:
        with self.lock:
            steps = self._plans[method]
            return steps.popleft() if steps else None

    def add_file(self, content: bytes, filename: str = "patients.csv") -> str:
        """A file that can be downloaded; its id."""
        file_id = uuid.uuid4().hex
        with self.lock:
            self.files[file_id] = (filename, content)
        return file_id

    def forget_uploads(self) -> None:
        with self.lock:
            self.uploads.clear()

    def stored(self) -> list[bytes]:
        with self.lock:
            return [content for _, content in self.files.values()]

    def count(self, method: str, prefix: str = "/") -> int:
        return sum(1 for asked, path, _ in self.requests if asked == method and path.startswith(prefix))

    # --- what a server does ----------------------------------------------------------------------------------

    def finish(self, upload: Upload) -> None:
        if upload.partial or upload.file_id or len(upload.data) < upload.size:
            return
        upload.file_id = self.add_file(bytes(upload.data), upload.metadata["filename"])

    def receipt(self, upload: Upload) -> dict[str, Any] | None:
        if not upload.file_id:
            return None
        digest = hashlib.sha256(upload.data).hexdigest()
        return {
            "file_id": upload.file_id,
            "size": upload.size,
            "sha256": digest if self.gives_sha256 else None,
            "parts_sha256": f"{digest}-1",
            "completed_at": "2024-05-01T12:00:00Z",
            "ledger": "3/17",
            "tracking_id": "0" * 32,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_state: TusServer

    def log_message(self, *_: object) -> None:
        return

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PATCH(self) -> None:
        self._route("PATCH")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    # --- plumbing ----------------------------------------------------------------------------------------------

    def _route(self, method: str) -> None:
        state = self.server_state
        with state.lock:
            state.requests.append((method, self.path, {name.lower(): value for name, value in self.headers.items()}))
        length = int(self.headers.get("Content-Length") or 0)
        if self.path == "/session":
            return self._session(method, self.rfile.read(length))
        if self.path == "/config":
            if not state.config:
                return self._error(404, "not_found")
            return self._json(200, {"transfer": "proxy", "max_chunk_bytes": state.max_chunk_bytes, "part_bytes": 65536})
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in state.tokens:
            self.rfile.read(length)
            return self._error(401, "not_signed_in")
        step = state.next_step(method)
        match step:
            case Answer(status, code, headers):
                self.rfile.read(length)
                return self._error(status, code, headers)
            case Then(call):
                call()
        if self.path.startswith("/uploads"):
            self._uploads(method, length, step)
        else:
            self._files(step)
        return None

    def _break(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        if not code:
            return self._send(status, {"Content-Type": "text/html", **(headers or {})}, b"<html>a proxy's page</html>")
        error = {"code": code, "message": f"Told {code}.", "request_id": "request-1"}
        return self._json(status, {"error": error}, headers)

    def _session(self, method: str, body: bytes) -> None:
        state = self.server_state
        if method == "DELETE":
            state.tokens.discard(self.headers.get("Authorization", "").removeprefix("Bearer "))
            return self._json(200, {"signed_out": True})
        if json.loads(body) != {"username": state.username, "password": state.password}:
            return self._error(401, "bad_credentials")
        token = uuid.uuid4().hex
        state.tokens.add(token)
        return self._json(200, {"token": token}, {"Set-Cookie": f"depot_session={token}"})

    # --- tus -----------------------------------------------------------------------------------------------------

    def _uploads(self, method: str, length: int, step: Step | None) -> None:
        state = self.server_state
        if method != "GET":
            assert self.headers["Tus-Resumable"] == "1.0.0"
        if method == "POST":
            return self._create(step)
        with state.lock:
            upload = state.uploads.get(self.path.removeprefix("/uploads/"))
        if upload is None:
            self.rfile.read(length)
            return self._error(404, "upload_not_found")
        if method == "PATCH":
            return self._patch(upload, length, step)
        if method == "DELETE":
            with state.lock:
                del state.uploads[upload.upload_id]
            return self._send(204, {})
        state.finish(upload)
        if method == "HEAD":
            offset = {"Upload-Offset": str(len(upload.data)), "Upload-Length": str(upload.size)}
            return self._send(200, offset)
        return self._json(200, {"upload_id": upload.upload_id, "receipt": state.receipt(upload)})

    def _create(self, step: Step | None) -> None:
        state = self.server_state
        key, concat = self.headers["Idempotency-Key"], self.headers.get("Upload-Concat", "")
        metadata = {}
        for pair in self.headers["Upload-Metadata"].split(","):
            name, _, value = pair.partition(" ")
            metadata[name] = base64.b64decode(value).decode()
        with state.lock:
            upload = state.uploads.get(state.keys.get(key, ""))
            if upload is None:
                data = bytearray()
                for url in concat.removeprefix("final;").split() if concat.startswith("final;") else ():
                    data += state.uploads[url.removeprefix("/uploads/")].data
                size = len(data) if concat.startswith("final;") else int(self.headers["Upload-Length"])
                upload = Upload(uuid.uuid4().hex, size, metadata, concat == "partial", data)
                state.uploads[upload.upload_id], state.keys[key] = upload, upload.upload_id
            state.finish(upload)
        if isinstance(step, LoseAnswer):
            return self._break()
        offset = {"Upload-Offset": str(len(upload.data))} if upload.data else {}
        return self._send(201, {"Location": f"http://elsewhere.example/uploads/{upload.upload_id}", **offset})

    def _patch(self, upload: Upload, length: int, step: Step | None) -> None:
        state = self.server_state
        assert self.headers["Content-Type"] == "application/offset+octet-stream"
        limit = state.max_chunk_bytes
        if limit is not None and length > limit:
            self.rfile.read(length)
            return self._error(413, "payload_too_large")
        with state.lock:
            refused = upload.writing or int(self.headers["Upload-Offset"]) != len(upload.data)
            upload.writing = not refused
        if refused:
            self.rfile.read(length)
            return self._error(409, "offset_conflict", {"Upload-Offset": str(len(upload.data))})
        try:
            wanted = min(length, step.count) if isinstance(step, (Cut, Hold)) else length
            while wanted:
                block = self.rfile.read1(min(wanted, 1 << 16))  # type: ignore[attr-defined]
                if not block:
                    return self._break()
                with state.lock:
                    upload.data += block
                    state.received += len(block)
                wanted -= len(block)
            if isinstance(step, Hold):
                step.reached.set()
                step.release.wait(60)
        finally:
            upload.writing = False
        if isinstance(step, (Cut, LoseAnswer, Hold)):
            return self._break()
        state.finish(upload)
        return self._send(204, {"Upload-Offset": str(len(upload.data))})

    # --- files -----------------------------------------------------------------------------------------------------

    def _files(self, step: Step | None) -> None:
        state = self.server_state
        file_id = self.path.split("/")[2]
        with state.lock:
            name, content = state.files.get(file_id, ("", None))
        if content is None:
            return self._error(404, "file_not_found")
        digest = hashlib.sha256(content).hexdigest()
        if not self.path.split("?")[0].endswith("/content"):
            sha256 = digest if state.gives_sha256 else None
            return self._json(200, {"filename": name, "size": len(content), "sha256": sha256, "etag": digest})
        start, end, status, headers = 0, len(content), 200, {"ETag": f'"{digest}"'}
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") in (None, headers["ETag"]):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(int(last) + 1, len(content)), 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = content[start:end]
        if state.max_chunk_bytes is not None and len(body) > state.max_chunk_bytes:
            return self._error(413, "response_too_large")
        if isinstance(step, Cut):
            self._send(status, {**headers, "Content-Length": str(len(body))}, body[: step.count])
            return self._break()
        return self._send(status, headers, body)
