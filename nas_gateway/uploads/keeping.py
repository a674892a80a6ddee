"""Holding on to something while a step runs that calls nobody back: a store that assembles, a file that is read again.

Used inside this package only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chalicelib.errors import DepotError, LedgerUnavailable


@contextmanager
def kept(renew: Callable[[], None], every: float) -> Iterator[None]:
    """Call `renew` on a thread of its own every so many seconds while the block runs, until it is refused.

    A refusal is not raised here: whoever lost its hold is told by its next conditional write.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every):
            try:
                renew()
            except LedgerUnavailable:
                continue
            except DepotError:
                return

    thread = threading.Thread(target=run, name="upload-keeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
