"""A services tier in this process: moto's DynamoDB, in-memory disks. For tests of the use-cases."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends

from chalicelib import context, dynamo
from chalicelib.auth import tables as auth_tables
from chalicelib.auth.policy import Principal
from chalicelib.config import Settings
from chalicelib.storage.manager import StorageManager
from nas_gateway import wiring
from nas_gateway.api.guard import Gateway
from nas_gateway.files.access import Call
from nas_gateway.ledger import queries

ENV = {"SERVER_ROLE": "testing", "INTERNAL_API_KEY": "k" * 32, "LEDGER_TABLE_PREFIX": "unit"}
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


# moto's tables as they are when they have just been made, by prefix: 0.1 s a test is saved by putting copies back.
_made: dict[str, dict[str, Any]] = {}


def empty_tables(prefix: str) -> None:
    """Every table, empty, inside a `mock_aws` whose models are bound to this prefix."""
    tables = dynamodb_backends[DEFAULT_ACCOUNT_ID][AWS["AWS_DEFAULT_REGION"]].tables
    if prefix not in _made:
        dynamo.create(*auth_tables.MODELS, *wiring.MODELS)
        _made[prefix] = copy.deepcopy(tables)
    else:
        tables.update(copy.deepcopy(_made[prefix]))


@contextmanager
def made_gateway(env: Mapping[str, str]) -> Iterator[Gateway]:
    """A wired gateway over fresh tables. AWS credentials must be in the environment (the fixture sees to it)."""
    with mock_aws():
        gateway = wiring.configure(Settings.from_env(env))
        empty_tables(env["LEDGER_TABLE_PREFIX"])
        try:
            yield gateway
        finally:
            StorageManager.clear_cache()
            wiring.gateway.cache_clear()
            context.assertion.set(None)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with made_gateway(ENV) as made:
        yield made


def user(role: str, *cohorts: str) -> Call:
    """A call by a signed-in user."""
    return Call(Principal(f"{role}-of-{'-'.join(cohorts) or 'none'}", role, frozenset(cohorts)), "request-0001")


def outcomes(file_id: str | None = None, **selected: str) -> list[tuple[str, str]]:
    """(action, outcome) of the ledger's events about something, in order of time."""
    if file_id:
        selected["file_id"] = file_id
    return [(event.action, event.outcome) for event in queries.query(**selected, limit=1000).events]  # type: ignore[arg-type]
