"""A streaming host in a thread of the test's process, on a free port of 127.0.0.1."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from chalicelib.config import Settings
from chalicelib.hosting.asgi import StreamingHost
from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.hosting.scheduler import Scheduler
from chalicelib.hosting.server import HostServer, listen

# Nothing in a test takes as long: it ends a wait that would otherwise hang the suite.
PATIENCE = 20.0


def settings(**overrides: str) -> Settings:
    """Testing settings; overrides are environment names and values."""
    return Settings.from_env({"SERVER_ROLE": "testing", "INTERNAL_API_KEY": "k" * 32, **overrides})


class Running:
    def __init__(self, host: StreamingHost, scheduler: Scheduler | None = None) -> None:
        self.host = host
        self.port = 0
        self._ready = threading.Event()
        self.server = HostServer(host, listen("127.0.0.1", 0), self._on_ready, scheduler)
        self._thread = threading.Thread(target=self.server.run, daemon=True)

    def _on_ready(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def stop(self) -> None:
        """Begin a graceful stop; `ended` waits for it."""
        self.server.should_exit = True

    def ended(self) -> bool:
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()


@contextmanager
def running(
    app: DepotApp, threads: int = 8, queue: int = 8, scheduler: Scheduler | None = None, **overrides: str
) -> Iterator[Running]:
    overrides.setdefault("DEPOT_DRAIN_SECONDS", "0.2")
    server = Running(StreamingHost(app, settings(**overrides), threads=threads, queue=queue), scheduler)
    server.start()
    try:
        yield server
    finally:
        server.server.force_exit = True
        server.stop()
        assert server.ended()
