"""A loopback TCP link between a client and a server that does something when so many bytes have passed.

with Wire("http://127.0.0.1:8000") as wire:
    wire.at(5 * MIB, lambda link: kill())       # the bytes wait meanwhile
    wire.at(9 * MIB, Link.swallow_answer)
    wire.on_status(423, start_again)            # the answer waits meanwhile
    client(wire.url)
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

BLOCK = 64 * 1024


class Link:
    """One connection, both ways."""

    def __init__(
        self, client: socket.socket, server: socket.socket, watch: Callable[[bytes], None] = lambda block: None
    ) -> None:
        self.client, self.server, self._watch, self._swallow = client, server, watch, False

    def swallow_answer(self) -> None:
        """The answer to the request under way is not passed on: the connection breaks in place of it."""
        self._swallow = True

    def reset(self) -> None:
        """Break it, both ways, at once."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def carry_answers(self) -> None:
        with contextlib.suppress(OSError):
            while (block := self.server.recv(BLOCK)) and not self._swallow:
                self._watch(block)
                self.client.sendall(block)
        self.reset()


Action = Callable[[Link], object]


class Wire:
    """See the module's docstring. Bytes from clients are counted over all connections, heads of requests included.

    Nothing is done before so many answers were 201 (`created`): an upload whose address got lost is nobody's any more.
    """

    def __init__(self, upstream: str, *, created: int = 0) -> None:
        where = urlsplit(upstream)
        self._upstream = (where.hostname or "", where.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock, self._marks, self._links = threading.Lock(), list[tuple[int, Action]](), list[Link]()
        self._awaited: dict[int, Callable[[], object]] = {}
        self._to_create = created
        self.passed = 0
        self.alter: Callable[[bytes], bytes] = lambda block: block  # what clients send, on its way
        threading.Thread(target=self._accept, daemon=True).start()

    def at(self, passed: int, action: Action) -> None:
        """Do this before byte number `passed` goes on; everything else on the wire waits until it is done."""
        with self._lock:
            self._marks = sorted([*self._marks, (passed, action)], key=lambda mark: mark[0])

    def on_status(self, status: int, action: Callable[[], object]) -> None:
        """Do this, once, before the first answer with this status is passed on."""
        self._awaited[status] = action

    @property
    def pending(self) -> int:
        """How many actions have not been taken."""
        return len(self._marks) + len(self._awaited)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._upstream)
        except OSError:
            Link(client, client).reset()
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, server, self._watch)
        with self._lock:
            self._links.append(link)
        threading.Thread(target=link.carry_answers, daemon=True).start()
        with contextlib.suppress(OSError):
            while block := client.recv(BLOCK):
                self._count(link, len(block))
                server.sendall(self.alter(block))
            server.shutdown(socket.SHUT_WR)
            return
        link.reset()

    def _count(self, link: Link, size: int) -> None:
        with self._lock:
            self.passed += size
            while self._to_create <= 0 and self._marks and self.passed >= self._marks[0][0]:
                self._marks.pop(0)[1](link)

    def _watch(self, block: bytes) -> None:
        # The answers of interest are short: each begins with a block.
        if block.startswith(b"HTTP/1.1 ") and block[9:12].isdigit():
            status = int(block[9:12])
            if status == 201:
                with self._lock:
                    self._to_create -= 1
            action = self._awaited.pop(status, None)
            if action is not None:
                action()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # close() alone leaves the thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            links = list(self._links)
        for link in links:
            link.reset()
