"""docs/benchmarks.md from what was measured. Each part says when it was; one that was not measured keeps its text."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench import tus

if TYPE_CHECKING:
    from bench.__main__ import Figures

MIB, GIB = 1024**2, 1024**3
PARTS = ("store", "tus", "ledger")  # in the page's order

_HEAD = """# Benchmarks

Written by `make bench` (`ARGS="--only store"`, `tus` or `ledger` for one part); every figure is a ratio of two things
measured in the same run on the same machine, one after the other and in turn first. Lone seconds mean nothing here: the
machine is shared and noisy.
"""

_RUN = "Last run: {day}, {rounds} rounds of {size}, {cores} cores, {system}, Python {python}{more}. {sharing}\n"

_MEMORY = """
### Memory

Growth of each tier's peak resident memory over idle while {size:g} GiB pass up and down:

| tier | growth | ceiling |
|---|---|---|
| web | {web:.0f} MiB | 64 MiB |
| services | {services:.0f} MiB | 128 MiB |

The web tier holds, for each transfer, the bridge's bounded buffer (`BRIDGE_BUFFER_BYTES`, 4 MiB, each way) and one block
(`BLOCK_BYTES`, 1 MiB) in the connection to the services tier. The services tier holds the same buffer, and on S3 the parts
in flight: `nas_gateway.drivers.s3.peak_upload_bytes(config, size)`, `(concurrency + 2) x part size`: 48 MiB by default, 96 MiB
for files of over 256 MiB, whose parts are 16 MiB.
"""

_TUS = """## tus uploads, against {peer}

{run}
Both write to the same Ceph RGW, each into its own bucket, and get the same requests from the same client. The peer is set up
as its documents say (parts of 8 MiB through its temporary folder, up to 60 at once; the memory locker; no expiry), with
`requestChecksumCalculation: WHEN_REQUIRED`: see `bench/peer/server.mjs`. Every object is read back and its SHA-256 compared.
One upload each goes ahead and is not counted. A round has {pairs}.

| an upload of {size:.0f} MiB in | throughput, ours / theirs | asked for | CPU seconds, ours / theirs | asked for |
|---|---|---|---|---|
{ratios}

Throughput counts from the creation to the last acknowledgement. CPU seconds are those of the servers alone: our web and
services tiers together, and the peer's one process. Ours lets the store check each part's SHA-256, keeps the ledger, and
never deletes an acknowledged byte before it is stored again; the peer hashes nothing, keeps no ledger, and deletes the tail
of the last chunk before it has stored the part that holds it.

Where the ratios of one PATCH spread, it is the peer that varies: its CPU seconds follow the number of full garbage collections
that V8 makes, 13 to 75 for the same upload (node's `--trace-gc`). The smallest ratios are the uploads in which it made few.

CPU seconds a GiB, median (smallest to largest):

| process | {kinds} |
|---|{rule}
{processes}
"""


def spread(values: Iterable[float]) -> str:
    """Median, smallest and largest."""
    ordered = sorted(values)
    return f"**{median(ordered):.2f}** ({ordered[0]:.2f} to {ordered[-1]:.2f})"


def _run(rounds: int, size: str, sharing: str, more: str = "") -> str:
    return _RUN.format(
        day=date.today().isoformat(),
        rounds=rounds,
        size=size,
        cores=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        sharing=sharing,
        more=more,
    )


def store_part(figures: Figures) -> str:
    """Both tiers against boto3 straight to the store, and against nginx in the web tier's place."""

    def ratio(pairs: Sequence[tuple[float, float]]) -> str:
        return spread(theirs / ours for ours, theirs in pairs)

    def cpu(values: Sequence[float] | None) -> str:
        return f"{median(values):.2f}" if values else "-"

    run = _run(figures.rounds, f"{figures.gib:g} GiB", "The store, the client and both tiers share those cores.")
    # The client on both sides is a Python program that moves blocks of 1 MiB; a download reads the very same object.
    throughput = f"""## Single requests, against boto3 straight to the same Ceph RGW

{run}
| | ratio of throughputs, median (smallest to largest) | asked for |
|---|---|---|
| upload through both tiers / `upload_file` (concurrency 4) | {ratio(figures.upload)} | 0.85 |
| download through both tiers / `get_object` | {ratio(figures.download)} | 0.80 |
"""
    web, nginx = figures.cpu_upload.get("web"), figures.cpu_upload.get("nginx")
    relative = f"{median(web) / median(nginx):.2f}" if web and nginx else "-"
    compared = f"""
### CPU seconds a GiB

| process | upload | download |
|---|---|---|
| web tier | {cpu(web)} | {cpu(figures.cpu_download.get("web"))} |
| services tier | {cpu(figures.cpu_upload.get("services"))} | {cpu(figures.cpu_download.get("services"))} |
| nginx in the web tier's place (`proxy_request_buffering off`) | {cpu(nginx)} | |

The web tier takes {relative} times nginx's CPU for the same upload.
"""
    memory = _MEMORY.format(
        size=figures.memory_gib,
        web=figures.growth.get("web", 0) / MIB,
        services=figures.growth.get("services", 0) / MIB,
    )
    return throughput + memory + compared


def tus_part(figures: tus.TusFigures) -> str:
    """Both tiers against a tus server. Throughput and CPU, in one PATCH and in chunks."""

    def row(kind: str) -> str:
        pairs = figures.pairs[kind]
        goal, limit = tus.ASKED[kind]
        speed, cost = (spread(ratio(*pair) for pair in pairs) for ratio in (tus.throughput, tus.cpu))
        return f"| {kind} | {speed} | at least {goal:g} | {cost} | {f'at most {limit:g}' if limit else ''} |"

    def process(name: str, side: Callable[[tuple[tus.Measured, tus.Measured]], tus.Measured], key: str) -> str:
        gib = tus.FILE_BYTES / GIB
        cells = [spread(side(pair).cpu[key] / gib for pair in figures.pairs[kind]) for kind in tus.KINDS]
        return f"| {name} | {' | '.join(cells)} |"

    sharing = "The store, the client, both tiers, the peer and, on our side, the embedded DynamoDB share those cores."
    return _TUS.format(
        peer=figures.peer,
        run=_run(figures.rounds, f"{tus.FILE_BYTES / MIB:.0f} MiB", sharing),
        size=tus.FILE_BYTES / MIB,
        pairs=" and ".join(f"{tus.PAIRS[kind]} of each in {kind}" for kind in tus.KINDS),
        ratios="\n".join(map(row, tus.KINDS)),
        kinds=" | ".join(tus.KINDS),
        rule="---|" * len(tus.KINDS),
        processes="\n".join(
            [
                process("web tier", lambda pair: pair[0], "web"),
                process("services tier", lambda pair: pair[0], "services"),
                process("the peer (node)", lambda pair: pair[1], "node"),
            ]
        ),
    )


def write(parts: Mapping[str, str], path: Path) -> str:
    """Put what was measured into the page; the page's text. Other parts stay as they are."""
    text = path.read_text() if path.exists() else ""
    before = dict(re.findall(r"<!-- part: (\w+) -->\n(.*?)(?=\n<!-- part: |\Z)", text, re.DOTALL))
    known = {**before, **parts}
    text = _HEAD + "".join(f"\n<!-- part: {name} -->\n{known[name].rstrip()}\n" for name in PARTS if name in known)
    path.write_text(text)
    return text
