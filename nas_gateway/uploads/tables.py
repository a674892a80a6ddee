"""The tables of upload sessions: a row a session, a row a part, a row an idempotency key.

These rows change in the same DynamoDB transaction as the ledger's event where one explains the change.
"""

from __future__ import annotations

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.indexes import GlobalSecondaryIndex, KeysOnlyProjection
from pynamodb.models import Model


class Kind:
    """How a session's bytes reach the NAS."""

    STREAM = "stream"  # through both tiers
    PARTIAL = "partial"  # likewise, to be concatenated later
    FINAL = "final"  # copied from partial uploads
    DIRECT = "direct"  # straight to the store, by presigned URLs


LIVE, ENDED = "live", "ended"


class ByExpiry(GlobalSecondaryIndex["UploadSession"]):
    """Sessions that have not ended, by when they expire. Sparse: `live` is removed when a session ends."""

    class Meta:
        index_name = "by-expiry"
        projection = KeysOnlyProjection()

    live = UnicodeAttribute(hash_key=True)
    expires_at = NumberAttribute(range_key=True)


class ByEnd(GlobalSecondaryIndex["UploadSession"]):
    """Sessions that have ended, by when their rows may go. Sparse: `ended` is set when a session ends."""

    class Meta:
        index_name = "by-end"
        projection = KeysOnlyProjection()

    ended = UnicodeAttribute(hash_key=True)
    forget_at = NumberAttribute(range_key=True)


class UploadSession(Model):
    """One upload that comes in several calls. `offset` is what has been acknowledged, in bytes; times are epoch seconds.

    `epoch` counts the writers that have held it and `holder` names the last; `lease_until` is when its hold ends, 0 once it
    let go; `clean_epoch` is the last epoch of which, and before which, nobody can still be writing a part behind the recorded
    ones. `tails` are the acknowledged bytes behind the last
    part, as `[offset, size, sha256]` each. `sources` are the partial uploads that a final one is made of. `forwarded` is how
    many bytes the web tier has confirmed that it sent (`seal`), and `forwarded_sha256` their digest where they came in one
    body; None where no body had a seal. `key` is its idempotency key's row. `ended` is set when it ends, and `forget_at`
    is when the job `expiry` may remove its rows.
    """

    class Meta:
        suffix = "uploads"
        table_name = "uploads"

    upload_id = UnicodeAttribute(hash_key=True)
    file_id = UnicodeAttribute()
    tracking_id = UnicodeAttribute()
    disk = UnicodeAttribute()
    path = UnicodeAttribute()
    state = UnicodeAttribute()
    kind = UnicodeAttribute(default=Kind.STREAM)
    owner = UnicodeAttribute()
    created_at = NumberAttribute()
    expires_at = NumberAttribute()
    hold_until = NumberAttribute()  # how long the path is held for it
    part_bytes = NumberAttribute()
    offset = NumberAttribute(default=0)
    parts = NumberAttribute(default=0)  # the highest part number in use
    epoch = NumberAttribute(default=0)
    clean_epoch = NumberAttribute(default=0)
    lease_until = NumberAttribute(default=0)
    holder = UnicodeAttribute(null=True)
    live = UnicodeAttribute(null=True)
    handle = UnicodeAttribute(null=True)
    size = NumberAttribute(null=True)
    sha256 = UnicodeAttribute(null=True)
    tails = JSONAttribute(null=True)
    note = JSONAttribute(null=True)
    sources = JSONAttribute(null=True)
    forwarded = NumberAttribute(null=True)
    forwarded_sha256 = UnicodeAttribute(null=True)
    key = UnicodeAttribute(null=True)
    ended = UnicodeAttribute(null=True)
    forget_at = NumberAttribute(null=True)

    by_expiry = ByExpiry()
    by_end = ByEnd()


class UploadPart(Model):
    """One acknowledged part of a session."""

    class Meta:
        suffix = "upload-parts"
        table_name = "upload-parts"

    upload_id = UnicodeAttribute(hash_key=True)
    number = NumberAttribute(range_key=True)
    offset = NumberAttribute()
    size = NumberAttribute()
    etag = UnicodeAttribute()
    sha256 = UnicodeAttribute()


class UploadKey(Model):
    """An `Idempotency-Key` that opened an upload. `key` is a digest of owner and key; `payload` one of the values."""

    class Meta:
        suffix = "upload-keys"
        table_name = "upload-keys"

    key = UnicodeAttribute(hash_key=True)
    upload_id = UnicodeAttribute()
    payload = UnicodeAttribute()
    expires_at = NumberAttribute()


MODELS: list[type[Model]] = [UploadSession, UploadPart, UploadKey]
