"""`serve`: one tier's process, from listening to a clean end. Called by the launcher only.

A stop (SIGTERM, SIGINT) closes the listener, lets what is in flight finish for `drain_timeout` seconds, then makes
unfinished bodies raise `ServerStopping`, gives handlers a moment to answer that, and cuts the rest. A second signal skips
the waiting. The process ends with status 0 either way: handler threads are daemons, nothing waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from chalicelib.config import Role, Settings
from chalicelib.hosting import sandbox as no_write_sandbox
from chalicelib.hosting.asgi import StreamingHost
from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.hosting.memory import keep_freed_blocks, switch_threads_sooner
from chalicelib.hosting.protocol import DepotProtocol
from chalicelib.observability import log_event, log_exception

if TYPE_CHECKING:
    from chalicelib.hosting.scheduler import Scheduler

# After `ServerStopping` was raised in the handlers: seconds they have to abort what they did and answer 503.
ANSWER_SECONDS = 2.0
# How often the end of transfers is looked for while stopping.
_TICK_SECONDS = 0.02


def serve(
    app: DepotApp,
    settings: Settings,
    host: str,
    port: int,
    *,
    sandbox: bool = False,
    on_ready: Callable[[int], object] | None = None,
    fd: int | None = None,
    threads: int = 64,
    queue: int = 64,
) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything has ended.

    `port` 0 takes a free one; `fd` takes over a listening socket instead. `on_ready(port)` is called once listening.
    `sandbox` gives up the right to write files first, so call this before other threads are started. Raises `OSError`
    when the address cannot be had, `SecurityError` when production has no sandbox.
    """
    keep_freed_blocks()
    switch_threads_sooner()
    if sandbox:
        no_write_sandbox.enter(required=settings.production)
    listener = socket.socket(fileno=fd) if fd is not None else listen(host, port)
    streaming = StreamingHost(app, settings, threads=threads, queue=queue)
    HostServer(streaming, listener, on_ready, scheduler_of(app, settings)).run()


def scheduler_of(app: DepotApp, settings: Settings) -> Scheduler | None:
    """What fires the app's schedules; None where they are off. The web tier fires nothing, whatever its settings say."""
    if not settings.schedules or settings.role is Role.WEB:
        return None
    from chalicelib.hosting.scheduler import Scheduler

    return Scheduler(app)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; listening begins with the server. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


class HostServer(uvicorn.Server):
    """uvicorn's server with our protocol and our way of stopping. `should_exit = True` stops it from another thread."""

    def __init__(
        self,
        host: StreamingHost,
        listener: socket.socket,
        on_ready: Callable[[int], object] | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        # uvicorn's own lines would go to stderr unformatted, some with text from the request.
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())
        logging.getLogger("uvicorn").propagate = False
        super().__init__(
            uvicorn.Config(
                host,
                http=DepotProtocol,
                loop="uvloop",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=1024,
            )
        )
        self._host, self._listener, self._on_ready = host, listener, on_ready
        self._scheduler = scheduler

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets or [self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_log_loop_error)
        await super().startup(sockets)
        port = int(self._listener.getsockname()[1]) if self._listener.family != socket.AF_UNIX else 0
        log_event("listening", port=port)
        if self._on_ready is not None:
            self._on_ready(port)
        if self._scheduler is not None:
            self._scheduler.start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's, without raising the signals again at the end: a stop that was asked for is a success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log_event("stopping", count=len(self.server_state.tasks))
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        self._host.stopping = True
        if self._scheduler is not None:
            self._scheduler.stop()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._finished(self._host.settings.drain_timeout):
            self._host.stop_readers()
            await self._finished(ANSWER_SECONDS)
        cut = list(self.server_state.connections)
        for connection in cut:
            connection.transport.abort()
        self._host.pool.close()
        log_event("stopped", count=len(cut))

    @property
    def _jobs_running(self) -> bool:
        return self._scheduler is not None and self._scheduler.running > 0

    async def _finished(self, seconds: float) -> bool:
        """Whether all transfers and jobs ended within that time; False at once after a second signal."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.server_state.tasks or self.server_state.connections or self._jobs_running:
            if self.force_exit or loop.time() >= until:
                return False
            await asyncio.sleep(_TICK_SECONDS)
        return True


def _log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException):
        log_exception("event_loop_error", error)
    else:
        log_event("event_loop_error", logging.ERROR)
