"""Signing the heads of all chains, every few minutes. `Checkpointer` is for the schedule and the CLI, `listing` for the API.

A checkpoint is only signed for chains that go on from the last one, event by event, up to the heads that it names: what
was cut off or rewritten is told (`LedgerBroken`, and an alarm in the log), and never signed over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import Any

from chalicelib import metrics, observability
from chalicelib.errors import LedgerBroken, SettingsError
from nas_gateway.ledger.events import iso, utcnow
from nas_gateway.ledger.reading import Events, TableEvents
from nas_gateway.ledger.signing import SigningKey
from nas_gateway.ledger.stores import CheckpointStore
from nas_gateway.ledger.verify import (
    CONTEXT,
    EMPTY,
    GENESIS,
    SHARDS,
    Checkpoint,
    Fault,
    Head,
    Signed,
    Verifier,
    parse_checkpoint,
    sealed,
)


class Checkpointer:
    """Signs checkpoints with `key` into `store`. Any number may run at once, in any number of processes: one wins."""

    def __init__(
        self,
        store: CheckpointStore,
        key: SigningKey,
        *,
        events: Events | None = None,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._store, self._key, self._clock = store, key, clock
        self._events = events or TableEvents()

    def run(self) -> Checkpoint | None:
        """Sign one checkpoint. None when another process was faster: then its checkpoint stands.

        Reads all events since the last one (the first time: all). Raises `LedgerBroken` (and logs the alarm),
        `LedgerUnavailable`, `StorageError`, and `SettingsError` when the key is not the one to sign with.
        """
        last = self._last()
        self._check_key(last)
        return self._sign(last, None)

    def rotate(self, new: SigningKey) -> Checkpoint | None:
        """Sign a checkpoint with the old key that names `new`, countersigned by it; from then on `new` must sign.

        None when another process was faster (call again). Safe to repeat: done already, the last checkpoint is returned.
        Raises as `run` does.
        """
        last = self._last()
        if last is not None and last.next_key == new.public:
            return last
        self._check_key(last)
        if new.public == self._key.public:
            raise SettingsError("The new signing key is the old one")
        return self._sign(last, new)

    def _last(self) -> Checkpoint | None:
        line = self._store.last()
        if line is None:
            return None
        try:
            signed = parse_checkpoint(line)
        except ValueError as error:
            raise self._alarm(Fault(-1, -1, f"the last one kept {error}", 0)) from None
        if not signed.genuine():
            raise self._alarm(Fault(-1, -1, "its signature is wrong", signed.checkpoint.number))
        return signed.checkpoint

    def _check_key(self, last: Checkpoint | None) -> None:
        if last is not None and (last.next_key or last.key) != self._key.public:
            raise SettingsError(
                f"LEDGER_SIGNING_KEY is not the key that checkpoint {last.number} says must sign the next one: use that "
                "one, or repeat 'depot ledger rotate-key' if it was interrupted"
            )

    def _sign(self, last: Checkpoint | None, new: SigningKey | None) -> Checkpoint | None:
        made = Checkpoint(
            number=last.number + 1 if last else 1,
            at=max(iso(self._clock()), last.at if last else ""),  # never back, whatever the hosts' clocks say
            heads=self._walk(last.heads if last else (EMPTY,) * SHARDS),
            prev=last.hash() if last else GENESIS,
            key=self._key.public,
            next_key=new.public if new else None,
        )
        message = CONTEXT + made.body()
        signed = Signed(made, self._key.sign(message), new.sign(message) if new else None)
        if not self._store.put(made.number, signed.line()):
            return None
        observability.log_event("ledger_checkpoint", checkpoint=made.number, total=sum(head.seq for head in made.heads))
        return made

    def _walk(self, start: tuple[Head, ...]) -> tuple[Head, ...]:
        """The heads now, reached from `start` through events that all verify."""
        run = Verifier("", heads=start)
        for shard, head in enumerate(start):
            known = head == EMPTY
            for seq, line in self._events.lines(shard, max(head.seq, 1)):
                if not known:  # the event that the last checkpoint names must be there as it was
                    if sealed(line) != (shard, head):
                        raise self._alarm(Fault(shard, min(seq, head.seq), "is not what the last checkpoint signed"))
                    known = True
                elif fault := run.feed(line):
                    raise self._alarm(fault)
            if not known:
                raise self._alarm(Fault(shard, head.seq, "missing: the last checkpoint covers it"))
        return run.heads

    @staticmethod
    def _alarm(fault: Fault) -> LedgerBroken:
        where = (
            {"shard": fault.shard, "seq": fault.seq} if fault.checkpoint is None else {"checkpoint": fault.checkpoint}
        )
        metrics.count("depot_ledger_broken_total")
        observability.log_event("ledger_broken", level=logging.ERROR, rule=fault.reason, **where)
        what = f"shard {fault.shard}, seq {fault.seq}" if fault.checkpoint is None else f"checkpoint {fault.checkpoint}"
        return LedgerBroken(f"The ledger does not verify: {what}: {fault.reason}. No checkpoint was signed.")


def first_key(store: CheckpointStore) -> str | None:
    """The public key that signed checkpoint 1, which is what a verifier starts from; None while there is none.

    Raises `LedgerBroken` and `StorageError`.
    """
    line = next(store.read(), None)
    if line is None:
        return None
    try:
        return parse_checkpoint(line).checkpoint.key
    except ValueError as error:
        raise LedgerBroken(f"Checkpoint 1 {error}.") from None


def listing(store: CheckpointStore, *, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
    """Checkpoints above `after` as JSON values, ascending: what the API answers. `store.read` gives the lines themselves."""
    return [json.loads(line) for line in islice(store.read(after), limit)]
