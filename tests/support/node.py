"""The JavaScript clients of tests/clients: installed once into .build/node, and run as processes.

Needs node 18 or newer and npm; says so when they are missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE, BUILT = ROOT / "tests" / "clients", ROOT / ".build" / "node"
OLDEST_NODE = 18  # `engines` of tus-js-client 4
# Seconds. An upload of a test takes a few; only a client that hangs waits this long.
RUN_SECONDS, INSTALL_SECONDS = 120, 300


class NodeMissing(RuntimeError):
    """node or npm is not here, or too old. The message says what to install."""


def _check() -> None:
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        raise NodeMissing(
            f"{' and '.join(missing)} not found. The tests with JavaScript clients need node {OLDEST_NODE} or newer and npm: "
            "apt-get install nodejs npm, then make test-clients"
        )
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        raise NodeMissing(f"node is {version}; the tests with JavaScript clients need {OLDEST_NODE} or newer")


def install() -> Path:
    """The folder with our scripts and the packages that the lock file names. Raises `NodeMissing`, `RuntimeError`.

    The packages are installed again only when the lock file changes; runs that start at the same time wait for each other.
    """
    _check()
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT.parent / "node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, wanted = BUILT / "installed", hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
        for file in [*SOURCE.glob("*.mjs"), *SOURCE.glob("package*.json")]:
            shutil.copyfile(file, BUILT / file.name)
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            _npm_ci()
            stamp.write_text(wanted)
    return BUILT


def _npm_ci() -> None:
    # Scripts of packages are not needed, so they are not run.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=BUILT, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"npm ci failed (it needs the npm registry):\n{done.stdout}{done.stderr}")


def run(folder: Path, script: str, plan: dict[str, Any]) -> tuple[int, list[dict[str, Any]], str]:
    """Run a script with a plan: its exit code (minus a signal's number), the events it told, its standard error."""
    done = subprocess.run(
        ["node", str(folder / script)],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr
