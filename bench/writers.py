"""What many writers to one ledger do to each other: events a second, and the longest that any of them waited.

Against the embedded AWS, which answers one request at a time: its seconds say nothing about DynamoDB, so what is reported
are ratios to a lone writer in the same run, and waits against the patience that the service has. As a program
(`python -m bench.writers PREFIX THREADS EVENTS HOT`) it is one of the processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chalicelib.dynamo import bind
from nas_gateway.ledger.append import BUDGET
from nas_gateway.ledger.chain import verify_chain
from nas_gateway.ledger.ledger import Ledger
from tests.support.ledger_env import TABLES, all_events, fresh_tables, upload
from tests.support.ministack import CREDENTIALS, ministack

ROOT = Path(__file__).parents[1]
# (what, processes, threads of each, events of each writer, whether all of them go to one shard)
KINDS = (
    ("one", 1, 1, 300, False),
    ("64 threads of one process", 1, 64, 15, False),
    ("8 processes of 8 threads", 8, 8, 15, False),
    ("64 threads of one process, one shard", 1, 64, 15, True),
    ("8 processes of 8 threads, one shard", 8, 8, 10, True),
)


@dataclass(frozen=True, slots=True)
class Waits:
    """Of one kind: events a second, and seconds that the median, the 99th of 100, and the last event took."""

    name: str
    rate: float
    median: float
    late: float
    longest: float


def measure() -> list[Waits]:
    with tempfile.TemporaryDirectory() as folder, ministack(Path(folder)) as url, environment(url):
        return [run(*kind) for kind in KINDS]


@contextmanager
def environment(url: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({**CREDENTIALS, "AWS_ENDPOINT_URL_DYNAMODB": url})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(name: str, processes: int, threads: int, events: int, hot: bool) -> Waits:
    """Raises `SystemExit` when an event is lost, doubled or refused."""
    arguments = [sys.executable, "-m", "bench.writers", fresh_tables(), str(threads), str(events), str(int(hot))]
    started = [
        subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    begun = time.monotonic()
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    told = [each.communicate()[0] for each in started]
    taken = time.monotonic() - begun
    if any(each.returncode for each in started):
        raise SystemExit("a writer was refused")
    waits = sorted(wait for text in told for wait in json.loads(text))
    found = list(all_events())
    if not verify_chain(found).ok or len(found) != processes * threads * events:
        raise SystemExit("the ledger is not whole")
    count = len(waits)
    return Waits(name, count / taken, waits[count // 2], waits[count * 99 // 100], waits[-1])


def write(threads: int, events: int, hot: bool) -> list[float]:
    """Seconds that each event took."""
    ledger = Ledger(server_role="services")

    def one(_: int) -> list[float]:
        waits = []
        for _ in range(events):
            start = time.monotonic()
            ledger.record(upload(upload_id="hot") if hot else upload())
            waits.append(time.monotonic() - start)
        return waits

    with ThreadPoolExecutor(threads) as pool:
        return [wait for waits in pool.map(one, range(threads)) for wait in waits]


def part(found: Sequence[Waits]) -> str:
    """The section of docs/benchmarks.md."""
    lone = found[0].rate
    rows = "\n".join(
        f"| {each.name} | {each.rate / lone:.2f} | {each.median:.2f} s, {each.late:.2f} s, **{each.longest:.2f} s** |"
        for each in found
    )
    return f"""### Many writers

Writers that do nothing but write, over all shards or all in one, against the embedded AWS, which has one thread and shares the
cores with them. Nobody was refused (the service's patience is {BUDGET:g} s), no event lost or doubled.

| writers | events a second / those of a lone writer | an event's wait: median, 99th percentile, longest |
|---|---|---|
{rows}
"""


def main(prefix: str, threads: str, events: str, hot: str) -> None:
    bind(prefix, "us-east-1", *TABLES)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(write(int(threads), int(events), hot == "1")))


if __name__ == "__main__":
    main(*sys.argv[1:])
