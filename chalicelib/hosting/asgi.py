"""`StreamingHost`: an ASGI application that hands HTTP requests to a `DepotApp` and streams both bodies.

A request becomes an API Gateway REST proxy event with a blocking reader as its body; `app(event, context)` runs in a
worker thread, in a fresh context; the answer's body streams back. `server` runs it; nothing else imports it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from chalicelib.config import Settings
from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.hosting.exchange import Exchange
from chalicelib.hosting.pool import WorkerPool
from chalicelib.hosting.router import Router
from chalicelib.observability import log_access


class StreamingHost:
    """`threads` handlers run at once, at most `queue` requests wait for one of them; beyond that the answer is 503.

    Buffers hold at most (threads + queue) x (2 x BRIDGE_BUFFER_BYTES + 2 MiB) in all.
    """

    def __init__(self, app: DepotApp, settings: Settings, *, threads: int = 64, queue: int = 64) -> None:
        self.app, self.settings = app, settings
        self.router = Router(app.routes)
        self.pool = WorkerPool(threads, queue)
        self.stopping = False
        self._active: set[Exchange] = set()

    def stop_readers(self) -> None:
        """Make every unfinished request body raise `ServerStopping`, and cut every unfinished download."""
        for exchange in list(self._active):
            exchange.stop()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            raise ValueError("only HTTP is served here")
        exchange = Exchange(self, scope, receive, send)
        self._active.add(exchange)
        try:
            await exchange.run()
        finally:
            self._active.discard(exchange)
            log_access(exchange.record)
