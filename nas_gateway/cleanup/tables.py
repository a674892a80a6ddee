"""The tables of the clean-up: plans in chunks, and what became of each item. Imported by this package and the wiring."""

from __future__ import annotations

from pynamodb.attributes import NumberAttribute, UnicodeAttribute
from pynamodb.models import Model


class CleanupPlan(Model):
    """A plan: chunk 0 says what it is and how far it is, the others hold its items as JSON. Times are epoch seconds.

    Under `APPLYING` (a plan id that none has) there is a row for each plan that is being applied, so that a run that died is
    found. `forgotten_at` is what DynamoDB's TTL goes by.
    """

    class Meta:
        suffix = "cleanup-plans"
        table_name = "cleanup-plans"
        ttl = "forgotten_at"

    plan_id = UnicodeAttribute(hash_key=True)
    chunk = UnicodeAttribute(range_key=True)
    kind = UnicodeAttribute()
    body = UnicodeAttribute(null=True)  # JSON
    hash = UnicodeAttribute(null=True)
    state = UnicodeAttribute(null=True)
    expires_at = NumberAttribute(null=True)
    holder = UnicodeAttribute(null=True)
    lease_until = NumberAttribute(null=True)
    result = UnicodeAttribute(null=True)  # JSON
    forgotten_at = NumberAttribute(null=True)


class CleanupReceipt(Model):
    """What became of one item of a plan: a row an item, written once. Deletions have a receipt, and where there is a key a
    signature. Kept as long as the ledger is."""

    class Meta:
        suffix = "cleanup-receipts"
        table_name = "cleanup-receipts"

    plan_id = UnicodeAttribute(hash_key=True)
    number = NumberAttribute(range_key=True)
    item_id = UnicodeAttribute()
    outcome = UnicodeAttribute()
    detail = UnicodeAttribute(null=True)  # reason of a skip, code of an error
    receipt = UnicodeAttribute(null=True)  # JSON, the very bytes that are signed
    signature = UnicodeAttribute(null=True)
    public_key = UnicodeAttribute(null=True)


MODELS: list[type[Model]] = [CleanupPlan, CleanupReceipt]
