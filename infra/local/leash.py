"""Runs a command that ends when the process that started it ends, even by `kill -9`. Started as a script, by path.

    python leash.py PARENT_PID COMMAND [ARGUMENT...]

Linux keeps the "parent death signal" across exec (prctl(2), PR_SET_PDEATHSIG), so this replaces itself with the command.
On other systems the command simply runs. Standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # SIGTERM, not SIGKILL: the embedded AWS saves its state, a tier ends its transfers.
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:  # it died before the call above took hold
            raise SystemExit(1)
    os.execv(command[0], command)  # noqa: S606 - the command comes from infra.local, not from outside


if __name__ == "__main__":
    main()
