"""AWS Lambda on this machine: a packaged zip under the real runtime client, and an API Gateway in front of it.

`Function` serves the Runtime API (docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html) to one `awslambdaric` process and
hands it one event at a time, as Lambda does. `ApiGateway` is an HTTP server that makes REST proxy events of requests by the
deployed template's own paths and binary media types. Both enforce the 6 MB of a synchronous invocation.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import re
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

PAYLOAD_BYTES = 6 * 1024 * 1024
# What API Gateway itself answers when the payload is too large for the function.
TOO_LONG = (413, {"Content-Type": "application/json"}, b'{"message":"Request Too Long"}')
BROKEN = (502, {"Content-Type": "application/json"}, b'{"message":"Internal server error"}')

Answer = tuple[int, dict[str, Any], bytes]


def install_runtime(folder: Path) -> Path:
    """The runtime interface client in a folder of its own: in Lambda it is part of the runtime, not of the package."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--target", str(folder)]
    subprocess.run(
        [*command, "--require-hashes", "-r", str(Path(__file__).with_name("lambda_runtime.txt"))], check=True
    )
    return folder


class Function:
    """One warm Lambda function: an unzipped package, its environment, one invocation at a time."""

    def __init__(
        self, package: Path, runtime: Path, folder: Path, env: Mapping[str, str], handler: str = "app.app"
    ) -> None:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(folder)
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: dict[str, queue.Queue[bytes | None]] = {}
        self._busy = threading.Lock()
        self.largest_event = self.largest_answer = 0
        self._server = _serve(self._handler())
        self.log = folder.with_suffix(".log")
        self._out = self.log.open("wb")
        self._process = subprocess.Popen(
            # -S: nothing of this environment is on the path; -B: the package stays as it was deployed.
            [sys.executable, "-S", "-B", "-m", "awslambdaric", handler],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{folder}:{runtime}",
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
                "AWS_LAMBDA_FUNCTION_NAME": folder.name,
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
                "LAMBDA_TASK_ROOT": str(folder),
                "NO_PROXY": "127.0.0.1",
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._server.shutdown()
        self._server.server_close()
        self._out.close()

    def invoke(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """The function's answer, or None when it failed. Raises `OverflowError` for an event over 6 MB."""
        payload = json.dumps(event).encode()
        if len(payload) > PAYLOAD_BYTES:
            raise OverflowError
        with self._busy:
            request_id = str(uuid.uuid4())
            answer = self._answers[request_id] = queue.Queue()
            self._events.put((request_id, payload))
            found = answer.get(timeout=60)
        self.largest_event = max(self.largest_event, len(payload))
        if found is None or len(found) > PAYLOAD_BYTES:
            return None
        self.largest_answer = max(self.largest_answer, len(found))
        made: dict[str, Any] = json.loads(found)
        return made

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        function = self

        class RuntimeApi(_Quiet):
            def do_GET(self) -> None:  # /2018-06-01/runtime/invocation/next
                request_id, payload = function._events.get()
                headers = {
                    "Content-Type": "application/json",
                    "Lambda-Runtime-Aws-Request-Id": request_id,
                    "Lambda-Runtime-Deadline-Ms": "9999999999999",
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:000000000000:function:depot",
                }
                self.answer(200, headers, payload)

            def do_POST(self) -> None:  # …/{id}/response or …/{id}/error
                request_id, what = self.path.split("/")[-2:]
                body = self.body()
                if waiting := function._answers.pop(request_id, None):
                    waiting.put(body if what == "response" else None)
                self.answer(202, {}, b"")

        return RuntimeApi


class ApiGateway:
    """REST API in front of a function, with stage prefix none. `url` is where clients go."""

    def __init__(self, function: Function, template: Path) -> None:
        body = json.loads(template.read_text())["Resources"]["RestAPI"]["Properties"]["DefinitionBody"]
        self._binary = set(body["x-amazon-apigateway-binary-media-types"])
        self._routes = [
            (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), path, {name.upper() for name in methods})
            for path, methods in body["paths"].items()
        ]
        self._function = function
        self._server = _serve(self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def call(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        parts = urlsplit(target)
        matches = ((pattern.fullmatch(parts.path), resource, methods) for pattern, resource, methods in self._routes)
        match, resource, _ = next((found for found in matches if found[0] and method in found[2]), (None, "", ()))
        if match is None:
            return 403, {"Content-Type": "application/json"}, b'{"message":"Missing Authentication Token"}'
        try:
            answer = self._function.invoke(self._event(method, parts.path, parts.query, resource, match, headers, body))
        except OverflowError:
            return TOO_LONG
        if answer is None:
            return BROKEN
        content = answer["body"].encode()
        made = {**answer.get("headers", {}), **answer.get("multiValueHeaders", {})}
        if answer.get("isBase64Encoded"):
            # API Gateway decodes only for a client that accepts a binary type.
            content = base64.b64decode(content)
        return int(answer["statusCode"]), made, content

    def _event(
        self,
        method: str,
        path: str,
        query: str,
        resource: str,
        match: re.Match[str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> dict[str, Any]:
        kind = {name.lower(): value for name, value in headers.items()}.get("content-type", "").split(";")[0].strip()
        binary = kind in self._binary
        asked = dict(parse_qsl(query, keep_blank_values=True)) or None
        return {
            "resource": resource,
            "path": path,
            "httpMethod": method,
            "headers": dict(headers),
            "multiValueHeaders": {name: [value] for name, value in headers.items()},
            "queryStringParameters": asked,
            "multiValueQueryStringParameters": asked and {name: [value] for name, value in asked.items()},
            "pathParameters": match.groupdict() or None,
            "stageVariables": None,
            "requestContext": {
                "resourcePath": resource,
                "httpMethod": method,
                "path": path,
                "stage": "api",
                "identity": {"sourceIp": "127.0.0.1"},
            },
            # What is no binary type is text to API Gateway, and is damaged unless it is UTF-8.
            "body": (base64.b64encode(body).decode() if binary else body.decode("utf-8", "replace")) if body else None,
            "isBase64Encoded": bool(body) and binary,
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Front(_Quiet):
            def handle_any(self) -> None:
                status, headers, content = gateway.call(
                    self.command, self.path, dict(self.headers.items()), self.body()
                )
                self.answer(status, headers, content)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_OPTIONS = handle_any

        return Front


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, headers: Mapping[str, Any], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() == "content-length" and self.command != "HEAD":
                continue
            for each in value if isinstance(value, list) else [value]:
                self.send_header(name, each)
        if "content-length" not in {name.lower() for name in headers} or self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: a test's output is its own."""


def _serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
