"""What the local driver keeps beside a file: content type, SHA-256, the caller's metadata. Raises `OSError`.

**Where.** In one extended attribute, `user.depot`, of the file itself. It is set on the staged file before the rename, so
the rename shows data and metadata in one step: no crash, and no race between two writers, can pair the one's data with the
other's metadata, and a listing never sees it. File systems without user attributes (NFS before 4.2, some CIFS) get a
record under `.depot-stage/meta/` instead, named after the file's inode, modification time and size. A new file has another
inode than the one it replaces, so the record of the new is written before the rename, the one of the old removed after it,
and again the rename alone switches from one to the other. A crash in between leaves a record that no file answers to: a few
hundred bytes, and harmless. (A record named after the path would describe the wrong data between two renames.)

**Staleness.** The attribute holds the size and modification time of the file it was written for. If someone edits the file
by hand on the NAS these no longer match, and the digest is not told: what we would say of it is no longer known.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from nas_gateway.drivers.common import DEFAULT_CONTENT_TYPE

ATTRIBUTE = "user.depot"
# Values of setxattr/getxattr that mean "this file system has no user attributes" (xattr(7)).
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Meta:
    content_type: str = DEFAULT_CONTENT_TYPE
    sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def write(descriptor: int, meta: Meta, records: int, *, attributes: bool) -> str | None:
    """Keep `meta` with an open, finished file; the name of the record if one had to be made. The caller fsyncs the file.

    `records` is the folder for records; `attributes=False` never tries the extended attribute.
    """
    found = os.fstat(descriptor)
    body = _pack(meta, found)
    if attributes:
        try:
            os.setxattr(descriptor, ATTRIBUTE, body)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTES:
                raise
        else:
            return None
    name = record_name(found)
    record = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660, dir_fd=records)
    try:
        os.write(record, body)
        os.fsync(record)
    finally:
        os.close(record)
    os.fsync(records)
    return name


def read(descriptor: int, found: os.stat_result, records: int | None) -> Meta:
    """What is kept of an open file; defaults for a file that Depot did not write. `records` is None if there are none."""
    body = _attribute(descriptor)
    if body is None and records is not None:
        with suppress(FileNotFoundError):
            record = os.open(record_name(found), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=records)
            try:
                body = os.read(record, 1 << 16)
            finally:
                os.close(record)
    return _unpack(body, found)


def forget(found: os.stat_result, records: int | None) -> None:
    """Remove the record of a file that is gone, if it had one."""
    if records is not None:
        with suppress(FileNotFoundError):
            os.unlink(record_name(found), dir_fd=records)


def record_name(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def _attribute(descriptor: int) -> bytes | None:
    try:
        return os.getxattr(descriptor, ATTRIBUTE)
    except OSError as error:
        if error.errno in (*_NO_ATTRIBUTES, errno.ENODATA):
            return None
        raise


def _pack(meta: Meta, found: os.stat_result) -> bytes:
    # ext4 keeps at most one block (4 KiB) of attributes a file; `common.check_metadata` stays well below.
    kept = {
        "type": meta.content_type,
        "sha256": meta.sha256,
        "meta": dict(meta.metadata),
        "of": [found.st_size, found.st_mtime_ns],
    }
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def _unpack(body: bytes | None, found: os.stat_result) -> Meta:
    if body is None:
        return Meta()
    try:
        kept: dict[str, Any] = json.loads(body)
        unchanged = kept["of"] == [found.st_size, found.st_mtime_ns]
        return Meta(kept["type"], kept["sha256"] if unchanged else None, kept["meta"])
    except (ValueError, KeyError, TypeError):
        return Meta()  # not ours, or cut off: the file itself is not worse for it
