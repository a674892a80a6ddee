"""One child process of the local stack: started on a leash, read through a pipe, stopped in bounded time.

Children never hold a log file: the web tier may only write to pipes (its RLIMIT_FSIZE is 0), so the parent reads every
child's output and keeps it. Imported by infra.local only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

LEASH = Path(__file__).with_name("leash.py")

# A log file is put aside (one generation) when it grows past this. Bytes.
MAX_LOG_BYTES = 10 * 1024 * 1024

# Lines of a child's output that are kept in memory, to show when it dies.
TAIL_LINES = 20

# What makes a plain line worth the operator's eyes: Python's logging levels, a traceback.
_ALARMS = (" ERROR ", "ERROR:", " CRITICAL ", "CRITICAL:", "Traceback (most")


def is_alarm(line: str) -> bool:
    """Whether the operator should see a line: an error of our JSON log, or what looks like one elsewhere."""
    if line.startswith("{"):
        try:
            return json.loads(line).get("level") in ("ERROR", "CRITICAL")
        except ValueError:
            return False
    return any(alarm in line for alarm in _ALARMS)


class Child:
    """A running child. `on_line(line)` gets alarming lines, `on_exit(self)` is called once; both in other threads.

    Must be made in the main thread: the leash ends the child when the *thread* that started it ends.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        cwd: Path | None = None,
        on_line: Callable[[str], None] = lambda line: None,
        on_exit: Callable[[Child], None] = lambda child: None,
    ) -> None:
        self.name, self.tail, self.stopping = name, deque[str](maxlen=TAIL_LINES), False
        self._log, self._on_line, self._on_exit = log, on_line, on_exit
        # An own session: Ctrl-C at the terminal reaches `depot up` alone, which stops its children in order.
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(LEASH), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"log {name}", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, name=f"wait {name}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def stop(self, timeout: float) -> bool:
        """SIGTERM, after `timeout` seconds SIGKILL, and SIGKILL to what it left behind. True when it ended by itself."""
        self.stopping = True
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        finally:
            # What it started itself, and left behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._reader.join(2)
        return True

    def _read(self) -> None:
        assert self._process.stdout is not None
        log = self._open_log()
        with self._process.stdout as pipe:
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip("\n")
                self.tail.append(line)
                log.write(raw)
                log.flush()
                if log.tell() > MAX_LOG_BYTES:
                    log.close()
                    log = self._open_log()
                if is_alarm(line):
                    self._on_line(line)
        log.close()

    def _open_log(self) -> BinaryIO:
        if self._log.exists() and self._log.stat().st_size > MAX_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        return os.fdopen(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

    def _wait(self) -> None:
        self._process.wait()
        self._reader.join(2)
        self._on_exit(self)
