"""When a stored file is to be read again: each file has a fixed slot in the cycle, by its id.

Files that arrived together therefore come due one by one, and so does what was checked together after an outage. Pure.
Imported by the registry (the first check) and by `nas_gateway.integrity` (every later one).
"""

from __future__ import annotations

import zlib

from nas_gateway.files.tables import CHECK_BUCKETS

DAY_SECONDS = 24 * 3600
# The cycle's share of the period. A check that is due waits for a run, and may be put off; the rest is room for that.
CYCLE = 0.9


def bucket_of(file_id: str) -> int:
    """The file's partition of the index `by-check`."""
    return zlib.crc32(file_id.encode()) % CHECK_BUCKETS


def next_check(file_id: str, now: float, period: float) -> float:
    """The file's next slot after `now` (epoch seconds): within `CYCLE` of `period` (seconds), the same at every call.

    The lowest bits of the checksum name the bucket, so the place in the cycle is taken from the others: each bucket's
    files are spread over the whole of it.
    """
    cycle = period * CYCLE
    slot = (zlib.crc32(file_id.encode()) >> 4) / 2**28 * cycle
    return now + cycle - (now - slot) % cycle


def first_check(file_id: str, now: float, period: float, *, whole_known: bool) -> float:
    """As `next_check`; a file whose whole SHA-256 nobody knows yet comes within a day."""
    return next_check(file_id, now, period if whole_known else min(period, DAY_SECONDS))
