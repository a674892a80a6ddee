"""A connection that misbehaves: sends exactly the bytes it is told to, and closes when it is told to."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self
from urllib.parse import urlencode, urlsplit

from tests.support.client import Client


class RawUpload:
    """A PUT /files whose body is sent by hand. `length=None` is chunked coding."""

    def __init__(self, client: Client, query: dict[str, str], length: int | None) -> None:
        where = urlsplit(client.url)
        self.socket = socket.create_connection((where.hostname or "", where.port or 80), timeout=30)
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        self.chunked = length is None
        head = [
            f"PUT /files?{urlencode(query)} HTTP/1.1",
            f"Host: {where.netloc}",
            f"Authorization: {client.session.headers['Authorization']}",
            framing,
            "\r\n",
        ]
        self.socket.sendall("\r\n".join(head).encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def end(self) -> None:
        """Say that no more will come (chunked: with the last chunk) and keep listening."""
        if self.chunked:
            self.socket.sendall(b"0\r\n\r\n")

    def answer(self) -> bytes:
        """Everything the server says until it closes or is quiet about a finished answer."""
        told = b""
        while b"\r\n\r\n" not in told or b"}" not in told:
            block = self.socket.recv(65536)
            if not block:
                break
            told += block
        return told

    def cut(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
