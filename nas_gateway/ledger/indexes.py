"""The event table's indexes: one for each question of `queries`, all in order of `at_key`. Imported by `tables` only."""

from __future__ import annotations

from pynamodb.attributes import UnicodeAttribute
from pynamodb.indexes import AllProjection, GlobalSecondaryIndex
from pynamodb.models import Model


class Projected:
    """Every index carries whole events: a page of the audit trail is one query, not one read an event."""

    projection = AllProjection()


class ByTracking(GlobalSecondaryIndex[Model]):
    class Meta(Projected):
        index_name = "by-tracking"

    tracking_id = UnicodeAttribute(hash_key=True)
    at_key = UnicodeAttribute(range_key=True)


class ByFile(GlobalSecondaryIndex[Model]):
    class Meta(Projected):
        index_name = "by-file"

    file_id = UnicodeAttribute(hash_key=True)
    at_key = UnicodeAttribute(range_key=True)


class ByCohort(GlobalSecondaryIndex[Model]):
    class Meta(Projected):
        index_name = "by-cohort"

    cohort = UnicodeAttribute(hash_key=True)
    at_key = UnicodeAttribute(range_key=True)


class ByUser(GlobalSecondaryIndex[Model]):
    class Meta(Projected):
        index_name = "by-user"

    user = UnicodeAttribute(hash_key=True)
    at_key = UnicodeAttribute(range_key=True)


class ByAction(GlobalSecondaryIndex[Model]):
    class Meta(Projected):
        index_name = "by-action"

    action = UnicodeAttribute(hash_key=True)
    at_key = UnicodeAttribute(range_key=True)


class ByDay(GlobalSecondaryIndex[Model]):
    class Meta(Projected):
        index_name = "by-day"

    day = UnicodeAttribute(hash_key=True)
    at_key = UnicodeAttribute(range_key=True)


class ByFailure(GlobalSecondaryIndex[Model]):
    """Sparse: only events whose outcome is `failed` or `unknown` carry `failed_day`."""

    class Meta(Projected):
        index_name = "by-failure"

    failed_day = UnicodeAttribute(hash_key=True)
    at_key = UnicodeAttribute(range_key=True)
