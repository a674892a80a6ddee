"""tus uploads: both our tiers against @tus/server with @tus/s3-store, onto one store, with one client, in one run.

A pair of uploads sends the same file through both, each first in every other pair; a round has some pairs in one PATCH and
one in chunks of 4 MiB. After each upload the object is read back from the store and compared with what was sent, and
deleted; neither is timed. CPU seconds are those of the server processes: our web and services tiers, the peer's node process.
The client and the store, and on our side the embedded DynamoDB, are not counted; they take from the same cores all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import store
from bench.probe import cpu_seconds
from bench.tus_peer import Peer, tus_peer

if TYPE_CHECKING:
    from bench.__main__ import Bench

MIB = 1024 * 1024
ROOT = Path(__file__).parents[1]
FILE_BYTES = 512 * MIB
COHORT = "TUS"
# Name of the kind -> bytes a PATCH holds; 0 is the whole file. 4 MiB is what fits through API Gateway (limits.py).
KINDS = {"one PATCH": 0, "4 MiB chunks": 4 * MIB}
# Pairs of uploads a round. One PATCH takes a few seconds, so short disturbances weigh more: the peer against itself gave
# ratios of 0.99 to 1.44 here.
PAIRS = {"one PATCH": 3, "4 MiB chunks": 1}
# What is asked of each: throughput over the peer's at least, CPU seconds over the peer's at most (None: nothing is).
ASKED: dict[str, tuple[float, float | None]] = {"one PATCH": (1.5, 0.8), "4 MiB chunks": (1.2, None)}


@dataclass(frozen=True)
class Measured:
    """One upload. `cpu` in CPU seconds, by process."""

    seconds: float
    cpu: dict[str, float]


def throughput(ours: Measured, theirs: Measured) -> float:
    """How many times the peer's throughput ours is."""
    return theirs.seconds / ours.seconds


def cpu(ours: Measured, theirs: Measured) -> float:
    """Our CPU seconds as a share of the peer's."""
    return sum(ours.cpu.values()) / sum(theirs.cpu.values())


@dataclass
class TusFigures:
    """(ours, theirs) of each pair, by kind."""

    rounds: int
    peer: str = ""
    pairs: dict[str, list[tuple[Measured, Measured]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One server under measurement. `key` turns an upload's URL into its key on the store; `forget` deletes what is there."""

    url: str
    pids: Mapping[str, int]
    metadata: Mapping[str, str]
    bucket: str
    key: Callable[[str], str]
    forget: Callable[[], None]
    token: str | None = None

    def upload(self, source: Path, chunk: int) -> Measured:
        """Send `source` in PATCHes of `chunk` bytes (0: one), compare what was stored, delete it."""
        values = [f"{name}={value}" for name, value in self.metadata.items()]
        command = [sys.executable, "-m", "bench.tus_client", self.url, str(source), str(chunk), *values]
        env = {**os.environ, **({"DEPOT_TOKEN": self.token} if self.token else {})}
        before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
        cpu = {name: cpu_seconds(pid) - before[name] for name, pid in self.pids.items()}
        if done.returncode != 0:
            raise SystemExit(f"tus upload to {self.url} failed:\n{done.stderr}")
        told = json.loads(done.stdout)
        compare(self.bucket, self.key(told["location"]), source)
        self.forget()
        return Measured(told["seconds"], cpu)


def compare(bucket: str, key: str, source: Path) -> None:
    """Read the object back. Ends the run unless it holds what was sent: a fast server that loses bytes is no measure."""
    body, stored = store.client().get_object(Bucket=bucket, Key=key)["Body"], hashlib.sha256()
    while block := body.read(MIB):
        stored.update(block)
    with source.open("rb") as file:
        if stored.digest() != hashlib.file_digest(file, "sha256").digest():
            raise SystemExit(f"{bucket}: the object differs from what was uploaded")


class Tus:
    """Both sides, ready to be measured."""

    def __init__(self, bench: Bench, peer: Peer, bucket: str, source: Path) -> None:
        self._bench, self._source = bench, source
        self.ours = Side(
            url=f"{bench.web}/uploads",
            pids={tier: bench.stack.pids[tier] for tier in ("web", "services")},
            metadata={"cohort": COHORT, "protocol_year": "2024", "file_type": "patient", "filename": "bench.bin"},
            bucket=os.environ["S3_BUCKET"],
            key=lambda _: f"submissions/{self._file()['path']}",
            forget=lambda: bench.delete(self._file()["file_id"]),
            token=bench.token,
        )
        self.theirs = Side(
            url=peer.url,
            pids={"node": peer.pid},
            metadata={"filename": "bench.bin"},
            bucket=bucket,
            key=lambda url: url.rsplit("/", 1)[1],
            forget=lambda: store.empty(bucket),
        )

    def _file(self) -> dict[str, str]:
        """The one file of the cohort: each upload is deleted before the next."""
        [file] = self._bench.files(COHORT)
        return file

    def warm(self) -> None:
        """One upload each that is not counted: connections, compiled code, memory that the kernel has handed out before."""
        for side in (self.ours, self.theirs):
            side.upload(self._source, 0)

    def pair(self, kind: str, figures: TusFigures) -> None:
        """One upload through each, the other first than the last time."""
        pairs, chunk = figures.pairs.setdefault(kind, []), KINDS[kind]
        order = (self.ours, self.theirs) if len(pairs) % 2 == 0 else (self.theirs, self.ours)
        measured = {side.url: side.upload(self._source, chunk) for side in order}
        ours, theirs = measured[self.ours.url], measured[self.theirs.url]
        pairs.append((ours, theirs))
        print(
            f"tus in {kind}: {throughput(ours, theirs):.2f} of the peer's throughput, "
            f"{cpu(ours, theirs):.2f} of its CPU seconds",
            flush=True,
        )


def measure(bench: Bench, rounds: int) -> TusFigures:
    """All rounds, in a bucket of the peer's own that is gone afterwards."""
    bucket = f"{os.environ['S3_BUCKET']}-peer"
    store.client().create_bucket(Bucket=bucket)
    source = bench.make("tus.bin", FILE_BYTES)
    try:
        with tus_peer(bucket) as peer:
            figures, tus = TusFigures(rounds, peer.versions), Tus(bench, peer, bucket, source)
            tus.warm()
            for kind in [name for name in KINDS for _ in range(PAIRS[name])] * rounds:
                tus.pair(kind, figures)
    finally:
        store.discard(bucket)
        source.unlink()
    return figures
