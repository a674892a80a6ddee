"""Tables: made once, and brought up to date where an earlier release made them. In moto and in MiniStack."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from moto import mock_aws
from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.indexes import AllProjection, GlobalSecondaryIndex, KeysOnlyProjection
from pynamodb.models import Model

from chalicelib import dynamo
from chalicelib.auth.tables import SessionRow
from nas_gateway.jobs.tables import JobRun
from tests.support.gateway import AWS


class ByColour(GlobalSecondaryIndex["Now"]):
    class Meta:
        index_name = "by-colour"
        projection = AllProjection()

    colour = UnicodeAttribute(hash_key=True)
    at = NumberAttribute(range_key=True)


class ByShape(GlobalSecondaryIndex["Now"]):
    class Meta:
        index_name = "by-shape"
        projection = KeysOnlyProjection()

    shape = UnicodeAttribute(hash_key=True)


class Before(Model):
    """As an earlier release had it."""

    class Meta:
        suffix = "things"
        table_name = "things"

    key = UnicodeAttribute(hash_key=True)
    colour = UnicodeAttribute(null=True)
    at = NumberAttribute(null=True)
    shape = UnicodeAttribute(null=True)


class Now(Model):
    class Meta:
        suffix = "things"
        table_name = "things"

    key = UnicodeAttribute(hash_key=True)
    colour = UnicodeAttribute(null=True)
    at = NumberAttribute(null=True)
    shape = UnicodeAttribute(null=True)

    by_colour = ByColour()
    by_shape = ByShape()


@pytest.fixture(params=["moto", "ministack"])
def prefix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    made = f"dynamo-{uuid.uuid4().hex[:8]}"
    if request.param == "moto":
        with mock_aws():
            yield made
        return
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("ministack_url"))
    yield made


def test_a_table_of_an_earlier_release_gets_the_indexes_that_it_lacks(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamo.bind(prefix, "us-east-1", Before)
    assert dynamo.create(Before) == [f"{prefix}-things"]
    Before("old", colour="red", at=1).save()
    monkeypatch.setattr(dynamo, "_shared", {})  # another process, which knows the table as it is there
    dynamo.bind(prefix, "us-east-1", Now)
    for _ in range(2):  # the second finds nothing to do
        assert dynamo.create(Now) == []
        found = Now.describe_table()
        assert {index["IndexName"] for index in found["GlobalSecondaryIndexes"]} == {"by-colour", "by-shape"}
    Now("new", colour="red", at=2, shape="round").save()
    assert [row.key for row in Now.by_colour.query("red")] == ["old", "new"]
    assert [row.key for row in Now.by_shape.query("round")] == ["new"]


@pytest.mark.parametrize("model", [SessionRow, JobRun], ids=lambda model: model.Meta.suffix)
def test_rows_that_end_by_themselves_have_a_time_to_live(prefix: str, model: Any) -> None:
    dynamo.bind(prefix, "us-east-1", model)
    dynamo.create(model)
    told = dynamo.connection(model).client.describe_time_to_live(TableName=model.Meta.table_name)
    assert told["TimeToLiveDescription"] == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}
    assert isinstance(model.expires_at, NumberAttribute)
