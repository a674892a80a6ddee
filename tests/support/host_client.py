"""A client that writes exactly the bytes it is told to, and says how an answer ended."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.support.host_server import PATIENCE


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool  # the body ended as it was announced

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        self._data = bytearray()
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: test"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        return self.answer(head=method == "HEAD")

    def reset(self) -> None:
        """Close with RST rather than FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def _more(self) -> bool:
        try:
            block = self.socket.recv(1 << 18)
        except ConnectionResetError:
            block = b""
        self.ended = self.ended or not block
        self._data += block
        return bool(block)

    def begun(self) -> Self:
        """Wait for the first bytes of an answer."""
        assert self._data or self._more()
        return self

    def line_block(self) -> bytes:
        """Everything up to the next empty line."""
        while b"\r\n\r\n" not in self._data and self._more():
            pass
        head, found, rest = bytes(self._data).partition(b"\r\n\r\n")
        self._data = bytearray(rest if found else b"")
        return head

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer; status 0 when the connection ended without one."""
        first, *lines = self.line_block().decode("latin-1").split("\r\n")
        if not first:
            return Answer(0, {}, b"", False)
        status = int(first.split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if head or status in (204, 304) or status < 200:
            return Answer(status, headers, b"", True)
        if headers.get("transfer-encoding") == "chunked":
            return self._chunked(status, headers)
        length = int(headers["content-length"])
        while len(self._data) < length and self._more():
            pass
        body, self._data = bytes(self._data[:length]), self._data[length:]
        return Answer(status, headers, body, len(body) == length)

    def _chunked(self, status: int, headers: dict[str, str]) -> Answer:
        body = bytearray()
        while True:
            while b"\r\n" not in self._data:
                if not self._more():
                    return Answer(status, headers, bytes(body), False)
            line, _, rest = bytes(self._data).partition(b"\r\n")
            size = int(line, 16)
            while len(rest) < size + 2:
                if not self._more():
                    return Answer(status, headers, bytes(body), False)
                rest = bytes(self._data).partition(b"\r\n")[2]
            body += rest[:size]
            self._data = bytearray(rest[size + 2 :])
            if size == 0:
                return Answer(status, headers, bytes(body), True)

    def closed(self) -> bool:
        """Wait until the server closes; True if nothing more came before that."""
        while self._more():
            pass
        return not self._data


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    with Wire(port) as wire:
        return wire.request(method, path, body, **headers)
