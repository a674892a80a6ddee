"""Tails: acknowledged bytes that are too few for a part, kept on the NAS as small immutable objects.

A tail is deleted only after the part that contains it is recorded; what a crash leaves behind is for the sweep. Used by
the writer only.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from chalicelib import observability
from chalicelib.errors import DepotError, FileMissing, ObjectCorrupt, UploadLost
from chalicelib.limits import MIB
from chalicelib.storage.base import PartStorage
from nas_gateway.uploads.rows import Tail


def name(upload_id: str, tail: Tail) -> str:
    """`{upload}/{offset}-{sha256}`: the same name always means the same bytes, whoever writes it, however late."""
    offset, _, sha256 = tail
    return f"{upload_id}/{offset}-{sha256}"


class Recent:
    """Tails that this process wrote a moment ago, so that it need not read them back. At most `limit` bytes."""

    def __init__(self, limit: int = 64 * MIB) -> None:
        self._lock, self._limit, self._size = Lock(), limit, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, key: str, data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1])

    def take(self, key: str) -> bytes | None:
        with self._lock:
            data = self._kept.pop(key, None)
            self._size -= len(data or b"")
            return data


class Tails:
    """The tails of one disk."""

    def __init__(self, storage: PartStorage, recent: Recent) -> None:
        self._storage, self._recent = storage, recent

    def put(self, upload_id: str, offset: int, data: bytes) -> Tail:
        """Store one durably; it counts once the session's row names it."""
        tail = (offset, len(data), hashlib.sha256(data).hexdigest())
        self._storage.put_tail(name(upload_id, tail), data)
        self._recent.keep(name(upload_id, tail), data)
        return tail

    def fetch(self, upload_id: str, tails: Sequence[Tail]) -> list[bytes]:
        """Their bytes. Raises `UploadLost` for one that is gone, `ObjectCorrupt` for one that is not what was written."""
        return [self._fetch(name(upload_id, tail), tail) for tail in tails]

    def _fetch(self, key: str, tail: Tail) -> bytes:
        data = self._recent.take(key)
        if data is not None:
            return data
        try:
            data = self._storage.get_tail(key)
        except FileMissing:
            raise UploadLost from None
        if hashlib.sha256(data).hexdigest() != tail[2]:
            raise ObjectCorrupt
        return data

    def drop(self, upload_id: str, tails: Sequence[Tail]) -> None:
        """Delete what is in a recorded part now. Never raises: the sweep finds what stays."""
        for tail in tails:
            self._recent.take(name(upload_id, tail))
            try:
                self._storage.delete_tail(name(upload_id, tail))
            except DepotError as error:
                observability.log_event("tail_not_deleted", logging.WARNING, error_code=error.code, upload_id=upload_id)
