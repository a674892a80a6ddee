"""A MiniStack process (embedded AWS) on loopback for a test session: up in about half a second, nothing kept.

`ministack(tmp_dir)` is the context manager; `ministack_fixture.ministack_url` is the session's fixture made of it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 30  # half a second on an idle machine; loaded ones have been seen to take ten times that

# What boto needs besides the endpoint: any credentials will do.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def ministack(tmp_dir: Path, services: str = "dynamodb") -> Iterator[str]:
    """Start one on a free port; yields its endpoint URL. `services` is comma-separated; fewer start faster."""
    process, url = _start(tmp_dir, services)
    try:
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(tmp_dir: Path, services: str) -> tuple[subprocess.Popen[bytes], str]:
    for _ in range(3):  # somebody else may take the free port before it is bound
        port = free_port()
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(tmp_dir),
            "TMPDIR": str(tmp_dir),
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "LOG_LEVEL": "WARNING",
            "SERVICES": services,
        }
        with (tmp_dir / f"ministack-{port}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ministack"],
                env=environment,
                cwd=tmp_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        url = f"http://127.0.0.1:{port}"
        if _ready(process, url):
            return process, url
        process.kill()
        process.wait()
    raise RuntimeError(f"MiniStack did not start; its log is in {tmp_dir}")


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_ministack/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
