"""The table of snapshots. Rows of one snapshot are pieces of a list: an item of DynamoDB holds 400 KB at most."""

from __future__ import annotations

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.models import Model


class ReportRow(Model):
    """One piece. `body` is JSON.

    `series` is `buckets` (what a run has counted so far; `piece` names the bucket), `snapshot:{at}` (a whole count), or
    `heads` (one a snapshot, `piece` is its time: that it is whole, in how many pieces, and the totals of each cohort).
    """

    class Meta:
        suffix = "reports"
        table_name = "reports"
        ttl = "expires_at"

    series = UnicodeAttribute(hash_key=True)
    piece = UnicodeAttribute(range_key=True)
    at = NumberAttribute()
    body = UnicodeAttribute()
    expires_at = NumberAttribute()


MODELS: list[type[Model]] = [ReportRow]
