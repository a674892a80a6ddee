"""Measure Depot against boto3, nginx and a tus server on one S3 store, and its ledger; write docs/benchmarks.md.

    S3_ENDPOINT=… S3_ACCESS_KEY=… S3_SECRET_KEY=… python -m bench [--rounds 5] [--gib 1] [--only store|tus|ledger]

`--only` measures one part, and leaves the others' text in the page as it is; the ledger's needs no store. Without
S3_ENDPOINT it brings up a one-node Ceph (infra/local/ceph-rgw) for the run. Each round measures both sides, one after the
other and in turn first; what is reported is the median of the rounds' ratios, with the smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import ledger, report, store, tus, writers
from bench.nginx import nginx
from bench.probe import cpu_seconds, peak_rss, reset_peak
from bench.tus_peer import install
from tests.support.stack import RunningStack, running_stack

MIB, GIB = 1024**2, 1024**3
ROOT = Path(__file__).parents[1]


@dataclass
class Figures:
    """Everything measured in one run. Seconds, ratios (ours / theirs in throughput), bytes."""

    gib: float
    rounds: int
    upload: list[tuple[float, float]] = field(default_factory=list)  # (ours, boto3's) seconds
    download: list[tuple[float, float]] = field(default_factory=list)
    cpu_upload: dict[str, list[float]] = field(default_factory=dict)  # CPU seconds a GiB, by process
    cpu_download: dict[str, list[float]] = field(default_factory=dict)
    growth: dict[str, int] = field(default_factory=dict)  # bytes of peak RSS over idle
    memory_gib: float = 2.0


class Bench:
    def __init__(self, stack: RunningStack, folder: Path, gib: float) -> None:
        self.stack, self.folder, self.gib = stack, folder, gib
        self.token = self._sign_in()
        self.source = folder / "source.bin"  # made when it is needed: `make`

    def make(self, name: str, size: int) -> Path:
        """A file of `size` bytes, whole MiB, that neither repeats nor compresses from one MiB to the next."""
        block = os.urandom(MIB)
        with (self.folder / name).open("wb") as out:
            for number in range(size // MIB):
                out.write(number.to_bytes(8, "big") + block[8:])
        return self.folder / name

    def _sign_in(self) -> str:
        body = json.dumps({"username": "admin", "password": self.stack.document["password"]})
        answer = self._curl("-H", "Content-Type: application/json", "-d", body, f"{self.web}/session")
        return str(json.loads(answer)["token"])

    @property
    def web(self) -> str:
        return str(self.stack.document["web_url"])

    @property
    def services(self) -> str:
        return str(self.stack.document["services_url"])

    @staticmethod
    def _curl(*arguments: str) -> str:
        command = ["curl", "-sS", "--fail-with-body", "--noproxy", "*", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def _timed(self, *arguments: str, body: str = "/dev/null") -> float:
        return float(self._curl("-o", body, "-w", "%{time_total}", *arguments))

    def upload(self, source: Path | None = None) -> tuple[float, str, str]:
        """Seconds of one upload through both tiers, the file's id, and its key on the store."""
        where = f"{self.web}/files?cohort=BENCH&protocol_year=2024&file_type=patient&filename={uuid.uuid4().hex}.bin"
        seconds, answer = self._client("upload", where, str(source or self.source))
        told = json.loads(answer)
        return seconds, str(told["file_id"]), f"submissions/{told['path']}"

    def download(self, file_id: str) -> float:
        return self._client("download", f"{self.web}/files/{file_id}/content")[0]

    def _client(self, *arguments: str) -> tuple[float, str]:
        done = subprocess.run(
            [sys.executable, "-m", "bench.client", *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "DEPOT_TOKEN": self.token},
        )
        seconds, _, answer = done.stdout.partition("\n")
        return float(seconds), answer

    def delete(self, file_id: str) -> None:
        bearer = f"Authorization: Bearer {self.token}"
        self._curl("-X", "DELETE", "-H", bearer, f"{self.web}/files/{file_id}")

    def files(self, cohort: str) -> list[dict[str, str]]:
        """The first page of a cohort's files."""
        bearer = f"Authorization: Bearer {self.token}"
        found: list[dict[str, str]] = json.loads(self._curl("-H", bearer, f"{self.web}/files?cohort={cohort}"))["files"]
        return found

    def boto3(self, *arguments: str) -> float:
        command = [sys.executable, "-m", "bench.store", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return float(done.stdout)

    def through_nginx(self, url: str) -> float:
        path = f"upload_prechecks/bench/{uuid.uuid4().hex}"
        where = f"{url}/internal/storage/upload?disk=workspace&path={path}"
        seconds = self._timed("-X", "POST", "-T", str(self.source), where)
        self._curl("-d", json.dumps({"disk": "workspace", "path": path}), f"{url}/internal/storage/delete")
        return seconds


def rounds(bench: Bench, figures: Figures, pids: dict[str, int]) -> None:
    """Upload and download, ours and boto3's, each first in every other round."""
    for number in range(figures.rounds):
        key = f"bench/{uuid.uuid4().hex}"
        measured: dict[str, Any] = {}

        def ours(measured: dict[str, Any] = measured) -> None:
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            measured["ours"], measured["id"], measured["key"] = bench.upload()
            for name, pid in pids.items():
                spent = (cpu_seconds(pid) - before[name]) / bench.gib
                figures.cpu_upload.setdefault(name, []).append(spent)

        def theirs(measured: dict[str, Any] = measured, key: str = key) -> None:
            measured["theirs"] = bench.boto3("upload", str(bench.source), key)

        for step in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            step()
        figures.upload.append((measured["ours"], measured["theirs"]))

        def ours_down(measured: dict[str, Any] = measured) -> None:
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            measured["down"] = bench.download(measured["id"])
            for name, pid in pids.items():
                spent = (cpu_seconds(pid) - before[name]) / bench.gib
                figures.cpu_download.setdefault(name, []).append(spent)

        def theirs_down(measured: dict[str, Any] = measured) -> None:
            measured["get_object"] = bench.boto3("download", measured["key"])

        for step in (ours_down, theirs_down) if number % 2 == 0 else (theirs_down, ours_down):
            step()
        figures.download.append((measured["down"], measured["get_object"]))
        print(
            f"round {number + 1}: upload {measured['theirs'] / measured['ours']:.2f} of boto3's throughput, "
            f"download {measured['get_object'] / measured['down']:.2f}",
            flush=True,
        )
        bench.delete(measured["id"])
        remove(key)


def remove(key: str) -> None:
    store.client().delete_object(Bucket=os.environ["S3_BUCKET"], Key=key)


def behind_nginx(bench: Bench, figures: Figures, folder: Path) -> None:
    """CPU of nginx in the web tier's place, over the same number of rounds."""
    with nginx(folder, bench.services, bench.stack.document["api_key"]) as (url, pid):
        for _ in range(figures.rounds):
            before = cpu_seconds(pid)
            bench.through_nginx(url)
            figures.cpu_upload.setdefault("nginx", []).append((cpu_seconds(pid) - before) / bench.gib)


def memory(bench: Bench, figures: Figures, pids: dict[str, int]) -> None:
    """Growth of each tier's peak resident memory while one large file goes up and comes down."""
    bench.delete(bench.upload(Path(__file__))[1])  # warm: connections, code paths
    idle = {name: reset_peak(pid) for name, pid in pids.items()}
    large = bench.folder / "large.bin"
    with large.open("wb") as out:
        for _ in range(int(figures.memory_gib * 1024 // int(bench.gib * 1024))):
            out.write(bench.source.read_bytes())
    file_id = bench.upload(large)[1]
    bench.download(file_id)
    figures.growth = {name: peak_rss(pid) - idle[name] for name, pid in pids.items()}
    bench.delete(file_id)
    large.unlink()


def against_the_store(bench: Bench, rounds_: int) -> Figures:
    figures = Figures(gib=bench.gib, rounds=rounds_)
    bench.make(bench.source.name, int(bench.gib * GIB))
    pids = {tier: bench.stack.pids[tier] for tier in ("web", "services")}
    memory(bench, figures, pids)
    rounds(bench, figures, pids)
    behind_nginx(bench, figures, bench.folder / "nginx")
    bench.source.unlink()
    return figures


def run(arguments: argparse.Namespace) -> dict[str, str]:
    """The text of each part that was measured. Both run against one stack, one after the other."""
    parts: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name, running_stack(Path(name), nas="s3") as stack:
        bench = Bench(stack, Path(name), arguments.gib)
        if arguments.only in (None, "store"):
            parts["store"] = report.store_part(against_the_store(bench, arguments.rounds))
        if arguments.only in (None, "tus"):
            parts["tus"] = report.tus_part(tus.measure(bench, arguments.rounds))
    return parts


def with_store(arguments: argparse.Namespace) -> dict[str, str]:
    """`run`, in the bucket that S3_BUCKET names, or in one that is gone afterwards."""
    if "S3_BUCKET" in os.environ:
        return run(arguments)
    os.environ["S3_BUCKET"] = bucket = f"depot-bench-{uuid.uuid4().hex[:8]}"
    try:
        return run(arguments)
    finally:
        store.discard(bucket)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--only", choices=report.PARTS)
    arguments = parser.parse_args()
    if arguments.only in (None, "tus"):
        install()  # what is missing is told now, not after ten minutes
    if arguments.only == "ledger":
        parts: dict[str, str] = {}
    elif "S3_ENDPOINT" in os.environ:
        parts = with_store(arguments)
    else:
        script = str(ROOT / "infra/local/ceph-rgw")
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([script, "up", folder], check=True)
            port = os.environ.get("CEPH_RGW_PORT", "7480")  # as the script reads it
            os.environ.update(
                S3_ENDPOINT=f"http://127.0.0.1:{port}", S3_ACCESS_KEY="testaccess", S3_SECRET_KEY="testsecretkey"
            )
            try:
                parts = with_store(arguments)
            finally:
                subprocess.run([script, "down", folder], check=False)
    if arguments.only in (None, "ledger"):
        parts["ledger"] = ledger.part(ledger.measure()) + "\n" + writers.part(writers.measure())
    print(report.write(parts, ROOT / "docs" / "benchmarks.md"))


if __name__ == "__main__":
    main()
