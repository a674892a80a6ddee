"""Rows of snapshots: counting bucket by bucket, writing a whole count, reading the last one. Used in this package only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pynamodb.exceptions import PynamoDBException

from chalicelib.errors import LedgerUnavailable
from nas_gateway.files.tables import TrackedFile
from nas_gateway.reports.count import Count, Line
from nas_gateway.reports.tables import ReportRow

# Bytes of JSON a row: an item holds 400 KB (AWS, "Quotas in Amazon DynamoDB"), names of attributes included.
PIECE_BYTES: Final = 300_000
# What a run has counted is good for the next one for so long (seconds); whole counts are kept for the plots.
BUCKET_SECONDS: Final = 36 * 3600
HEAD_SECONDS: Final = 400 * 86400
# Whole snapshots that are kept; of older ones the head alone.
KEPT: Final = 2
# Cohorts that a head tells apart: at 255 bytes a name (`limits.MAX_SEGMENT_BYTES`) they stay below an item's 400 KB.
HEAD_COHORTS, OTHERS = 1000, "(others)"

# What of a row is counted: reading the rest takes twice the processor time.
_COUNTED: Final = ("file_id", "disk", "cohort", "file_type", "purpose", "state", "size", "created_at")

_BUCKETS, _HEADS = "buckets", "heads"


@dataclass(frozen=True, slots=True)
class Head:
    """One snapshot: when it was made (epoch seconds), and files and bytes of each cohort."""

    at: float
    cohorts: Mapping[str, list[int]]


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except PynamoDBException as error:
        raise LedgerUnavailable("The tables cannot be read or written. Try again in a while.") from error


def files_in_bucket(bucket: int) -> Iterator[TrackedFile]:
    """Every stored file of a bucket, once, though its place in the index may move meanwhile. Raises `LedgerUnavailable`."""
    seen = set[str]()
    with _answered():
        for file in TrackedFile.by_check.query(bucket, page_size=1000, attributes_to_get=list(_COUNTED)):
            if file.file_id not in seen:
                seen.add(file.file_id)
                yield file


def overdue(disk: str, now: float, limit: int) -> Iterator[TrackedFile]:
    """Temporary files whose deadline has passed, longest first. Raises `LedgerUnavailable`."""
    with _answered():
        yield from TrackedFile.by_cleanup.query(disk, TrackedFile.cleanup_due < now, limit=limit)


# --- a count that is under way ------------------------------------------------------------------------------------


def counted(bucket: int, now: float) -> list[Line] | None:
    """What an earlier run counted in this bucket, if that is not too long ago."""
    with _answered():
        rows = list(ReportRow.query(_BUCKETS, ReportRow.piece.startswith(f"{bucket:02d}#"), consistent_read=True))
    whole = next((row for row in rows if row.piece == f"{bucket:02d}#end"), None)
    if whole is None or whole.at < now - BUCKET_SECONDS:
        return None
    pieces = [row for row in rows if row is not whole and row.at == whole.at]
    if len(pieces) != json.loads(whole.body):
        return None
    return [line for row in pieces for line in json.loads(row.body)]


def keep_bucket(bucket: int, count: Count, now: float) -> None:
    """Write what was counted in a bucket; its end last."""
    pieces = list(_pieces(count.lines()))
    with _answered():
        for number, body in enumerate(pieces):
            _put(_BUCKETS, f"{bucket:02d}#{number:04d}", now, body, BUCKET_SECONDS)
        _put(_BUCKETS, f"{bucket:02d}#end", now, json.dumps(len(pieces)), BUCKET_SECONDS)


# --- a whole one --------------------------------------------------------------------------------------------------


def write(count: Count, now: float) -> None:
    """Write a snapshot, its head last, and delete what it makes superfluous."""
    series, pieces = f"snapshot:{now:.3f}", list(_pieces(count.lines()))
    with _answered():
        for number, body in enumerate(pieces):
            _put(series, f"{number:04d}", now, body, HEAD_SECONDS)
        body = json.dumps({"pieces": len(pieces), "cohorts": _largest(count.cohorts())}, ensure_ascii=False)
        _put(_HEADS, _stamp(now), now, body, HEAD_SECONDS)
        _forget(ReportRow.query(_BUCKETS))
        heads = list(ReportRow.query(_HEADS, scan_index_forward=False, limit=KEPT + 3))
        for old in heads[KEPT:]:
            _forget(ReportRow.query(f"snapshot:{old.at:.3f}"))


def last() -> tuple[Head, Count] | None:
    """The last snapshot that is whole, or None where there is none yet."""
    with _answered():
        for row in ReportRow.query(_HEADS, scan_index_forward=False, limit=KEPT):
            body = json.loads(row.body)
            rows = list(ReportRow.query(f"snapshot:{row.at:.3f}", consistent_read=True))
            if len(rows) == body["pieces"]:
                count = Count()
                for piece in rows:
                    count.add_lines(json.loads(piece.body))
                return Head(row.at, body["cohorts"]), count
    return None


def history(since: float) -> list[Head]:
    """Heads of the snapshots since, oldest first."""
    with _answered():
        rows = list(ReportRow.query(_HEADS, ReportRow.piece >= _stamp(since)))
    return [Head(row.at, json.loads(row.body)["cohorts"]) for row in rows]


def _put(series: str, piece: str, now: float, body: str, seconds: float) -> None:
    ReportRow(series, piece, at=now, body=body, expires_at=int(now + seconds)).save()


def _forget(rows: Iterable[ReportRow]) -> None:
    for row in list(rows):
        row.delete()


def _largest(cohorts: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The cohorts of a head; those beyond `HEAD_COHORTS`, which nobody has, as one."""
    ordered = sorted(cohorts.items(), key=lambda item: -item[1][1])
    kept, rest = dict(ordered[:HEAD_COHORTS]), [value for _, value in ordered[HEAD_COHORTS:]]
    return {**kept, OTHERS: [sum(part) for part in zip(*rest, strict=True)]} if rest else kept


def _stamp(at: float) -> str:
    """Epoch milliseconds, in as many digits as sort as numbers do until the year 33658."""
    return f"{round(at * 1000):015d}"


def _pieces(lines: Iterable[Line]) -> Iterator[str]:
    """JSON lists of at most `PIECE_BYTES`; one at least."""
    held, size, given = list[str](), 0, False
    for line in lines:
        text = json.dumps(line, separators=(",", ":"))
        if held and size + len(text) + 1 > PIECE_BYTES:
            yield f"[{','.join(held)}]"
            held, size, given = [], 0, True
        held.append(text)
        size += len(text) + 1
    if held or not given:
        yield f"[{','.join(held)}]"
