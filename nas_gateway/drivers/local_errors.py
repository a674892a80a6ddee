"""`errno` as Depot's errors: the one place that reads it. For `nas_gateway.drivers` only.

Messages never hold a path: `OSError` carries file names, so it never leaves here, not even as a cause.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from chalicelib.errors import (
    DepotError,
    FileExists,
    FileMissing,
    InvalidPath,
    PayloadTooLarge,
    StorageBroken,
    StorageError,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
)

# Seeds, "Corrupted Directory Entries": such folders show as `d??????????`, and mkdir says that they exist.
_STALE = (
    "The storage folder is a stale NFS handle. The operator should remount the NAS, or restart the services container."
)
BROKEN_FOLDER = (
    "A folder on the storage exists but cannot be entered (shown as 'd??????????' by ls). "
    "The operator should restart the services container, and remount the NAS if that does not help."
)
SYMLINK = "A symbolic link stands in the way; Depot follows none. The operator should replace it by what it points to."
NOT_A_FILE = "What stands there is not a regular file. The operator should remove it."
FOLDER_IN_THE_WAY = "A folder of that name is already there. Use another name."
FILE_IN_THE_WAY = "A file stands where this path needs a folder. Use another name."
_ACCESS = "The storage denied access. The operator should check that the service's user owns the storage folder."
_READ_ONLY = "The storage is mounted read-only. The operator should remount it writable."
_QUOTA = "The storage quota is used up. Nothing was kept; ask the operator to raise it or make room."
_IO = "The storage reported an input/output error. The operator should check the disk or the NAS before trying again."
_HANDLES = "The services tier has too many files open. Try again in a while; the operator can raise the limit."

_BY_ERRNO: dict[int, tuple[type[DepotError], str | None]] = {
    errno.ENOENT: (FileMissing, None),
    errno.ESTALE: (StorageBroken, _STALE),
    errno.ELOOP: (StorageBroken, SYMLINK),
    errno.ENXIO: (StorageBroken, NOT_A_FILE),
    errno.EACCES: (StorageRefused, _ACCESS),
    errno.EPERM: (StorageRefused, _ACCESS),
    errno.EROFS: (StorageRefused, _READ_ONLY),
    errno.ENOSPC: (StorageFull, None),
    errno.EDQUOT: (StorageFull, _QUOTA),
    errno.EFBIG: (PayloadTooLarge, "The storage takes no file of this size."),
    errno.EIO: (StorageBroken, _IO),
    errno.EREMOTEIO: (StorageBroken, _IO),
    errno.EUCLEAN: (StorageBroken, _IO),
    errno.ENAMETOOLONG: (InvalidPath, "The storage's file system does not take names this long."),
    errno.EILSEQ: (InvalidPath, "The storage's file system does not take such characters."),
    errno.EINVAL: (InvalidPath, "The storage's file system does not take such a name."),
    errno.EISDIR: (FileExists, FOLDER_IN_THE_WAY),
    errno.ENOTDIR: (FileExists, FILE_IN_THE_WAY),
    errno.EEXIST: (FileExists, None),
    errno.ENOTEMPTY: (FileExists, FOLDER_IN_THE_WAY),
    errno.EBUSY: (StorageUnavailable, None),
    errno.EAGAIN: (StorageUnavailable, None),
    errno.ETIMEDOUT: (StorageUnavailable, None),
    errno.EHOSTDOWN: (StorageUnavailable, None),
    errno.EHOSTUNREACH: (StorageUnavailable, None),
    errno.ENOTCONN: (StorageUnavailable, None),
    errno.ENOLCK: (StorageUnavailable, None),
    errno.EMFILE: (StorageUnavailable, _HANDLES),
    errno.ENFILE: (StorageUnavailable, _HANDLES),
}


def translate(error: OSError) -> DepotError:
    """The Depot error for one of the file system's; those that are Depot's already stay what they are."""
    if isinstance(error, DepotError):
        return error
    known = _BY_ERRNO.get(error.errno or 0)
    return known[0](known[1]) if known else StorageError()


@contextmanager
def translated() -> Iterator[None]:
    """Raise Depot's errors instead of `OSError`. Never put around a read from the caller's source: its errors are its own."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DepotError):
            raise
        raise translate(error) from None
