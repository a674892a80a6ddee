"""What a clean-up costs: `python -m bench.cleanup`. A thousand files are due among ten thousand, and among 200,000.

Counted are DynamoDB's calls, which do not depend on the machine; timed are the plan and applying it, against MiniStack on
loopback. (MiniStack answers a query of an index by looking at every row of the table, which DynamoDB does not: the time of
a plan's queries grows with the table there, their number does not.) Only the files that are due have objects, in memory: what
a store costs is `bench.store`'s business.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.client import BaseClient

from chalicelib import dynamo
from chalicelib.auth import tables as auth_tables
from chalicelib.config import Settings
from nas_gateway import wiring
from nas_gateway.files.access import Call
from nas_gateway.files.registry import claim_key
from nas_gateway.files.tables import PathClaim, State, TrackedFile
from tests.support.ministack import CREDENTIALS, ministack

DUE = 1_000
AMONG = (10_000, 200_000)
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds and calls of one plan, and of applying it."""

    files: int
    plan_seconds: float
    plan_calls: dict[str, int]
    apply_seconds: float
    apply_calls: dict[str, int]


def measure(files: int, url: str) -> Figures:
    env = {
        "SERVER_ROLE": "testing", "INTERNAL_API_KEY": "k" * 32, "LEDGER_TABLE_PREFIX": f"b{uuid.uuid4().hex[:8]}",
        **CREDENTIALS, "AWS_ENDPOINT_URL": url,
    }  # fmt: skip
    os.environ.update(env)
    dynamo.READ_TIMEOUT = 120.0  # see above
    gateway = wiring.configure(Settings.from_env(env))
    dynamo.create(*auth_tables.MODELS, *wiring.MODELS)
    disk, now = gateway.transfers.disk("scratch"), time.time()
    with TrackedFile.batch_write() as rows, PathClaim.batch_write() as claims:
        for number in range(files):
            due, path = number < DUE, f"scratch/audit_1/{number}"
            file_id = f"{number:032x}"
            rows.save(
                TrackedFile(
                    file_id, disk="scratch", path=path, filename="f", state=State.AVAILABLE, purpose="scratch", owner="o",
                    tracking_id="t", created_at=now - 5 * HOUR, updated_at=now - 5 * HOUR, size=1,
                    cleanup_disk="scratch", cleanup_due=now + (-HOUR if due else HOUR), listed_in="-",
                    listed_at=file_id,
                )
            )  # fmt: skip
            if due:
                disk.save(path, b"x")
                claims.save(PathClaim(claim_key("scratch", path), file_id=file_id))
    with counted() as planned:
        begun = time.monotonic()
        plan = gateway.cleanup.plan(Call())
        plan_seconds = time.monotonic() - begun
    with counted() as applied:
        begun = time.monotonic()
        told = gateway.cleanup.apply(Call(), plan["plan_id"], plan["hash"], {"max_percent": 100})
        apply_seconds = time.monotonic() - begun
    if told["deleted"] != DUE:
        raise SystemExit(f"{told['deleted']} of {DUE} were deleted: {told['failures']}")
    return Figures(files, plan_seconds, dict(planned), apply_seconds, dict(applied))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """DynamoDB's calls by name."""
    calls, real = Counter[str](), BaseClient._make_api_call

    def call(client: Any, operation: str, values: dict[str, Any]) -> Any:
        calls[operation] += 1
        return real(client, operation, values)

    BaseClient._make_api_call = call
    try:
        yield calls
    finally:
        BaseClient._make_api_call = real


def main() -> None:
    among = [int(text) for text in sys.argv[1:]] or AMONG
    with tempfile.TemporaryDirectory() as name, ministack(Path(name)) as url:
        for files in among:
            figures = measure(files, url)
            print(f"{DUE} due among {figures.files}:")
            print(
                f"  plan   {figures.plan_seconds:6.2f} s  {sum(figures.plan_calls.values())} calls {figures.plan_calls}"
            )
            print(
                f"  apply  {figures.apply_seconds:6.2f} s  {sum(figures.apply_calls.values())} calls {figures.apply_calls}"
            )


if __name__ == "__main__":
    main()
