"""What the check of an exported ledger costs: `python -m bench.ledger`.

CPU time, not wall time, and ratios taken in one run: of the verifier to the least that any check in Python could do (read
each line and hash it), and of a million events to a hundred thousand, which tells whether the cost is linear.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from nas_gateway.ledger.verify import verify
from tests.support.ledger_book import KEY, write_large

SMALL, LARGE = 100_000, 1_000_000
# A checkpoint every five minutes of a busy day: ten events a second.
EVERY = 3_000
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians of `ROUNDS` rounds on `SMALL` events, and one run on `LARGE`."""

    events_a_second: float
    to_hashing_alone: float
    large_to_small: float  # of the cost of one event


def measure() -> Figures:
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        write_large(small, SMALL, EVERY)
        write_large(large, LARGE, EVERY)
        checks, ratios = [], []
        for _ in range(ROUNDS):
            taken = cpu(lambda: check(small, SMALL))
            checks.append(taken)
            ratios.append(taken / cpu(lambda: hash_alone(small)))
        whole = cpu(lambda: check(large, LARGE))
    return Figures(SMALL / median(checks), median(ratios), whole / LARGE / (median(checks) / SMALL))


def cpu(work: Callable[[], None]) -> float:
    """Seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def check(path: Path, events: int) -> None:
    report = verify(path, KEY.public)
    if not report.ok or report.events != events:
        raise SystemExit(f"the ledger for the measurement is not whole: {report.fault}")


def hash_alone(path: Path) -> None:
    with path.open("rb") as file:
        for line in file:
            hashlib.sha256(line).hexdigest()


def part(figures: Figures) -> str:
    """The section of docs/benchmarks.md."""
    return f"""## Checking the ledger

`depot ledger verify` of events of 900 bytes with a checkpoint after each {EVERY:,}; CPU time of one core.

| | measured | asked for |
|---|---|---|
| events a CPU second, {SMALL:,} events, median of {ROUNDS} | **{figures.events_a_second:,.0f}** | 100,000 |
| CPU time / that of reading and hashing the lines alone | {figures.to_hashing_alone:.1f} | |
| cost of an event among {LARGE:,} / among {SMALL:,} | {figures.large_to_small:.2f} | 1 |
"""


if __name__ == "__main__":
    print(part(measure()))
