"""What is remembered between runs: one small JSON file that only its owner can read.

It holds where an interrupted transfer stands: an upload's id and what the file was; no token, no password, no file name and
no path (the key is a hash of them). Losing it costs nothing but the resumption of downloads: uploads are also found again by
their Idempotency-Key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# A session on the server does not live longer than that; older entries are of no use.
KEEP_SECONDS = 30 * 24 * 3600


def state_file(environ: Mapping[str, str], name: str) -> Path:
    """`$XDG_STATE_HOME/depot/{name}`, or `~/.local/state/depot/{name}` (XDG base directory specification 0.8)."""
    home = environ.get("XDG_STATE_HOME", "")
    folder = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
    return folder / "depot" / name


def key_of(*parts: str) -> str:
    """A key that tells nothing of what it was made from, as far as that cannot be guessed."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class ResumeStore:
    """Entries by key. Each change is read, changed and replaced under a lock, so several commands may run at once.

    A file that cannot be read counts as empty; one that cannot be written is told to `notice` once.
    """

    def __init__(self, path: Path, notice: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self._path, self._notice, self._clock = path, notice, clock
        self._lock, self._told = threading.Lock(), False

    def get(self, key: str) -> dict[str, Any] | None:
        with self._lock:
            return self._read().get(key)

    def put(self, key: str, entry: Mapping[str, Any]) -> None:
        self._change(lambda entries: entries.update({key: {**entry, "saved_at": int(self._clock())}}))

    def forget(self, key: str) -> None:
        self._change(lambda entries: entries.pop(key, None))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            document = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        entries = document.get("entries") if isinstance(document, dict) else None
        if not isinstance(entries, dict):
            return {}
        return {key: entry for key, entry in entries.items() if isinstance(entry, dict)}

    def _change(self, change: Callable[[dict[str, dict[str, Any]]], object]) -> None:
        try:
            with self._lock, self._exclusive():
                entries = self._read()
                change(entries)
                oldest = self._clock() - KEEP_SECONDS
                kept = {key: entry for key, entry in entries.items() if _saved_at(entry) >= oldest}
                self._write({"version": 1, "entries": kept})
        except OSError as error:
            if not self._told:
                self._told = True
                self._notice(f"The state for resuming cannot be kept ({error.strerror or type(error).__name__}).")

    def _write(self, document: Mapping[str, Any]) -> None:
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        new.unlink(missing_ok=True)  # left by a killed process that had our number
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._path)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time changes the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self._path.with_name(self._path.name + ".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            lock_file(descriptor)
            yield
        finally:
            os.close(descriptor)


def lock_file(descriptor: int, *, wait: bool = True) -> None:
    """Lock an open file until it is closed. Raises `BlockingIOError` when it is taken and `wait` is false."""
    if sys.platform == "win32":
        return  # no flock; two commands at once may there forget one another's entries
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _saved_at(entry: Mapping[str, Any]) -> float:
    value = entry.get("saved_at")
    return value if isinstance(value, (int, float)) else 0.0
