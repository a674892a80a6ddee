"""How often, and after how long, a broken transfer is taken up again."""

from __future__ import annotations

import random
from collections.abc import Callable

from chalicelib.cli.client.failures import Failure, Stopped

# Seconds. Doubling from the first to the longest, eight tries wait about a minute and a half: a restart of either tier.
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
# A server may ask for longer, but not for an afternoon.
LONGEST_ASKED = 300.0

DEFAULT_RETRIES = 8


class Retry:
    """Counts failures in a row; any progress sets the count back. One per transfer; not thread-safe.

    `wait(seconds)` returns True when the run was stopped meanwhile. `notice` gets one line before each wait.
    """

    def __init__(
        self,
        limit: int,
        wait: Callable[[float], bool],
        notice: Callable[[str], None],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._limit, self._wait, self._notice, self._uniform = limit, wait, notice, uniform
        self._count = 0

    def progress(self) -> None:
        self._count = 0

    def failed(self, failure: Failure) -> None:
        """Wait before the next try. Raises the failure when trying again cannot help, or was tried often enough."""
        if not failure.retryable or self._count >= self._limit:
            raise failure
        # Half of the delay is random, so that many clients of one restarted server do not come back at once.
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2**self._count) * self._uniform(0.5, 1.0)
        if failure.retry_after is not None:
            delay = max(delay, min(failure.retry_after, LONGEST_ASKED))
        self._count += 1
        self._notice(f"{failure.message} Trying again in {delay:.1f} s ({self._count} of {self._limit}).")
        if self._wait(delay):
            raise Stopped


# Makes the retry of one transfer from where its notices go.
NewRetry = Callable[[Callable[[str], None]], Retry]
