"""The whole ledger as lines: every event, and among them the checkpoints, each behind exactly the events that it covers.

The order is fixed (for each checkpoint: what it adds, by shard and sequence, then the checkpoint; at the end what none
covers yet), so two exports are the same, byte for byte, up to the last checkpoint that both have. Memory does not grow.
For the CLI (`export`) and for downloads (`lines`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from chalicelib.errors import DepotError, LedgerBroken
from nas_gateway.ledger.reading import Events, TableEvents
from nas_gateway.ledger.stores import CheckpointStore
from nas_gateway.ledger.verify import (
    EMPTY,
    MAX_LINE,
    SHARDS,
    Head,
    Verifier,
    lines_of,
    parse_checkpoint,
    sealed,
)

BLOCK: Final = 1024 * 1024
_MARK: Final = b'\n{"checkpoint":'


@dataclass(frozen=True, slots=True)
class Exported:
    """What a run added, and what of the file it made anew because no checkpoint covered it then."""

    events: int
    checkpoints: int
    rewritten: int


def lines(
    store: CheckpointStore | None,
    *,
    events: Events | None = None,
    after: int = 0,
    heads: Sequence[Head] = (EMPTY,) * SHARDS,
) -> Iterator[bytes]:
    """The lines of an export, behind checkpoint `after` with these heads. Raises `LedgerUnavailable`, `StorageError`.

    Rows come as they stand in the table, good or not: to judge them is the verifier's part.
    """
    source, reached = events or TableEvents(), [head.seq for head in heads]
    for line in store.read(after) if store else ():
        try:
            found = parse_checkpoint(line).checkpoint
        except ValueError:
            raise LedgerBroken("A checkpoint in the store is not in the form of one.") from None
        for shard, head in enumerate(found.heads):
            yield from (event for _, event in source.lines(shard, reached[shard] + 1, head.seq))
            reached[shard] = max(reached[shard], head.seq)
        yield line
    for shard in range(SHARDS):
        yield from (event for _, event in source.lines(shard, reached[shard] + 1))


def export(path: Path, store: CheckpointStore | None, *, events: Events | None = None) -> Exported:
    """Write the ledger to `path`, or add to what an earlier run wrote there. Readable by its owner only.

    The end of the file is checked first: its last checkpoint is the store's, what follows it is whole, and the table still
    has it. What follows it is then written anew, in its place among new checkpoints. Raises `LedgerBroken` when the end of
    the file is not what the ledger has (the file is left as it is), and as `lines` does; also, once all is written, when
    an index does not have an event as it is.
    """
    source = events or TableEvents()
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DepotError(f"FILE cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DepotError("Another export writes to this file.") from None
        number, heads, offset, rewritten = _resume(file, store, source)
        file.truncate(offset)
        file.seek(offset)
        written = checkpoints = 0
        for line in lines(store, events=source, after=number, heads=heads):
            file.write(line)
            covered = line.startswith(_MARK[1:])
            checkpoints, written = checkpoints + covered, written + (not covered)
        file.flush()
        os.fsync(file.fileno())
    if isinstance(source, TableEvents) and source.first_misfiled is not None:
        shard, seq = source.first_misfiled
        raise LedgerBroken(
            f"The file is written, but the table's index attributes were changed: {source.misfiled} of the events just read, "
            f"first shard {shard}, seq {seq}. Questions by an index do not show such an event where it belongs; the file does."
        )
    return Exported(written - rewritten, checkpoints, rewritten)


def _resume(file: BinaryIO, store: CheckpointStore | None, source: Events) -> tuple[int, tuple[Head, ...], int, int]:
    """Last checkpoint in the file, its heads, where its line ends, and how many events follow it."""
    number, offset = 0, 0
    heads: tuple[Head, ...] = (EMPTY,) * SHARDS
    last = _last_checkpoint(file)
    if last is not None:
        start, line = last
        try:
            found = parse_checkpoint(line).checkpoint
        except ValueError:
            raise LedgerBroken("The last checkpoint in the file is not in the form of one.") from None
        number, heads, offset = found.number, found.heads, start + len(line)
        if store is None or next(store.read(number - 1), None) != line:
            raise LedgerBroken(f"Checkpoint {number} in the file is not the one in the store.")
    file.seek(offset)
    run = Verifier("", heads=heads)
    for line in lines_of(file):
        if not line.endswith(b"\n"):  # an earlier run was killed here
            break
        if fault := run.feed(line):
            raise LedgerBroken(f"The end of the file is not whole: {fault}.")
    for shard, head in enumerate(run.heads):
        # The hash at a chain's end stands for all before it.
        there = next(source.lines(shard, head.seq, head.seq), None) if head != EMPTY else None
        if head != EMPTY and (there is None or sealed(there[1]) != (shard, head)):
            raise LedgerBroken(f"The table no longer has what the file has: shard {shard}, seq {head.seq}.")
    return number, heads, offset, run.events


def _last_checkpoint(file: BinaryIO) -> tuple[int, bytes] | None:
    """Where the last checkpoint's line starts, and the line; None when there is none. Unfinished lines do not count."""
    whole = _last(file, b"\n", file.seek(0, os.SEEK_END)) + 1
    mark = _last(file, _MARK, whole)
    file.seek(mark + 1)
    line = file.readline(min(MAX_LINE, whole - file.tell()))
    return (mark + 1, line) if line.startswith(_MARK[1:]) else None


def _last(file: BinaryIO, what: bytes, end: int) -> int:
    """The last place before `end` where `what` stands, or -1; reads backwards, a block at a time."""
    begin, rest = end, b""
    while begin:
        size = min(BLOCK, begin)
        begin -= size
        file.seek(begin)
        block = file.read(size) + rest
        if (place := block.rfind(what)) >= 0:
            return begin + place
        rest = block[: len(what) - 1]
    return -1
