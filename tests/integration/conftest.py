"""What the integration tests run against.

The store of `nas_config` comes from the environment (`infra/local/ceph-rgw up DIR` prints it). The tiers of `tiers` and
`breakable` keep their files in a folder, or on that store where S3_ENDPOINT is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chalicelib.config import DiskConfig, Secret
from nas_gateway.drivers.s3_client import make_client
from tests.support import node
from tests.support.stack import running_stack
from tests.support.tus_trial import LEASE, Trial

_NEEDED = ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY")


@pytest.fixture(scope="session")
def nas_config() -> DiskConfig:
    """A disk on the real store; its bucket does not exist yet."""
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        raise pytest.UsageError(
            f"{', '.join(missing)} not set. These tests need a real S3 store: run `make test-nas`, "
            "or `infra/local/ceph-rgw up DIR` and export the lines it prints."
        )
    endpoint, access, secret = (os.environ[name] for name in _NEEDED)
    region = os.environ.get("S3_REGION") or "us-east-1"
    return DiskConfig(
        "nas", "s3", endpoint=endpoint, region=region, access_key=Secret(access), secret_key=Secret(secret)
    )


@pytest.fixture(scope="session")
def nas_client(nas_config: DiskConfig) -> Any:
    """A plain client for looking at the store past the driver."""
    return make_client(nas_config)


@pytest.fixture(scope="module")
def nas_disk(nas_config: DiskConfig, nas_client: Any) -> Any:
    """A disk in a bucket of this module's own, which is emptied and removed after it."""
    bucket = f"depot-test-{uuid4().hex[:20]}"
    nas_client.create_bucket(Bucket=bucket)
    yield replace(nas_config, bucket=bucket, prefix="disk")
    for page in nas_client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            nas_client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in nas_client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            nas_client.delete_object(Bucket=bucket, Key=item["Key"])
    nas_client.delete_bucket(Bucket=bucket)


@pytest.fixture(scope="session")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Both tiers as processes, for tests that leave them alone."""
    with running_stack(tmp_path_factory.mktemp("tiers")) as stack:
        yield Trial.of(stack)


@pytest.fixture(scope="session")
def _breakable_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    with running_stack(tmp_path_factory.mktemp("breakable"), env=LEASE) as stack:
        trial = Trial.of(stack, LEASE)
        yield trial
        trial.close()


@pytest.fixture
def breakable(_breakable_stack: Trial) -> Trial:
    """Both tiers as processes that a test may kill; both answer when it begins."""
    _breakable_stack.recover()
    return _breakable_stack


@pytest.fixture(scope="session")
def js_clients() -> Path:
    """The folder of tests/clients with its packages installed."""
    return node.install()
