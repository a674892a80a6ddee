"""`depot ledger …` as an operator and an auditor use it, against the running system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.stack import RunningStack

pytestmark = pytest.mark.slow


@pytest.fixture
def upload(web: Client) -> None:
    """Something happens."""
    query = {
        "cohort": "VACS",
        "protocol_year": "2024",
        "file_type": "patient",
        "filename": f"{os.urandom(4).hex()}.csv",
    }
    assert web.post("/files", params=query, data=b"patient_id\n1\n").status_code == 201


class Operator:
    def __init__(self, stack: RunningStack, folder: Path) -> None:
        self.env = {**os.environ, **stack.document["env"]}
        self.folder = folder

    def __call__(self, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()} if offline else self.env
        return subprocess.run(
            [sys.executable, "-m", "chalicelib.cli", "ledger", *arguments],
            cwd=self.folder, env={**env, "PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def good(self, *arguments: str) -> str:
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def depot(tiers: RunningStack, tmp_path: Path) -> Operator:
    return Operator(tiers, tmp_path)


def test_from_checkpoint_to_verification(depot: Operator, upload: None, web: Client, tmp_path: Path) -> None:
    assert depot.good("checkpoint").startswith("Checkpoint ")
    key = depot.good("public-key").strip()
    depot.good("export", "ledger.jsonl")
    (tmp_path / "first").write_bytes((tmp_path / "ledger.jsonl").read_bytes())

    verify = ("verify", "ledger.jsonl", "--public-key", key, "--state", "state.json")
    done = depot(*verify, offline=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Whole: " in done.stdout

    # The key changes; the one that the auditor has stays good.
    assert "a new key signs" in depot.good("rotate-key")
    assert web.get("/files", params={"cohort": "VACS"}).status_code == 200
    depot.good("checkpoint")
    assert depot.good("public-key").strip() == key
    assert "checkpoints." in depot.good("export", "ledger.jsonl")
    assert depot(*verify, offline=True).returncode == 0

    # An older copy is put back; then a byte changes.
    later = (tmp_path / "ledger.jsonl").read_bytes()
    (tmp_path / "ledger.jsonl").write_bytes((tmp_path / "first").read_bytes())
    done = depot(*verify, offline=True)
    assert done.returncode == 1
    assert "an old copy" in done.stdout
    first = json.loads(later.splitlines()[0])
    (tmp_path / "ledger.jsonl").write_bytes(later.replace(b"T", b"U", 1))
    done = depot(*verify, "--json", offline=True)
    assert done.returncode == 1
    fault = json.loads(done.stdout)["fault"]
    assert (fault["shard"], fault["seq"], fault["line"]) == (first["shard"], first["seq"], 1)


def test_the_key_lies_where_only_its_owner_reads_it(depot: Operator, tiers: RunningStack) -> None:
    depot.good("checkpoint")
    key = Path(depot.env["LEDGER_SIGNING_KEY_FILE"])
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.is_relative_to(tiers.state_dir)
    web = Path(f"/proc/{tiers.pids['web']}/environ").read_bytes()
    assert b"LEDGER_SIGNING" not in web
    assert b"LEDGER_CHECKPOINT" not in web


def test_wrong_use_is_2_and_needs_no_settings(depot: Operator) -> None:
    assert depot("verify", "none.jsonl", "--public-key", "00" * 32, offline=True).returncode == 2
    assert depot("verify", offline=True).returncode == 2
    assert depot("rotate-key", "--new-key-file", "x").returncode == 2
