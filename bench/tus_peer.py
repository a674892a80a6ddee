"""The other side of the tus figures: bench/peer (@tus/server with @tus/s3-store) installed, and running onto the same store.

The packages are those of bench/peer/package-lock.json and go to .build/tus-peer. Needs node 20.19 or newer and npm.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, BUILT = ROOT / "bench" / "peer", ROOT / ".build" / "tus-peer"
OLDEST_NODE = (20, 19)  # `engines` of @tus/server 2.4 and @tus/s3-store 2.0
STOP_SECONDS = 30


@dataclass(frozen=True)
class Peer:
    """A running server. `versions` is what a reader of the figures must know of it."""

    url: str
    pid: int
    versions: str


def install() -> str:
    """Install what the lock file names, unless it is there; the versions. Ends the process where node or npm is missing."""
    version = _node_version()
    if version is None or version < OLDEST_NODE or shutil.which("npm") is None:
        found = "no node" if version is None else f"node {'.'.join(map(str, version))}"
        raise SystemExit(
            f"The tus figures need node {'.'.join(map(str, OLDEST_NODE))} or newer, and npm; found {found}. "
            "Without them: make bench ARGS='--only store'"
        )
    BUILT.mkdir(parents=True, exist_ok=True)
    lock, installed = SOURCE / "package-lock.json", BUILT / "installed.json"
    shutil.copyfile(SOURCE / "server.mjs", BUILT / "server.mjs")
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(SOURCE / name, BUILT / name)
        # Scripts of packages are not needed, so they are not run.
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=BUILT, check=True)
        shutil.copyfile(lock, installed)
    packages = json.loads(lock.read_text())["packages"]
    named = [f"{name} {packages[f'node_modules/{name}']['version']}" for name in ("@tus/server", "@tus/s3-store")]
    return f"{' + '.join(named)}, node {'.'.join(map(str, version))}"


def _node_version() -> tuple[int, ...] | None:
    if shutil.which("node") is None:
        return None
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in told.strip().removeprefix("v").split("."))


@contextlib.contextmanager
def tus_peer(bucket: str) -> Iterator[Peer]:
    """The server, with a bucket of its own on the store that S3_ENDPOINT names; it ends with the block."""
    versions = install()
    kept = {
        name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR") or name[:3] == "S3_"
    }
    # As it is run for good: no debug output, and node not asked for warnings about its own age.
    env = {**kept, "S3_BUCKET": bucket, "PEER_PORT": "0", "NODE_ENV": "production", "NODE_NO_WARNINGS": "1"}
    process = subprocess.Popen(["node", "server.mjs"], cwd=BUILT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()  # "listening PORT", or nothing when it could not start
        if len(words) != 2:
            raise SystemExit(f"the tus peer did not start; it ended with {process.wait(STOP_SECONDS)}")
        yield Peer(f"http://127.0.0.1:{words[1]}/uploads", process.pid, versions)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
