"""docs/benchmarks.md from one run's figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.__main__ import Figures

MIB = 1024 * 1024

_HEAD = """# Benchmarks

Written by `make bench`; every figure is a ratio of two things measured in the same run on the same machine, one after the
other and in turn first. Lone seconds mean nothing here: the machine is shared and noisy.

Last run: {day}, {rounds} rounds of {gib:g} GiB, {cores} cores, {system}, Python {python}. The store, the client and both
tiers share those cores.
"""

_MEMORY = """
## Memory

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


def write(figures: Figures, path: Path, median: Callable[[Sequence[float]], float]) -> str:
    """Write the page; its text."""

    def ratio(pairs: Sequence[tuple[float, float]]) -> str:
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        return f"**{median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    def cpu(values: Sequence[float] | None) -> str:
        return f"{median(values):.2f}" if values else "-"

    head = _HEAD.format(
        day=date.today().isoformat(),
        rounds=figures.rounds,
        gib=figures.gib,
        cores=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
    )
    # The client on both sides is a Python program that moves blocks of 1 MiB; a download reads the very same object.
    throughput = f"""
## Throughput, against boto3 straight to the same Ceph RGW

| | ratio of throughputs, median (smallest to largest) | asked for |
|---|---|---|
| upload through both tiers / `upload_file` (concurrency 4) | {ratio(figures.upload)} | 0.85 |
| download through both tiers / `get_object` | {ratio(figures.download)} | 0.80 |
"""
    web, nginx = figures.cpu_upload.get("web"), figures.cpu_upload.get("nginx")
    relative = f"{median(web) / median(nginx):.2f}" if web and nginx else "-"
    compared = f"""
## CPU seconds a GiB

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
    text = head + throughput + memory + compared
    path.write_text(text)
    return text
