"""The web tier gives up the right to write files, and can say and show that it has.

Three layers (design, section 3): Landlock denies writing and creating everywhere but `/dev/null`; `RLIMIT_FSIZE=0` backs it
up and covers memfd; an audit hook counts attempts and refuses them with a plain error. The launcher calls `enter()`
before threads are started; `/health` shows `report()`. Logs must go to a pipe or a terminal: a log file could not be
written either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any

from chalicelib.errors import SecurityError
from chalicelib.hosting import landlock

WRITABLE = ("/dev/null",)

_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Audit events (Python documentation, "Audit events table") that change a file system.
_CHANGING = frozenset(
    """
    os.mkdir os.rename os.remove os.rmdir os.link os.symlink os.truncate os.chmod os.chown os.utime os.setxattr
    os.removexattr os.mknod os.mkfifo tempfile.mkstemp tempfile.mkdtemp sqlite3.connect shutil.copyfile shutil.move
    """.split()  # noqa: SIM905 -- one event a line would hide the groups
)


@dataclass
class _State:
    entered: bool = False
    abi: int = 0
    reason: str = "not entered"
    hook: bool = False
    attempts: int = 0


_state = _State()
_own_test = threading.local()  # while `self_test` runs, its attempts go through to the kernel and are not counted


def enter(*, required: bool = False) -> None:
    """Give up the right to write, for this thread and all that it starts later. Cannot be undone; twice is once.

    Raises `SecurityError` when `required` and Landlock cannot be enforced.
    """
    if _state.entered:
        return
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # for children
    try:
        _state.abi, _state.reason = landlock.restrict(WRITABLE), ""
    except (landlock.Unavailable, OSError) as error:
        _state.reason = str(error)
        if required:
            raise SecurityError(f"The web tier must not be able to write files: {error}") from None
    # Beyond the limit a write would kill the process with SIGXFSZ; ignored, it fails with EFBIG. Pipes have no limit.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.addaudithook(_audit)
    _state.hook = _state.entered = True


def report() -> dict[str, Any]:
    """What is in force now, asked of the kernel where it can be. `write_attempts` counts refused ones."""
    enforced: dict[str, Any] = {"enforced": bool(_state.abi)}
    enforced |= {"abi": _state.abi} if _state.abi else {"reason": _state.reason}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return {
        "landlock": enforced,
        "rlimit_fsize": None if limit == resource.RLIM_INFINITY else limit,
        "audit_hook": _state.hook,
        "write_attempts": _state.attempts,
    }


def self_test(folder: str = "/tmp") -> dict[str, bool]:  # noqa: S108 -- meant to be refused
    """Really try: create a file in `folder`, and write into a memfd. True means that it was refused.

    A file that could be created is removed again.
    """
    _own_test.running = True
    try:
        return {"create_refused": _create_refused(folder), "memfd_refused": _memfd_refused()}
    finally:
        _own_test.running = False


def _create_refused(folder: str) -> bool:
    path = os.path.join(folder, f".depot-sandbox-test-{os.getpid()}")
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        # Any other reason (no such folder, say) proves nothing.
        return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    with contextlib.suppress(OSError):
        os.unlink(path)
    return False


def _memfd_refused() -> bool:
    if not hasattr(os, "memfd_create"):  # macOS has none
        return True
    handle = os.memfd_create("depot-sandbox-test")
    try:
        os.write(handle, b"x")
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Counts and refuses. The event's arguments hold paths: nothing of them is kept or told."""
    if event == "open":
        path, _mode, flags = args
        if not isinstance(flags, int) or not flags & _WRITE_FLAGS:
            return
        # An integer is a descriptor that is open already: a socket's or a pipe's.
        if isinstance(path, int) or path in WRITABLE:
            return
    elif event not in _CHANGING:
        return
    if getattr(_own_test, "running", False):
        return
    _state.attempts += 1
    raise PermissionError("this tier writes no files")
