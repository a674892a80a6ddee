"""A lock that is handed on in the order it was asked for. Imported by `append` only.

`threading.Lock` goes to whoever comes first after a release, which is most often the thread that just released it: with
many writers in one process some waited past any budget.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """Held by one thread at a time; the others wait in a queue."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def acquire(self, timeout: float) -> bool:
        """False when it was not this thread's turn within `timeout` seconds."""
        with self._guard:
            if not self._held:
                self._held = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=timeout):
            return True
        with self._guard:
            if turn not in self._waiting:  # it was handed over just now
                return True
            self._waiting.remove(turn)
            return False

    def release(self) -> None:
        """Hand it to who has waited longest. It is never free in between, so nobody can push in."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
