"""The session's embedded AWS as a fixture, for tests/conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ministack import ministack


@pytest.fixture(scope="session")
def ministack_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of one MiniStack (DynamoDB, S3) for all tests of a run: give each test its own table prefix."""
    with ministack(tmp_path_factory.mktemp("ministack"), services="dynamodb,s3") as url:
        yield url
