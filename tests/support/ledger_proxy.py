"""A loopback HTTP proxy in front of DynamoDB that counts calls and fails on order, before or after the commit.

with DynamoProxy(upstream) as proxy:
    proxy.faults.append(drop_reply("TransactWriteItems"))
"""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `target` is the operation's name."""

    target: str
    body: dict[str, Any]


@dataclass(slots=True)
class Fault:
    """Applies `times` times to calls of `target` (None: every call): what to do instead of answering truthfully."""

    target: str | None
    times: float
    commit: bool  # whether the request reaches the store
    answer: dict[str, Any] | None  # None: the connection breaks
    silent: bool = False  # rather than breaking, says nothing until the client has had enough

    def takes(self, call: Call) -> bool:
        if self.times <= 0 or self.target not in (None, call.target):
            return False
        self.times -= 1
        return True


def drop_reply(target: str, times: float = 1) -> Fault:
    """The store commits, the answer never comes."""
    return Fault(target, times, commit=True, answer=None)


def time_out(target: str, times: float = 1) -> Fault:
    """The store commits, and the client waits in vain for as long as it will."""
    return Fault(target, times, commit=True, answer=None, silent=True)


def drop_request(target: str, times: float = 1) -> Fault:
    return Fault(target, times, commit=False, answer=None)


def throttle(target: str, times: float = 1) -> Fault:
    body = {"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException", "message": "slow down"}
    return Fault(target, times, commit=False, answer=body)


def deny(target: str) -> Fault:
    body = {"__type": "com.amazonaws.dynamodb.v20120810#AccessDeniedException", "message": "no"}
    return Fault(target, float("inf"), commit=False, answer=body)


def cancel(code: str, items: int = 2, times: float = 1) -> Fault:
    """The transaction is cancelled with this reason for its first item, such as TransactionConflict."""
    reasons = [{"Code": code, "Message": "x"}] + [{"Code": "None"}] * (items - 1)
    body = {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "message": "Transaction cancelled",
        "CancellationReasons": reasons,
    }
    return Fault("TransactWriteItems", times, commit=False, answer=body)


class DynamoProxy:
    """`url` to use as endpoint, `calls` in order, `count()` by operation.

    What goes wrong: `faults` that are still to come, else what `choose` says. `before` sees each call before it is sent
    on. `forget_tokens` makes the store ignore ClientRequestToken, as moto does; `hide_items` makes it show no items with a
    refusal, as older emulators do.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.calls: list[Call] = []
        self.reset()
        self.lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def reset(self) -> None:
        """No more faults."""
        self.faults: list[Fault] = []
        self.before: Callable[[Call], None] = lambda call: None
        self.choose: Callable[[Call], Fault | None] = lambda call: None
        self.forget_tokens = self.hide_items = False

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def count(self) -> Counter[str]:
        with self.lock:
            return Counter(call.target for call in self.calls)

    def forget(self) -> None:
        with self.lock:
            self.calls.clear()

    def note(self, call: Call) -> Fault | None:
        with self.lock:
            self.calls.append(call)
            return next((fault for fault in self.faults if fault.takes(call)), None) or self.choose(call)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that had enough of waiting has hung up; everything else is news.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


_NO_ITEMS = b'"ReturnValuesOnConditionCheckFailure": "NONE"'


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: DynamoProxy

    def setup(self) -> None:
        super().setup()
        upstream = self.owner.upstream
        self.link = http.client.HTTPConnection(str(upstream.hostname), upstream.port, timeout=30)

    def finish(self) -> None:
        self.link.close()
        super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        call = Call(self.headers["X-Amz-Target"].rpartition(".")[2], json.loads(body))
        fault = self.owner.note(call)
        self.owner.before(call)
        status, answer = 400, json.dumps(fault.answer if fault else None).encode()
        if fault is None or fault.commit:
            if self.owner.forget_tokens and call.body.pop("ClientRequestToken", None):
                body = json.dumps(call.body).encode()
            if self.owner.hide_items:
                body = body.replace(b'"ReturnValuesOnConditionCheckFailure": "ALL_OLD"', _NO_ITEMS)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
            self.link.request("POST", self.path, body, headers)
            reply = self.link.getresponse()
            real = reply.read()
            if fault is None:
                status, answer = reply.status, real
        if fault is not None and fault.answer is None:
            self.close_connection = True
            if fault.silent:
                self.rfile.read(1)  # until the client closes
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass
