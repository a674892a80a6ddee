"""Digests of uploads that nobody sees whole: the running SHA-256 where one process does, and the digest over the parts'."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock

from chalicelib.storage.base import Part


class RunningHashes:
    """Whole-file SHA-256 of sessions whose chunks all come to this process; an opportunity, never relied upon.

    At most 256 sessions; one that is dropped, or whose chunks went elsewhere in between, has no hash here.
    """

    def __init__(self, limit: int = 256) -> None:
        self._lock, self._limit = Lock(), limit
        self._running: OrderedDict[str, tuple[int, hashlib._Hash]] = OrderedDict()

    def take(self, upload_id: str, offset: int) -> hashlib._Hash | None:
        """The running hash of the first `offset` bytes, for the writer that goes on there; None where nobody has it."""
        with self._lock:
            at, digest = self._running.pop(upload_id, (0, None))
        if offset == 0:
            return hashlib.sha256()
        return digest if at == offset else None

    def put(self, upload_id: str, offset: int, digest: hashlib._Hash | None) -> None:
        """The same hash again, of the first `offset` bytes, which are acknowledged now."""
        if digest is None:
            return
        with self._lock:
            self._running[upload_id] = (offset, digest)
            self._running.move_to_end(upload_id)
            while len(self._running) > self._limit:
                self._running.popitem(last=False)

    def at(self, upload_id: str, offset: int) -> str | None:
        """The hash of the first `offset` bytes, or None."""
        if offset == 0:
            return hashlib.sha256().hexdigest()
        with self._lock:
            at, digest = self._running.get(upload_id, (0, None))
        return digest.hexdigest() if digest is not None and at == offset else None

    def forget(self, upload_id: str) -> None:
        with self._lock:
            self._running.pop(upload_id, None)


def parts_sha256(parts: Iterable[Part]) -> str | None:
    """SHA-256 over the parts' digests, and their count: what can be said of a file that nobody saw in one stream.

    None where the parts went straight to the store, so that nobody saw them at all.
    """
    digests = [bytes.fromhex(part.sha256) for part in parts]
    if not all(digests):
        return None
    return f"{hashlib.sha256(b''.join(digests)).hexdigest()}-{len(digests)}"
