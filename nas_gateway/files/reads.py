"""Reads of current state: files, and who holds a path. The part of the registry that changes nothing; imported by it alone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_
from typing import Any

from pynamodb.exceptions import DoesNotExist, PynamoDBException

from chalicelib import dynamo
from chalicelib.errors import InvalidRequest, LedgerUnavailable
from chalicelib.storage.catalog import EVERYTHING, Listing
from nas_gateway.files.tables import DELETING_KEY, PathClaim, TrackedFile

# Of a listing with filters: rows looked at in one read, and reads in one call at most.
FILTERED_PAGE, MAX_READS = 500, 8


def claim_key(disk: str, path: str) -> str:
    """Key of the row that says who holds a path."""
    return f"{disk}:{hashlib.sha256(path.encode()).hexdigest()}"


class Reads:
    """Each raises `LedgerUnavailable` where DynamoDB cannot be asked."""

    def get(self, file_id: str) -> TrackedFile | None:
        """A file by its id, read consistently. Raises `LedgerUnavailable`."""
        try:
            return TrackedFile.get(file_id, consistent_read=True)
        except DoesNotExist:
            return None
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    def claim(self, disk: str, path: str) -> PathClaim | None:
        """Who holds a path. Raises `LedgerUnavailable`."""
        try:
            return PathClaim.get(claim_key(disk, path), consistent_read=True)
        except DoesNotExist:
            return None
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    def at(self, disk: str, path: str) -> TrackedFile | None:
        """The available file at a path, or None where no row knows one."""
        claim = self.claim(disk, path)
        return self.get(claim.file_id) if claim is not None and claim.file_id else None

    def listed(
        self, cohort: str, cursor: str | None, limit: int, listing: Listing = EVERYTHING
    ) -> tuple[list[TrackedFile], str | None]:
        """Available files of a cohort, and the next page's cursor. Raises `InvalidRequest` for a bad one."""
        files, start = list[TrackedFile](), _decode(cursor)
        terms = [getattr(TrackedFile, name) == value for name, value in listing.filters.items() if name != "name"]
        if listing.name:
            terms.append(TrackedFile.filename.contains(listing.name))
        try:
            for _ in range(MAX_READS):
                rows = TrackedFile.by_cohort.query(
                    cohort,
                    filter_condition=reduce(and_, terms) if terms else None,
                    scan_index_forward=listing.order != "newest",
                    last_evaluated_key=start,
                    # DynamoDB counts before it filters: with a filter, look at more than is wanted.
                    page_size=max(limit, FILTERED_PAGE) if terms else limit - len(files),
                )
                page = next(rows.page_iter)
                items = page["Items"][: limit - len(files)]
                files += [TrackedFile.from_raw_data(item) for item in items]
                start = _key_of(items[-1]) if len(items) < len(page["Items"]) else page.get("LastEvaluatedKey")
                if start is None or len(files) >= limit:
                    break
            return files, _encode(start)
        except PynamoDBException as error:
            if "ValidationException" in str(dynamo.code_of(error)):
                raise InvalidRequest("The cursor is not one of this list's.") from None
            raise LedgerUnavailable from error

    def due_for_cleanup(self, disks: Sequence[str], before: float, limit: int) -> list[TrackedFile]:
        """Temporary files whose deadline has passed at `before` (epoch seconds), longest overdue first."""
        found: list[TrackedFile] = []
        try:
            for disk in disks:
                due = TrackedFile.cleanup_due < before
                found.extend(TrackedFile.by_cleanup.query(disk, range_key_condition=due, limit=limit))
        except PynamoDBException as error:
            raise LedgerUnavailable from error
        return sorted(found, key=lambda file: file.cleanup_due or 0)[:limit]

    def temporary(self, disk: str) -> Iterator[TrackedFile]:
        """Every temporary file of a disk that is there or on its way, by deadline. Raises `LedgerUnavailable`."""
        try:
            yield from TrackedFile.by_cleanup.query(disk)
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    def count_temporary(self, disk: str, most: int) -> int:
        """How many temporary files of a disk there are or are on their way, counted up to `most`."""
        if most <= 0:
            return 0
        try:
            # Ids alone would be enough; DynamoDB counts what it reads, whatever it sends.
            return sum(1 for _ in TrackedFile.by_cleanup.query(disk, attributes_to_get=["file_id"], limit=most))
        except PynamoDBException as error:
            raise LedgerUnavailable from error

    def deletions_begun(self, *, before: float, limit: int | None = None) -> Iterator[TrackedFile]:
        """Files whose deletion has begun and is due for another try at `before`. Raises `LedgerUnavailable`."""
        due = TrackedFile.cleanup_after < before
        try:
            yield from TrackedFile.by_deleting.query(DELETING_KEY, range_key_condition=due, limit=limit)
        except PynamoDBException as error:
            raise LedgerUnavailable from error


def _key_of(item: dict[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in ("file_id", "listed_in", "listed_at")}


def _encode(key: dict[str, Any] | None) -> str | None:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode() if key else None


def _decode(cursor: str | None) -> dict[str, Any] | None:
    if not cursor:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except ValueError:
        raise InvalidRequest("The cursor is not one of this list's.") from None
    if not key or not isinstance(key, dict) or not all(isinstance(value, dict) for value in key.values()):
        raise InvalidRequest("The cursor is not one of this list's.")
    return key
