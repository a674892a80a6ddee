"""What every DynamoDB table shares: its prefix, its region, its time-outs, and how it is created.

The models themselves live beside their use-cases (PynamoDB is imported only there and here). The endpoint comes from
`AWS_ENDPOINT_URL_DYNAMODB` or `AWS_ENDPOINT_URL`, which botocore reads by itself.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from pynamodb.connection import Connection
from pynamodb.exceptions import PynamoDBException, TableError
from pynamodb.models import Model

# Seconds. A table call that takes longer is treated as failed, and the ledger's failure stops the transfer (503), so
# these bound how long a caller waits for that answer: 3 attempts of at most 1 + 5 s.
CONNECT_TIMEOUT, READ_TIMEOUT, RETRIES = 1.0, 5.0, 2

# How often a table that is being changed is looked at.
_POLL_SECONDS = 2.0

# What `create` raises when DynamoDB cannot be reached or refuses, for callers that have no business with PynamoDB.
Failure = PynamoDBException


# One client a process and endpoint. PynamoDB would make one a table, each with its own copy of botocore's models: eight
# times the memory and 0.2 s each, and botocore clients must not be created by several threads at once anyway.
_shared: dict[tuple[str | None, ...], Connection] = {}


def bind(prefix: str, region: str, *models: type[Model]) -> None:
    """Point table classes at `{prefix}-{Meta.suffix}`. Called by the wiring, once a process; again in tests."""
    key = (region, os.environ.get("AWS_ENDPOINT_URL_DYNAMODB"), os.environ.get("AWS_ENDPOINT_URL"))
    for model in models:
        meta: Any = model.Meta
        meta.table_name = f"{prefix}-{meta.suffix}"
        meta.region = region
        meta.connect_timeout_seconds, meta.read_timeout_seconds = CONNECT_TIMEOUT, READ_TIMEOUT
        meta.max_retry_attempts = RETRIES
        meta.max_pool_connections = 64
        model._connection = None
        table = model._get_connection()
        shared = _shared.setdefault(key, table.connection)
        with suppress(ValueError):  # bound before
            shared.add_meta_table(table.get_meta_table())
        table.connection = shared
    _ = _shared[key].client if models else None


def connection(model: type[Model]) -> Connection:
    """The low-level connection of a bound table, which transactions over several tables need."""
    return model._get_connection().connection


def code_of(error: PynamoDBException) -> str | None:
    """DynamoDB's code for a refusal; None where no answer came.

    (PynamoDB's own `cause_response_code` raises `AttributeError` after a time-out: botocore's `response` is None then.)
    """
    return error.cause_response_code if getattr(error.cause, "response", None) else None


def create(*models: type[Model]) -> list[str]:
    """Create the tables that are not there yet (on-demand capacity); the names of those it made.

    Where a model's `Meta.ttl` names an attribute of epoch seconds, DynamoDB removes rows some time after it. A table that an
    earlier release made gets the indexes that it lacks; nothing else of it is changed.
    """
    made = []
    for model in models:
        if model.exists():
            _add_indexes(model)
            continue
        try:
            model.create_table(wait=True, billing_mode="PAY_PER_REQUEST")
        except TableError:  # another process was faster
            if not model.exists():
                raise
        if attribute := getattr(model.Meta, "ttl", None):
            _expire(model, attribute)
        made.append(str(model.Meta.table_name))
    return made


def _add_indexes(model: type[Model]) -> None:
    """DynamoDB makes one index at a time, and fills it from the rows that are there. Raises `Failure`."""
    name, schema = str(model.Meta.table_name), model._get_schema()
    wanted = {index["index_name"]: index for index in schema["global_secondary_indexes"]}
    while True:
        table = connection(model).dispatch("DescribeTable", {"TableName": name})["Table"]
        found = {index["IndexName"]: index["IndexStatus"] for index in table.get("GlobalSecondaryIndexes", ())}
        missing = [index for index in wanted if index not in found]
        if not missing:
            return
        if table["TableStatus"] == "ACTIVE" and set(found.values()) <= {"ACTIVE"}:
            index = wanted[missing[0]]
            keys = sorted(index["key_schema"], key=lambda key: str(key["KeyType"]))  # HASH before RANGE
            new = {"IndexName": missing[0], "KeySchema": keys, "Projection": index["projection"]}
            changes = [{"Create": new}]
            about = {"AttributeDefinitions": schema["attribute_definitions"], "GlobalSecondaryIndexUpdates": changes}
            connection(model).dispatch("UpdateTable", {"TableName": name, **about})
        else:
            time.sleep(_POLL_SECONDS)


def _expire(model: type[Model], attribute: str) -> None:
    """Rows are only kept longer where a store has no such thing, so that is no error."""
    with suppress(PynamoDBException):
        model._get_connection().update_time_to_live(attribute)
