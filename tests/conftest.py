"""Fixtures that every folder of tests shares."""

import os

from tests.support.gateway import gateway
from tests.support.ministack_fixture import ministack_url

__all__ = ["gateway", "ministack_url"]

# What a test looks at must not change by itself: services tiers that tests start fire nothing unless told to.
os.environ.setdefault("DEPOT_SCHEDULES", "off")

# Two workers (pytest-xdist) on one store: each looks at what is left on the NAS, so each has a bucket of its own.
if "S3_BUCKET" in os.environ and "PYTEST_XDIST_WORKER" in os.environ:
    _worker = os.environ["PYTEST_XDIST_WORKER"]
    if not os.environ["S3_BUCKET"].endswith(f"-{_worker}"):
        os.environ["S3_BUCKET"] += f"-{_worker}"
