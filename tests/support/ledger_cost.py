"""What an upload's two events cost in DynamoDB write units, by AWS's published rules for item sizes.

Sources: Amazon DynamoDB developer guide, "DynamoDB item sizes and formats" (names and text in UTF-8 bytes; numbers about one
byte for two significant digits and one more; booleans one) and "read and write operations" (one unit a started KiB, two
in a transaction; an index entry that is put or removed costs one a started KiB).

Run as `python -m tests.support.ledger_cost URL` against an endpoint for the latencies, too.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from nas_gateway.ledger.events import Outcome
from nas_gateway.ledger.tables import OpenOperation, PHIFileTracking
from tests.support.ledger_env import LedgerFactory, real_tables, upload


def item_bytes(model: Any) -> int:
    """Size of a row as DynamoDB counts it."""
    total = 0
    for name, value in model.serialize().items():
        ((kind, content),) = value.items()
        size = {"S": lambda v: len(v.encode()), "N": lambda v: (len(v) + 1) // 2 + 1, "BOOL": lambda v: 1}[kind](
            content
        )
        total += len(name.encode()) + size
    return total


def event_units(event: PHIFileTracking) -> int:
    """Write units of an event with its index entries: sparse indexes count only when their key is there."""
    kib = -(-item_bytes(event) // 1024)
    keys = ("tracking_id", "file_id", "cohort", "user", "action", "day", "failed_day")
    return 2 * kib + kib * sum(getattr(event, key) is not None for key in keys)


def row_units(row: OpenOperation) -> int:
    return 3 * -(-item_bytes(row) // 1024)


def main(url: str) -> None:
    with real_tables(url) as make:
        units(make)
        latency(make)


def units(make: LedgerFactory) -> None:
    ledger = make()
    intent = ledger.begin(upload())
    row = OpenOperation.get(intent.tracking_id)
    done = ledger.finish(intent, Outcome.COMPLETED, bytes_transferred=123_456_789, file_hash="0" * 64)
    first = PHIFileTracking.get(done.shard, done.seq - 1)
    print("bytes: intent", item_bytes(first), "open row", item_bytes(row), "outcome", item_bytes(done))
    print("write units: intent", event_units(first) + row_units(row), "outcome", event_units(done) + row_units(row))


def latency(make: LedgerFactory, rounds: int = 500) -> None:
    ledger, operation = make(), upload()
    times: dict[str, list[float]] = {"begin": [], "finish": []}
    ledger.record(operation)
    for _ in range(rounds):
        start = time.perf_counter()
        intent = ledger.begin(operation)
        middle = time.perf_counter()
        ledger.finish(intent, Outcome.COMPLETED)
        times["begin"].append(middle - start)
        times["finish"].append(time.perf_counter() - middle)
    for name, values in times.items():
        cuts = statistics.quantiles(values, n=100)
        print(f"{name}: median {cuts[49] * 1000:.2f} ms, 99th percentile {cuts[98] * 1000:.2f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
