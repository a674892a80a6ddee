"""What docs/ledger-format.md says an upload costs, and that its first byte does not wait for more than two round trips."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas_gateway.api.guard import Gateway
from tests.support.upload_cost import WAYS, Meter, gateway_at, metering, warm

PAGE = (Path(__file__).parents[2] / "docs" / "ledger-format.md").read_text()


@pytest.fixture(scope="module")
def fresh(ministack_url: str) -> Iterator[Gateway]:
    """A process that has just started: it knows the head of no chain."""
    with gateway_at(ministack_url) as made:
        yield made


@pytest.mark.parametrize("way", ["single request", "tus, one PATCH", "tus, four chunks of 4 MiB"])
def test_at_most_two_round_trips_come_before_the_first_byte(fresh: Gateway, way: str) -> None:
    with metering() as meter:
        assert 0 < WAYS[way](fresh, meter) <= 2


def test_each_way_costs_what_the_page_says(fresh: Gateway) -> None:
    warm(fresh)
    for name, way in WAYS.items():
        row = re.search(rf"^\| {name} \| (\d+) \(.*\) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
        assert row, name
        with metering() as meter:
            first = way(fresh, meter)
        measured = (len(meter.calls), meter.events, meter.ledger_units, meter.other_rows, first)
        assert measured == tuple(map(int, row.groups())), (
            f"{name}: python -m tests.support.upload_cost prints the table"
        )


def test_the_meter_counts_what_a_transaction_holds() -> None:
    put = {"TableName": "x-phi-file-tracking", "Item": {"cohort": {"S": "c" * 1100}, "seq": {"N": "1"}}}
    row = {"TableName": "x-open-operations", "Key": {"tracking_id": {"S": "t"}}}
    other = {"TableName": "x-files", "Item": {}}
    meter = Meter([
        ("TransactWriteItems", {"TransactItems": [{"Put": put}, {"Delete": row}, {"Put": other}, {"ConditionCheck": other}]}),
        ("UpdateItem", {"TableName": "x-uploads"}),
        ("GetItem", {"TableName": "x-uploads"}),
    ])  # fmt: skip
    assert (meter.events, meter.ledger_units, meter.other_rows) == (1, 2 * 2 + 2 + 3, 2)
