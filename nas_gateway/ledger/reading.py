"""Reading whole chains from the table, by (shard, seq), as the lines of an export: never an index, never a scan.

What a row holds goes into the line as it is, whatever it is: a row that was tampered with must come out as that, for the
verifier to name. Imported by `checkpoints` and `export`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

from pynamodb.exceptions import PynamoDBException

from chalicelib.errors import LedgerUnavailable
from nas_gateway.ledger.events import INDEX_ONLY, MAX_INTEGER, index_keys
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.ledger.verify import sealed

_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


class Events(Protocol):
    """Where chains are read from."""

    def lines(self, shard: int, first: int, last: int = MAX_INTEGER) -> Iterator[tuple[int, bytes]]:
        """(seq, line) of the events that are there from `first` to `last`, ascending; a page at a time.

        Raises `LedgerUnavailable`.
        """
        ...


class TableEvents:
    """The table that `PHIFileTracking` is bound to; consistent reads, at most 1 MiB at a time.

    `misfiled` counts the good events that were read whose index attributes are not what the event says, so that questions by an
    index do not find them, or find them elsewhere; `first_misfiled` is the (shard, seq) of the first. Hashes do not cover
    these attributes, and lines do not have them: only who reads the table can see it.
    """

    def __init__(self) -> None:
        self.misfiled = 0
        self.first_misfiled: tuple[int, int] | None = None

    def lines(self, shard: int, first: int, last: int = MAX_INTEGER) -> Iterator[tuple[int, bytes]]:
        table = PHIFileTracking._get_connection()
        while first <= last:
            try:
                page = table.query(
                    str(shard), range_key_condition=PHIFileTracking.seq.between(first, last), consistent_read=True
                )
            except PynamoDBException as error:
                raise LedgerUnavailable("The tracking ledger cannot be read. Try again in a while.") from error
            for item in page["Items"]:
                seq, text = int(item["seq"]["N"]), line(item)
                if not filed(item) and sealed(text):  # an event that was changed itself is the verifier's to name
                    self.misfiled += 1
                    self.first_misfiled = self.first_misfiled or (shard, seq)
                yield seq, text
            if "LastEvaluatedKey" not in page:
                return
            first = int(page["LastEvaluatedKey"]["seq"]["N"]) + 1


def filed(item: dict[str, dict[str, Any]]) -> bool:
    """Whether a stored row has the index attributes that its event has, and no others."""
    stamp, outcome = item.get("at", {}).get("S", ""), item.get("outcome", {}).get("S", "")
    expected = index_keys(stamp, int(item["shard"]["N"]), int(item["seq"]["N"]), outcome)
    return {name: item[name] for name in INDEX_ONLY if name in item} == {k: {"S": v} for k, v in expected.items()}


def line(item: dict[str, dict[str, Any]]) -> bytes:
    """One stored row as a line: the canonical form, with `hash` among the fields, if the row has one."""
    event = {name: _value(name, *next(iter(typed.items()))) for name, typed in item.items() if name not in INDEX_ONLY}
    return _encode(event).encode(errors="surrogatepass") + b"\n"


def _value(name: str, kind: str, value: Any) -> Any:
    if kind == "N" and value.removeprefix("-").isdigit():
        return int(value)
    if name == "metadata" and kind == "S":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    # What an event never holds (sets, lists, binary) need not be told apart further: it has no canonical form.
    return value if kind in ("S", "BOOL") else {kind: repr(value)}
