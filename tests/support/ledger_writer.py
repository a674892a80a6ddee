"""A process that writes to the ledger: `python -m tests.support.ledger_writer PREFIX THREADS EVENTS HOT`.

Waits for a line on stdin, so that several start together; prints the ids of the events it was told are written.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from chalicelib.dynamo import bind
from nas_gateway.ledger.events import Outcome
from nas_gateway.ledger.ledger import Ledger
from tests.support.ledger_env import TABLES, upload


def write(ledger: Ledger, name: str, events: int, hot: int) -> list[str]:
    """`events` events over all shards, but one of each `hot` (0: none) in the one shard where everybody writes."""
    written = []
    for number in range(events):
        operation = upload(user=name, upload_id="hot") if hot and number % hot == 0 else upload(user=name)
        written.append(ledger.record(operation, Outcome.COMPLETED).event_id)
    return written


def write_all(name: str, threads: int, events: int, hot: int) -> list[str]:
    ledger = Ledger(
        server_role="services"
    )  # with the budget that it has in service: who waits longer is refused, and fails
    with ThreadPoolExecutor(threads) as pool:
        runs = [pool.submit(write, ledger, f"{name}-{number}", events, hot) for number in range(threads)]
        return [event_id for run in runs for event_id in run.result()]


if __name__ == "__main__":
    prefix, thread_count, event_count, one_of = sys.argv[1:]
    bind(prefix, "us-east-1", *TABLES)
    sys.stdin.readline()
    print("\n".join(write_all(prefix, int(thread_count), int(event_count), int(one_of))))
