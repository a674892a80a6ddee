"""A host in a process of its own: `python -m tests.support.host_process [sandbox]`; prints its port, answers until a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Process:
    def __init__(self, *arguments: str, fds: tuple[int, ...] = (), **environ: str) -> None:
        environ = {"DEPOT_DRAIN_SECONDS": "90", **environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.host_process", *arguments],
            cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=fds,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """The exit status, once it has ended. Drains its output, so that it never waits for a reader."""
        try:
            self.out, self.err = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode


def main() -> None:
    from chalicelib.hosting import sandbox
    from chalicelib.hosting.server import serve
    from tests.support.host_app import build
    from tests.support.host_server import settings

    app, _ = build()

    @app.route("/sandbox")
    def sandboxed() -> dict[str, object]:
        return {"report": sandbox.report(), "test": sandbox.self_test()}

    names = ("DEPOT_DRAIN_SECONDS", "DEPOT_BODY_STALL_SECONDS")
    overrides = {name: os.environ[name] for name in names if name in os.environ}
    serve(
        app, settings(**overrides), "127.0.0.1", 0, sandbox="sandbox" in sys.argv, threads=8,
        fd=int(os.environ["LISTEN_FD"]) if "LISTEN_FD" in os.environ else None,
        on_ready=lambda port: print(port, flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    main()
