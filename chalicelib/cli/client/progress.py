"""What a person sees while bytes move: bars on a terminal, plain lines elsewhere; both on stderr. Results go to stdout."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Protocol, Self

from chalicelib.cli.client.names import shown, size_text

# Seconds between two lines on one file's progress where there is no terminal (a log file, CI).
LINE_SECONDS = 15.0


class Display(Protocol):
    """Shows tasks. `moved` tells the position of a task anew, `ended` removes it."""

    def begun(self, name: str, total: int) -> int: ...
    def moved(self, task: int, position: int) -> None: ...
    def ended(self, task: int) -> None: ...
    def line(self, text: str) -> None: ...
    def result(self, text: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Task:
    """One file on its way, in one or several parts that move on their own. Thread-safe. Ends as a context."""

    def __init__(self, display: Display, name: str, total: int) -> None:
        self._display, self.name, self._total = display, shown(name), total
        self._lock, self._position = threading.Lock(), 0
        self._id = display.begun(self.name, total)

    def part(self) -> Part:
        return Part(self)

    def add(self, count: int) -> None:
        with self._lock:
            self._position += count
            position = self._position
        self._display.moved(self._id, position)

    def notice(self, text: str) -> None:
        self._display.line(f"{self.name}: {text}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._display.ended(self._id)


class Part:
    """The position of one part of a task; setting it back shows too."""

    def __init__(self, task: Task) -> None:
        self._task, self._position = task, 0

    def moved(self, count: int) -> None:
        self._position += count
        self._task.add(count)

    def to(self, position: int) -> None:
        if position != self._position:
            self.moved(position - self._position)


class Lines:
    """Plain lines; with `quiet` only what matters (breaks, resumptions), no positions."""

    def __init__(
        self,
        out: IO[str],
        err: IO[str],
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out, self._err, self._quiet, self._clock = out, err, quiet, clock
        self._lock = threading.Lock()
        self._tasks: dict[int, tuple[str, int, float]] = {}

    def begun(self, name: str, total: int) -> int:
        with self._lock:
            task = len(self._tasks)
            self._tasks[task] = (name, total, self._clock())
        return task

    def moved(self, task: int, position: int) -> None:
        if self._quiet:
            return
        with self._lock:
            name, total, last = self._tasks[task]
            now = self._clock()
            if now - last < LINE_SECONDS:
                return
            self._tasks[task] = (name, total, now)
        share = 100 * position // total if total else 100
        self.line(f"{name}: {size_text(position)} of {size_text(total)} ({share} %)")

    def ended(self, task: int) -> None:
        return

    def line(self, text: str) -> None:
        with self._lock:
            print(text, file=self._err, flush=True)

    def result(self, text: str) -> None:
        with self._lock:
            print(text, file=self._out, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class Bars:
    """A bar a file, on a terminal. Lines and results appear above the bars."""

    def __init__(self, out: IO[str], err: IO[str]) -> None:
        from rich import progress as parts
        from rich.console import Console

        # Names are other people's text: no markup, no emoji codes, no highlighting.
        self._console = Console(file=err, markup=False, emoji=False, highlight=False)
        self._out, self._out_is_terminal = out, out.isatty()
        self._progress = parts.Progress(
            parts.TextColumn("{task.description}", markup=False),
            parts.BarColumn(),
            parts.DownloadColumn(binary_units=True),
            parts.TransferSpeedColumn(),
            parts.TimeRemainingColumn(),
            console=self._console,
            # rich would send stdout to stderr's terminal: fine for people, wrong for `depot … > receipts`.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def begun(self, name: str, total: int) -> int:
        return int(self._progress.add_task(name, total=total))

    def moved(self, task: int, position: int) -> None:
        self._progress.update(_task_id(task), completed=position)

    def ended(self, task: int) -> None:
        self._progress.remove_task(_task_id(task))

    def line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def result(self, text: str) -> None:
        if self._out_is_terminal:
            self._console.print(text, soft_wrap=True)  # the same terminal, above the bars
        else:
            print(text, file=self._out, flush=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _task_id(task: int) -> Any:
    return task  # rich's TaskID is a NewType of int


def display(*, bars: bool, out: IO[str] | None = None, err: IO[str] | None = None) -> Display:
    """Bars where stderr is a terminal and they are wanted, else lines; without either, only what matters."""
    out, err = out or sys.stdout, err or sys.stderr
    if bars and err.isatty():
        return Bars(out, err)
    return Lines(out, err, quiet=not bars)
