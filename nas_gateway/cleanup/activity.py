"""Who is at work: open reads, uploads on their way to a path, pieces that wait to be put together. For this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from pynamodb.exceptions import PynamoDBException

from chalicelib.errors import LedgerUnavailable
from nas_gateway.files.registry import claim_key
from nas_gateway.files.tables import PathClaim, TrackedFile
from nas_gateway.ledger import queries
from nas_gateway.ledger.events import Action

# A download that began within this many seconds and has not ended counts as a reader. A reader of an older one may find its
# file gone: nothing tells a slow download from one whose server died, and a temporary file must not live for ever by it.
READ_SECONDS = 3600
# How long what was asked of the ledger is believed while a plan is applied.
_FRESH_SECONDS = 15
# Where pieces of a concatenation lie until they are put together (`uploads.opening`).
_PIECES = "scratch/concat_"


class Readers:
    """The files that are being read. One query a shard of open operations, however many files are asked about."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._at = clock, float("-inf")
        self._files = frozenset[str]()

    def of(self, file_id: str) -> bool:
        """Raises `LedgerUnavailable`."""
        now = self._clock()
        if now - self._at > _FRESH_SECONDS:
            oldest = datetime.fromtimestamp(now, UTC) - timedelta(seconds=READ_SECONDS)
            self._files = frozenset(
                str(intent.operation.file_id)
                for intent in queries.open_operations()
                if intent.operation.action == Action.FILE_DOWNLOADED_VIA_STREAM and intent.stream_start >= oldest
            )
            self._at = now
        return file_id in self._files


def claims(places: Iterable[tuple[str, str]]) -> dict[str, PathClaim]:
    """Who holds these (disk, path)s, by `claim_key`, read consistently. Raises `LedgerUnavailable`."""
    keys = list({claim_key(disk, path) for disk, path in places})
    try:
        return {claim.key: claim for claim in PathClaim.batch_get(keys, consistent_read=True)} if keys else {}
    except PynamoDBException as error:
        raise LedgerUnavailable from error


def is_piece(file: TrackedFile) -> bool:
    """A piece of a concatenation. Its sender is at work on the others: only its own deadline makes it go."""
    return file.path.startswith(_PIECES)
