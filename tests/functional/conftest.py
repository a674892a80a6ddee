"""One running stack for the functional tests: `depot up` as a user starts it, and clients for both tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.client import Client, internal, make_user, signed_in
from tests.support.stack import RunningStack, running_stack

METRICS_TOKEN = "metrics-token-of-forty-characters-0123456"


@pytest.fixture(scope="session")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Both tiers as processes. Tests that kill or starve one start their own."""
    with running_stack(tmp_path_factory.mktemp("tiers"), env={"METRICS_TOKEN": METRICS_TOKEN}) as stack:
        yield stack


@pytest.fixture(scope="session")
def web(tiers: RunningStack) -> Client:
    """The web tier, as the superuser."""
    return signed_in(tiers, tiers.document["username"], tiers.document["password"])


@pytest.fixture(scope="session")
def services(tiers: RunningStack) -> Client:
    """The services tier, with the API key."""
    return internal(tiers)


@pytest.fixture(scope="session")
def as_user(tiers: RunningStack) -> Callable[..., Client]:
    """`as_user(role, *cohorts)`: the web tier, as a new user."""
    return lambda role, *cohorts: make_user(tiers, role, *cohorts)


@pytest.fixture(scope="session")
def events(services: Client) -> Callable[..., list[dict[str, Any]]]:
    """`events(file_id=…)`: the ledger's events about something, all pages, in order of time."""

    def fetch(**query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            asked = query if cursor is None else {**query, "cursor": cursor}
            answer = services.get("/internal/tracking", params=asked)
            assert answer.status_code == 200, answer.text
            found += answer.json()["events"]
            if (cursor := answer.json()["cursor"]) is None:
                return found

    return fetch
