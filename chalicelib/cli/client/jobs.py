"""Several transfers at a time in threads, with their results in the order of the command line, and a quick end on Ctrl-C."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NoReturn, TypeVar

from chalicelib.cli.client.failures import Stopped

T = TypeVar("T")

# Seconds that threads get to notice `stop`: one that waits for an answer may not, and is left behind.
GRACE = 1.0


class Stop(threading.Event):
    """The end of a run, or of a part of it: setting one sets its children, never its parent."""

    def __init__(self) -> None:
        super().__init__()
        self._children: list[Stop] = []

    def child(self) -> Stop:
        child = Stop()
        self._children.append(child)
        if self.is_set():
            child.set()
        return child

    def set(self) -> None:
        super().set()
        for child in self._children:
            child.set()


class _Run(Generic[T]):
    def __init__(self, jobs: Sequence[Callable[[], T]], stop: Stop) -> None:
        self._jobs, self._stop = jobs, stop
        self._waiting = iter(range(len(jobs)))
        self._lock = threading.Lock()
        self.done: queue.SimpleQueue[tuple[int, Callable[[], T]]] = queue.SimpleQueue()

    def work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                index = next(self._waiting, None)
            if index is None:
                return
            try:
                result = self._jobs[index]()
            except BaseException as error:  # noqa: BLE001 - handed over to the caller's thread, whatever it is
                self.done.put((index, _raiser(error)))
            else:
                self.done.put((index, _giver(result)))

    def next(self) -> tuple[int, Callable[[], T]]:
        while True:
            try:
                # With a time-out: a wait without one cannot be interrupted on Windows, nor end when `stop` is set.
                return self.done.get(timeout=0.5)
            except queue.Empty:
                if self._stop.is_set():
                    raise Stopped from None


def in_order(jobs: Sequence[Callable[[], T]], parallel: int, stop: Stop) -> Iterator[T]:
    """Run jobs, `parallel` at a time; their results in the order of `jobs`, each as soon as all before it are there.

    What a job raises is raised here; then, on KeyboardInterrupt, and when the caller leaves early, `stop` is set and the
    other jobs are given a moment to end. When `stop` is set from elsewhere: `Stopped`.
    """
    run = _Run(jobs, stop)
    # Daemons: one that is stuck in a socket must not keep the process from ending.
    threads = [threading.Thread(target=run.work, daemon=True) for _ in range(min(parallel, len(jobs)))]
    for thread in threads:
        thread.start()
    results: dict[int, Callable[[], T]] = {}
    complete = False
    try:
        for wanted in range(len(jobs)):
            while wanted not in results:
                index, result = run.next()
                results[index] = result
            yield results.pop(wanted)()
        complete = True
    finally:
        if not complete:
            stop.set()
        deadline = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _raiser(error: BaseException) -> Callable[[], NoReturn]:
    def result() -> NoReturn:
        raise error

    return result


def _giver(value: T) -> Callable[[], T]:
    return lambda: value
