"""What every DynamoDB table shares: its prefix, its region, its time-outs, and how it is created.

The models themselves live beside their use-cases (PynamoDB is imported only there and here). The endpoint comes from
`AWS_ENDPOINT_URL_DYNAMODB` or `AWS_ENDPOINT_URL`, which botocore reads by itself.
"""

from __future__ import annotations

from typing import Any

from pynamodb.connection import Connection
from pynamodb.exceptions import TableError
from pynamodb.models import Model

# Seconds. A table call that takes longer is treated as failed, and the ledger's failure stops the transfer (503), so
# these bound how long a caller waits for that answer: 3 attempts of at most 1 + 5 s.
CONNECT_TIMEOUT, READ_TIMEOUT, RETRIES = 1.0, 5.0, 2


def bind(prefix: str, region: str, *models: type[Model]) -> None:
    """Point table classes at `{prefix}-{Meta.suffix}`. Called by the wiring, once a process; again in tests."""
    for model in models:
        meta: Any = model.Meta
        meta.table_name = f"{prefix}-{meta.suffix}"
        meta.region = region
        meta.connect_timeout_seconds, meta.read_timeout_seconds = CONNECT_TIMEOUT, READ_TIMEOUT
        meta.max_retry_attempts = RETRIES
        meta.max_pool_connections = 32
        model._connection = None


def connection(model: type[Model]) -> Connection:
    """The low-level connection of a bound table, which transactions over several tables need."""
    return model._get_connection().connection


def create(*models: type[Model]) -> list[str]:
    """Create the tables that are not there yet (on-demand capacity); the names of those it made."""
    made = []
    for model in models:
        if model.exists():
            continue
        try:
            model.create_table(wait=True, billing_mode="PAY_PER_REQUEST")
        except TableError:  # another process was faster
            if not model.exists():
                raise
        made.append(str(model.Meta.table_name))
    return made
