"""Ledger tables for a test: bound to an endpoint under a prefix of their own, and read back whole, bypassing no index."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.connection import TableConnection
from pynamodb.models import Model

from chalicelib.dynamo import bind, create
from nas_gateway.ledger.append import Appender, connect
from nas_gateway.ledger.events import SHARDS, Operation, utcnow
from nas_gateway.ledger.ledger import Ledger
from nas_gateway.ledger.tables import OpenOperation, PHIFileTracking
from tests.support.ministack import CREDENTIALS

TABLES = (PHIFileTracking, OpenOperation)


class Row(Model):
    """A caller's own table, whose changes join the ledger's transactions."""

    class Meta:
        suffix = "rows"

    id = UnicodeAttribute(hash_key=True)
    n = NumberAttribute(default=0)


def use_endpoint(monkeypatch: Any, url: str | None) -> None:
    """Point botocore at `url` (None: wherever moto catches it) for clients made from now on."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    if url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)


def fresh_tables(*more: Any) -> str:
    """Create the tables under a new prefix; the prefix."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    bind(prefix, "us-east-1", *TABLES, *more)
    create(*TABLES, *more)
    return prefix


@contextlib.contextmanager
def moto_tables() -> Iterator[LedgerFactory]:
    """Tables in this process for a module's tests, and what makes ledgers on them.

    Botocore takes 0.1 s to make a client, so the module shares them; `LedgerFactory.empty` gives each test empty tables.
    """
    from moto import mock_aws  # a second to import, and the writers' processes do without

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        use_endpoint(patch, None)
        fresh_tables(Row)
        yield LedgerFactory(connect())


@contextlib.contextmanager
def real_tables(url: str) -> Iterator[LedgerFactory]:
    """The same at an endpoint."""
    with pytest.MonkeyPatch.context() as patch:
        use_endpoint(patch, url)
        fresh_tables(Row)
        yield LedgerFactory(connect())


class LedgerFactory:
    def __init__(self, table: TableConnection) -> None:
        self.table = table

    def empty(self) -> None:
        for model in (*TABLES, Row):
            if model.exists():
                model.delete_table()
            model.create_table(billing_mode="PAY_PER_REQUEST")

    def __call__(self, clock: Callable[[], datetime] = utcnow) -> Ledger:
        return Ledger(server_role="services", clock=clock, appender=Appender(table=self.table))


def all_events() -> Iterator[dict[str, Any]]:
    """Every event, each shard's in ascending order, read from the table itself."""
    for shard in range(SHARDS):
        for event in PHIFileTracking.query(shard, consistent_read=True):
            yield event.to_dict()


def upload(**more: Any) -> Operation:
    """A typical upload."""
    values: dict[str, Any] = {
        "action": "file_uploaded_via_stream",
        "user": "ana",
        "cohort": "VACS",
        "file_id": uuid.uuid4().hex,
        "upload_id": uuid.uuid4().hex,
        "disk": "submissions",
        "file_path": "submissions/VACS/2024/patient/patient_data_v2.csv",
        "file_type": "patient",
        "file_size": 123_456_789,
        "request_id": uuid.uuid4().hex,
    }
    return Operation(**{**values, **more})
