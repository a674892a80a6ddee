"""A process that runs a job and never ends: `python -m tests.support.job_holder PREFIX LEASE GRACE`; says when it runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from datetime import timedelta

from chalicelib import dynamo
from nas_gateway.jobs import Deadline
from nas_gateway.jobs.jobs import Job, Jobs
from nas_gateway.jobs.runs import Lease
from nas_gateway.jobs.tables import MODELS


def main(prefix: str, lease: str, grace: str) -> None:
    def work(_: Deadline) -> Mapping[str, int]:
        print("running", flush=True)
        threading.Event().wait()
        return {}

    dynamo.bind(prefix, "us-east-1", *MODELS)
    Jobs([Job("tick", timedelta(days=1), "a test", work)], Lease(float(lease), float(grace)), host="killed").fire(
        "tick", 0
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
