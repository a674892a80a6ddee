"""Checking events that are at hand as objects, such as an API's answer. Whole exports are `verify`'s.

Used by tests and by whoever reads events; imports only `events` and `verify`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nas_gateway.ledger.events import SHARDS, VERSION, digest
from nas_gateway.ledger.verify import EMPTY, Fault, Head

__all__ = ["EMPTY", "ChainReport", "Fault", "Head", "verify_chain"]


@dataclass(slots=True)
class ChainReport:
    """How many events were good, the heads after the last good one, and the first fault, if any."""

    events: int = 0
    heads: dict[int, Head] = field(default_factory=dict)
    fault: Fault | None = None

    @property
    def ok(self) -> bool:
        return self.fault is None


def verify_chain(events: Iterable[Mapping[str, Any]], heads: Mapping[int, Head] | None = None) -> ChainReport:
    """Check events, each shard's in ascending order, shards mixed as they come; stops at the first bad one.

    `heads` is where an earlier check ended. A chain cannot show that its own end was cut off, nor that all of it was
    written anew: for that its heads are compared with a signed checkpoint.
    """
    report = ChainReport(heads=dict(heads or {}))
    for event in events:
        shard, seq = event.get("shard"), event.get("seq")
        if type(shard) is not int or not 0 <= shard < SHARDS or type(seq) is not int:
            report.fault = Fault(-1, -1, "shard or seq is not a number of the format")
            break
        head = report.heads.get(shard, EMPTY)
        reason = _wrong(event, seq, head)
        if reason:
            # A gap is named by the event that is missing, everything else by the event that is there.
            report.fault = Fault(shard, head.seq + 1 if seq > head.seq + 1 else seq, reason)
            break
        report.heads[shard] = Head(seq, event["hash"])
        report.events += 1
    return report


def _wrong(event: Mapping[str, Any], seq: int, head: Head) -> str | None:
    if seq > head.seq + 1:
        return "missing"
    if seq <= head.seq:
        return "out of order or doubled"
    if event.get("v") != VERSION:
        return "unknown version"
    if event.get("prev_hash") != head.hash:
        return "does not follow the event before it"
    try:
        expected = digest(event)
    except ValueError:
        return "has no canonical form"
    return None if event.get("hash") == expected else "content does not match its hash"
