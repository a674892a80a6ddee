"""Landlock through its three system calls: deny this thread, and what it starts later, every change to a file system.

Linux kernel documentation, "Landlock: unprivileged access control". Reading is not handled, so it stays free. Used by `sandbox`.
"""

from __future__ import annotations

import ctypes
import os
import sys

# asm-generic/unistd.h: the same numbers on every architecture but alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1 << 0  # LANDLOCK_CREATE_RULESET_VERSION
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

# include/uapi/linux/landlock.h, LANDLOCK_ACCESS_FS_*; the first ABI that knows each.
WRITE_FILE = 1 << 1
TRUNCATE = 1 << 14
_RIGHTS = {
    "WRITE_FILE": (WRITE_FILE, 1),
    "REMOVE_DIR": (1 << 4, 1),
    "REMOVE_FILE": (1 << 5, 1),
    "MAKE_CHAR": (1 << 6, 1),
    "MAKE_DIR": (1 << 7, 1),
    "MAKE_REG": (1 << 8, 1),
    "MAKE_SOCK": (1 << 9, 1),
    "MAKE_FIFO": (1 << 10, 1),
    "MAKE_BLOCK": (1 << 11, 1),
    "MAKE_SYM": (1 << 12, 1),
    "REFER": (1 << 13, 2),
    "TRUNCATE": (TRUNCATE, 3),
}
# Below ABI 3 a file could still be emptied through truncate(2).
MIN_ABI = 3


class Unavailable(Exception):
    """Landlock is not to be had here; the text says why."""


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # what `_pack_` implies; Python 3.14 wants it said
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _libc() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise Unavailable(f"no Landlock on {sys.platform}")
    return ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The kernel's Landlock ABI. Raises `Unavailable`."""
    found = int(_libc().syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))
    if found < 0:
        raise Unavailable(f"the kernel has no Landlock, or it is off ({os.strerror(ctypes.get_errno())})")
    return found


def restrict(writable: tuple[str, ...]) -> int:
    """Deny all writing and creating but writing to the files in `writable`; the ABI. Raises `Unavailable`.

    Sets no_new_privs, without which an unprivileged process may not restrict itself. Cannot be undone.
    """
    libc, version = _libc(), abi()
    if version < MIN_ABI:
        raise Unavailable(f"the kernel's Landlock ABI is {version}; truncation is covered from {MIN_ABI} on")
    handled = sum(bit for bit, since in _RIGHTS.values() if since <= version)
    attr = _RulesetAttr(handled)
    ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(attr), ctypes.sizeof(attr), 0), "create_ruleset")
    try:
        for path in writable:
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = _PathBeneathAttr(handled & (WRITE_FILE | TRUNCATE), target)
                _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0), "add_rule")
            finally:
                os.close(target)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0), "restrict_self")
    finally:
        os.close(ruleset)
    return version


def _checked(result: int, step: str) -> int:
    if result < 0:
        raise Unavailable(f"{step} failed ({os.strerror(ctypes.get_errno())})")
    return result
