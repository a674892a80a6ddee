"""The state folder of the local stack: its lock, its secrets, its sub-folders. Imported by infra.local and the CLI."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any

from chalicelib.errors import SettingsError

# HMAC-SHA-256 keys of 256 bits, in hex (NIST SP 800-107 r1, 5.3.2).
SECRET_BYTES = 32


class StateDir:
    """`path` and what lies in it; the lock is held until `close`, or until the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("logs", "aws", "tmp/web", "tmp/services", "tmp/aws"):
                (self.path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SettingsError(f"--state-dir cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SettingsError(
                "--state-dir is in use by another 'depot up': stop that one, or name another folder"
            ) from None

    def close(self) -> None:
        os.close(self._lock)

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def secrets(self) -> dict[str, str]:
        """INTERNAL_API_KEY and SESSION_SECRET, made on the first run and kept in a file only the owner can read."""
        path = self.path / "secrets.json"
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
                os.fchmod(file.fileno(), 0o600)
                kept = json.load(file)
            return {name: str(kept[name]) for name in ("INTERNAL_API_KEY", "SESSION_SECRET")}
        except FileNotFoundError:
            made = {name: secrets.token_hex(SECRET_BYTES) for name in ("INTERNAL_API_KEY", "SESSION_SECRET")}
            write_private(path, made)
            return made
        except (ValueError, KeyError, TypeError, OSError):
            raise SettingsError(
                "secrets.json in --state-dir is unreadable: restore it, or delete it to make new secrets"
            ) from None


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Write JSON that only the owner can read, in one step: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
