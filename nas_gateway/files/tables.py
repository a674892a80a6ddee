"""The tables of current state: files, and the paths they hold.

History is the ledger's; these rows change in the same DynamoDB transaction as the event that explains the change.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pynamodb.attributes import (
    JSONAttribute,
    NumberAttribute,
    UnicodeAttribute,
)
from pynamodb.indexes import AllProjection, GlobalSecondaryIndex
from pynamodb.models import Model


class State:
    """States of a file and of an upload session (design, section 5)."""

    INTENT = "INTENT"
    OPEN = "OPEN"
    COMPLETING = "COMPLETING"
    AVAILABLE = "AVAILABLE"
    ABORTED = "ABORTED"
    FAILED = "FAILED"
    LOST = "LOST"
    CORRUPT = "CORRUPT"  # its bytes are not what was stored, or are not there
    DELETING = "DELETING"  # its deletion is recorded as intended: it ends deleted, whoever must go on with it
    DELETED = "DELETED"
    REPLACED = "REPLACED"


class ByCohort(GlobalSecondaryIndex["TrackedFile"]):
    """Available files of a cohort, newest last. Sparse: `listed_in` is there only while a file is AVAILABLE."""

    class Meta:
        index_name = "by-cohort"
        projection = AllProjection()

    listed_in = UnicodeAttribute(hash_key=True)
    listed_at = UnicodeAttribute(range_key=True)


class ByCleanup(GlobalSecondaryIndex["TrackedFile"]):
    """Temporary files by the moment they are due. Sparse: only files that must be cleaned up and still are there."""

    class Meta:
        index_name = "by-cleanup"
        projection = AllProjection()

    cleanup_disk = UnicodeAttribute(hash_key=True)
    cleanup_due = NumberAttribute(range_key=True)


# Buckets of `by-check`, so that no one partition of the index takes every file of the service.
CHECK_BUCKETS = 16


class ByCheck(GlobalSecondaryIndex["TrackedFile"]):
    """Stored files by the moment their bytes are to be read again. Sparse: AVAILABLE and CORRUPT files, every one of them."""

    class Meta:
        index_name = "by-check"
        projection = AllProjection()

    check_bucket = NumberAttribute(hash_key=True)
    check_due = NumberAttribute(range_key=True)


class ByDeleting(GlobalSecondaryIndex["TrackedFile"]):
    """Files whose deletion has begun and not ended, by when it is tried next. Sparse, and small: failures, and crashes."""

    class Meta:
        index_name = "by-deleting"
        projection = AllProjection()

    deleting = UnicodeAttribute(hash_key=True)
    cleanup_after = NumberAttribute(range_key=True)


DELETING_KEY = "deleting"  # the one value of `deleting`


class TrackedFile(Model):
    """The current state of one file. Times are epoch seconds, sizes bytes, `sha256` hex."""

    class Meta:
        suffix = "files"
        table_name = "files"

    file_id = UnicodeAttribute(hash_key=True)
    disk = UnicodeAttribute()
    path = UnicodeAttribute()
    filename = UnicodeAttribute()
    state = UnicodeAttribute()
    purpose = UnicodeAttribute()
    owner = UnicodeAttribute()
    tracking_id = UnicodeAttribute()
    created_at = NumberAttribute()
    updated_at = NumberAttribute()
    cohort = UnicodeAttribute(null=True)
    file_type = UnicodeAttribute(null=True)
    protocol_year = UnicodeAttribute(null=True)
    content_type = UnicodeAttribute(null=True)
    size = NumberAttribute(null=True)
    sha256 = UnicodeAttribute(null=True)
    parts_sha256 = UnicodeAttribute(null=True)
    etag = UnicodeAttribute(null=True)
    metadata = JSONAttribute(null=True)
    listed_in = UnicodeAttribute(null=True)
    listed_at = UnicodeAttribute(null=True)
    cleanup_disk = UnicodeAttribute(null=True)
    cleanup_due = NumberAttribute(null=True)
    # Deletions that failed: how often, and when the next is tried (the deadline itself stays what it was).
    cleanup_tries = NumberAttribute(null=True)
    cleanup_after = NumberAttribute(null=True)
    deleting = UnicodeAttribute(null=True)
    # Integrity: zlib.crc32(file_id) % CHECK_BUCKETS, when it is due, and when the bytes were last found to be right.
    check_bucket = NumberAttribute(null=True)
    check_due = NumberAttribute(null=True)
    checked_at = NumberAttribute(null=True)
    # The check that is under way: who makes it and until when it is theirs; checks in a row that came to no end; and how far
    # the bytes (0 to `check_offset`) of the object `check_object` (its ETag and time) have been found to be right.
    check_holder = UnicodeAttribute(null=True)
    check_until = NumberAttribute(null=True)
    check_tries = NumberAttribute(null=True)
    check_offset = NumberAttribute(null=True)
    check_object = UnicodeAttribute(null=True)
    # Bytes that count against quotas: those set aside when it was announced, and those of the stored file.
    reserved = NumberAttribute(null=True)
    counted = NumberAttribute(null=True)

    by_cohort = ByCohort()
    by_cleanup = ByCleanup()
    by_check = ByCheck()
    by_deleting = ByDeleting()

    def updated_iso(self) -> str:
        """`updated_at` as ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.updated_at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class PathClaim(Model):
    """Who holds a path: the file that is there, and the upload that is on its way to it.

    The key is `{disk}:{sha256 of the path}`, so that no path is longer than a key may be. `pending` names the file id of an
    upload under way and `pending_until` (epoch seconds) its lease: after that another upload may take the path over, and
    the old one finds its renewal refused.
    """

    class Meta:
        suffix = "paths"
        table_name = "paths"

    key = UnicodeAttribute(hash_key=True)
    file_id = UnicodeAttribute(null=True)
    pending = UnicodeAttribute(null=True)
    pending_until = NumberAttribute(null=True)


class BySet(GlobalSecondaryIndex["Hold"]):
    """Every hold, by when it was set."""

    class Meta:
        index_name = "by-set"
        projection = AllProjection()

    listed = UnicodeAttribute(hash_key=True)
    set_at = NumberAttribute(range_key=True)


class Hold(Model):
    """A legal hold that stands; lifted, the row goes (the ledger keeps both). `scope` is `file:{id}` or `cohort:{name}`.

    Every deletion checks in its transaction that no such row is there.
    """

    class Meta:
        suffix = "holds"
        table_name = "holds"

    scope = UnicodeAttribute(hash_key=True)
    listed = UnicodeAttribute(default="hold")
    set_at = NumberAttribute()  # epoch seconds
    set_by = UnicodeAttribute()
    reason = UnicodeAttribute()
    tracking_id = UnicodeAttribute()

    by_set = BySet()


class Usage(Model):
    """What a cohort or a user has stored and under way, while a quota is set. `who` is `cohort:NAME` or `user:NAME`."""

    class Meta:
        suffix = "usage"
        table_name = "usage"

    who = UnicodeAttribute(hash_key=True)
    stored = NumberAttribute(null=True)  # bytes
    files = NumberAttribute(null=True)
    uploads = NumberAttribute(null=True)  # under way


MODELS: list[type[Model]] = [TrackedFile, PathClaim, Hold, Usage]
