"""Threads for handlers: a fixed number, a bounded queue, and no waiting for them when the process ends.

`concurrent.futures` joins its threads at exit, so a handler stuck in the NAS would keep a stopped server alive.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from chalicelib.observability import log_exception


class WorkerPool:
    """At most `size` threads, started when needed, and at most `queue` jobs waiting for one."""

    def __init__(self, size: int, queue: int) -> None:
        if size < 1 or queue < 0:
            raise ValueError("a pool needs at least one thread, and a queue is not negative")
        self._size, self._limit = size, queue
        self._jobs: deque[Callable[[], None]] = deque()
        self._ready = threading.Condition()
        self._threads = 0
        self._outstanding = 0  # jobs waiting or running
        self._closed = False

    def try_submit(self, job: Callable[[], None]) -> bool:
        """False when all threads are busy and the queue is full. `job` handles its own errors."""
        with self._ready:
            if self._closed or self._outstanding >= self._size + self._limit:
                return False
            self._outstanding += 1
            self._jobs.append(job)
            if self._outstanding > self._threads and self._threads < self._size:
                self._threads += 1
                threading.Thread(target=self._work, name=f"handler-{self._threads}", daemon=True).start()
            else:
                self._ready.notify()
            return True

    def close(self) -> None:
        """Idle threads end; busy ones end after their job."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._jobs:
                    if self._closed:
                        return
                    self._ready.wait()
                job = self._jobs.popleft()
            try:
                job()
            except Exception as error:  # noqa: BLE001 -- a job that fails must not take its thread along
                log_exception("worker_job_failed", error)
            with self._ready:
                self._outstanding -= 1
            # Not kept alive until the next job: it holds the request's buffers.
            del job
