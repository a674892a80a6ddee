"""kill -9 of either tier at random offsets, again and again: invariants I1 to I5 of the reliability notes.

The seed is printed; DEPOT_TEST_SEED runs one again. With S3_ENDPOINT the NAS is that store, in a bucket of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib import dynamo
from chalicelib.limits import MIB
from nas_gateway.ledger.chain import verify_chain
from nas_gateway.ledger.tables import MODELS, OpenOperation
from tests.support.client import in_environment
from tests.support.kill_loop import KilledUpload, after
from tests.support.ledger_env import all_events
from tests.support.residue import empty_bucket, files_on
from tests.support.stack import running_stack
from tests.support.tus_client import Tus
from tests.support.tus_trial import Trial

pytestmark = pytest.mark.slow

LEASE = 1.0
ENV = {"DEPOT_LEASE_SECONDS": str(LEASE), "DEPOT_SWEEP_GRACE_SECONDS": "0.1"}
KILLS_A_FILE = 10


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Iterator[Trial]:
    bucket = f"depot-kill-{uuid.uuid4().hex[:12]}"
    with running_stack(tmp_path_factory.mktemp("kill"), env={**ENV, "S3_BUCKET": bucket}) as stack:
        trial = Trial.of(stack, ENV)
        yield trial
        trial.close()
        empty_bucket(stack)


@pytest.mark.parametrize(("tier", "kills"), [("services", 100), ("web", 50)])
def test_a_tier_killed_at_random_offsets(trial, tier, kills):
    seed = int(os.environ.get("DEPOT_TEST_SEED") or random.randrange(2**32))
    rng, begun, answers, files = random.Random(seed), time.monotonic(), Counter[str](), []
    print(f"seed {seed}")
    trial.recover()
    last = [0.0]

    def kill() -> None:
        trial.replace(tier)
        last[0] = time.time()

    before = files_on(trial.stack)
    # A chunk may outlive a kill, and a file then end before it had all of its own: another makes up for them.
    while sum(len(upload.offsets) for upload in files) < kills:
        number = len(files)
        size = rng.randrange(20 * MIB, 40 * MIB)
        upload = KilledUpload(Tus(trial.web), rng.randbytes(size), KILLS_A_FILE, kill, rng)
        try:
            upload.run()
        finally:
            print(f"file {number} of {size} bytes killed at {upload.offsets}, {time.monotonic() - begun:.0f} s")
        trial.recover()
        upload.arrived()
        files.append(upload)
        answers += upload.answers
        web_wrote_nothing(trial)
        after(last[0] + LEASE + 0.2)
        nothing_stray(trial, before, len(files))
    assert sum(len(upload.offsets) for upload in files) >= kills
    print(f"{kills} kills in {time.monotonic() - begun:.0f} s; answers {dict(answers)}")
    every_operation_ended_once(trial, [upload.file_id for upload in files])


def sweep(trial: Trial) -> dict[str, Any]:
    """One `depot sweep` against the stack's tables and disks."""
    done = subprocess.run(
        [sys.executable, "-m", "chalicelib.cli", "sweep", "--json"],
        env={**os.environ, **trial.stack.document["env"], **trial.env},
        cwd=trial.stack.state_dir,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    print("swept", told["repaired"])
    return told


def nothing_stray(trial: Trial, before: list[str], files: int) -> None:
    """I3: after at most two sweeps the NAS holds the finished files and nothing else."""
    for _ in range(2):
        sweep(trial)
    now = files_on(trial.stack)
    assert set(before) <= set(now)
    assert len(now) == len(before) + files, sorted(set(now) - set(before))


def every_operation_ended_once(trial: Trial, file_ids: list[str]) -> None:
    """I4: the chains verify, every intent has exactly one outcome, each file was completed once and nothing else failed."""
    with in_environment(trial.stack):
        dynamo.bind(os.environ["LEDGER_TABLE_PREFIX"], os.environ["AWS_DEFAULT_REGION"], *MODELS)
        events = list(all_events())
        still_open = [row.tracking_id for row in OpenOperation.scan()]
    assert verify_chain(events).ok
    begun = Counter(event["tracking_id"] for event in events if event["outcome"] == "intent")
    # Signing in is no operation on a file: one event, without an intent.
    ends = [
        event for event in events if event["outcome"] != "intent" and event["action"] not in ("signed_in", "signed_out")
    ]
    ended = Counter(event["tracking_id"] for event in ends)
    assert set(begun.values()) == {1}
    assert begun == ended
    assert still_open == []
    for file_id in file_ids:
        told = trial.services.get("/internal/tracking", params={"file_id": file_id}).json()["events"]
        uploads = [event["outcome"] for event in told if event["action"].startswith("file_uploaded")]
        assert uploads == ["intent", "completed"]


def web_wrote_nothing(trial: Trial) -> None:
    """I5: the web tier's sandbox is in force and nothing even tried; its folder is empty."""
    report = trial.web.get("/health").json()["sandbox"]
    assert (report["landlock"]["enforced"], report["rlimit_fsize"], report["write_attempts"]) == (True, 0, 0), report
    assert [path for path in (trial.stack.state_dir / "tmp" / "web").rglob("*") if path.is_file()] == []
