"""What a job is told of time, and how it tells that it did not do everything. Imports nothing of the project."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

# Seconds before the end of a Lambda invocation (15 minutes at most: AWS Lambda quotas) that a job must be done by: the piece
# of work that it is at, and the record of its run.
LAMBDA_MARGIN_SECONDS = 30.0
# ... and no more than a third of it: behind API Gateway an invocation has 29 seconds.
_MARGIN_SHARE = 1 / 3


class Deadline:
    """How long a job may go on. It asks between two pieces of work, stops cleanly when it is `over`, and goes on next time.

    `left` answers in seconds; without it there is no end but `stop`. Thread-safe.
    """

    def __init__(self, left: Callable[[], float] = lambda: math.inf) -> None:
        self._left, self._stopped = left, threading.Event()

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Self:
        """One that is over in so many seconds."""
        end = clock() + seconds
        return cls(lambda: end - clock())

    @classmethod
    def of(cls, context: Any, clock: Callable[[], float] = time.monotonic) -> Self:
        """That of a Lambda context, or of one of the streaming host's. None: no end.

        The context is asked again and again: that of a scheduled handler on the host answers 0 once the host stops. That of
        a request there always answers the same, so the time that has gone is counted here, too.
        """
        if context is None:
            return cls()
        whole = context.get_remaining_time_in_millis() / 1000
        margin = min(LAMBDA_MARGIN_SECONDS, whole * _MARGIN_SHARE)
        end = clock() + whole
        return cls(lambda: min(context.get_remaining_time_in_millis() / 1000, end - clock()) - margin)

    def left(self) -> float:
        """Seconds left: infinite without an end, never below 0."""
        return 0.0 if self._stopped.is_set() else max(0.0, self._left())

    @property
    def over(self) -> bool:
        return self.left() <= 0

    def stop(self) -> None:
        """Ask the job to stop: its host ends, or its lease was lost."""
        self._stopped.set()


class Incomplete(Exception):
    """A job did what it could, and some of it failed: the run counts as failed, and its counts are kept.

    `code` is an error code of the table in `chalicelib.errors`.
    """

    def __init__(self, counts: Mapping[str, int], code: str) -> None:
        super().__init__(code)
        self.counts, self.code = dict(counts), code
