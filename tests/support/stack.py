"""The whole system for a test: `depot up` as a subprocess on free ports, with a folder of its own, gone afterwards.

    with running_stack(tmp_path) as stack: ... stack.document["web_url"] ...

With S3_ENDPOINT in the environment (`make test-nas`) the NAS is that store; otherwise a folder, or `nas="s3"` for the
embedded S3. Fixtures over it belong in tests/conftest.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Seconds; a start takes about 3 on two idle cores. Only a broken stack waits this long.
START_SECONDS, STOP_SECONDS = 90, 90


@dataclass
class RunningStack:
    """A started `depot up`. `document` is its ready file, `output()` what it printed so far."""

    process: subprocess.Popen[bytes]
    document: dict[str, Any]
    state_dir: Path
    log: Path
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def pids(self) -> dict[str, int]:
        return {name: int(pid) for name, pid in self.document["pids"].items()}

    def output(self) -> str:
        return self.log.read_text()

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def wait_for_output(self, text: str, seconds: float = 30) -> str:
        """What was printed, once it contains `text`. Fails the test after `seconds`."""
        return wait_until(lambda: seen if text in (seen := self.output()) else None, seconds, f"output {text!r}")


def wait_until(probe: Any, seconds: float, what: str) -> Any:
    """Poll until `probe()` is truthy, and return that."""
    deadline = time.monotonic() + seconds
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.02)
    return result


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that waits for its parent has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def launch(
    state_dir: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    aws_port: int = 0,
    inside: Sequence[str] = (),
) -> tuple[subprocess.Popen[bytes], Path, Path]:
    """Start `depot up` on free ports; the process, its ready file, and the file its output goes to.

    `inside` is a command that runs it, such as `unshare …`.
    """
    state_dir.parent.mkdir(parents=True, exist_ok=True)
    ready, log = state_dir.with_suffix(".ready.json"), state_dir.with_suffix(".out")
    ready.unlink(missing_ok=True)  # a killed `depot up` leaves its own
    command = [*inside, sys.executable, "-m", "chalicelib.cli", "up", "--web-port", "0", "--services-port", "0"]
    command += ["--aws-port", str(aws_port), "--state-dir", str(state_dir), "--ready-file", str(ready), *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, "NO_PROXY": "127.0.0.1", **(env or {})},
            cwd=state_dir.parent,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, ready, log


@contextlib.contextmanager
def running_stack(
    folder: Path,
    *arguments: str,
    nas: str | None = None,
    env: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> Iterator[RunningStack]:
    """A stack whose state lies in `folder`/state; stopped at the end, by force if need be."""
    state_dir = folder / "state"
    nas = nas or ("s3" if os.environ.get("S3_ENDPOINT") else "local")
    process, ready, log = launch(state_dir, "--nas", nas, *arguments, env=env, inside=inside)

    def probe() -> dict[str, Any] | None:
        if process.poll() is not None:
            raise AssertionError(f"depot up ended with {process.returncode}:\n{log.read_text()}")
        # Written in one step: if it is there, it is whole.
        return json.loads(ready.read_text()) if ready.exists() else None

    try:
        yield RunningStack(process, wait_until(probe, START_SECONDS, "the ready file"), state_dir, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
