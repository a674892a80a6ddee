"""Objects on workspace and scratch disks that no row knows. For this package.

A plan looks at a slice of each disk, so many pages, and the next plan goes on behind it: what one plan costs is bounded,
however much is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from chalicelib.errors import DepotError, FileMissing
from chalicelib.storage.base import ObjectInfo, PartStorage
from nas_gateway.cleanup.activity import claims
from nas_gateway.cleanup.guards import OURS, Places
from nas_gateway.cleanup.items import SKEW_SECONDS, Item, Options, Rule, Skip
from nas_gateway.files.registry import claim_key

# Objects of a slice: 20 listings of 1,000. With a plan an hour, a disk of half a million is seen once a day.
SLICE_PAGES = 20
PAGE = 1000


@dataclass(slots=True)
class Walk:
    """How far each folder was looked at: `cursors` of those with more, `failed` error codes of disks that do not answer."""

    cursors: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class UnknownObjects:
    """`hours` of age when nobody says any; `stale` in seconds: a lease and the grace after it."""

    def __init__(
        self,
        disk: Callable[[str], PartStorage],
        places: Places,
        *,
        hours: float,
        stale: float,
        clock: Callable[[], float],
    ) -> None:
        self._disk, self._places, self._hours, self._stale, self._clock = disk, places, hours, stale, clock

    def find(self, options: Options, walk: Walk, limit: int) -> Iterator[Item]:
        """Goes on at `walk.cursors`, and leaves there where the next plan goes on. Raises `LedgerUnavailable`."""
        begun, walk.cursors = walk.cursors, {}
        for disk, folders in self._places.swept.items():
            for folder in folders:
                name = f"{disk}:{folder}"
                try:
                    for page in self._pages(disk, folder, begun.get(name), walk, name):
                        for item in self._judged(disk, page, options):
                            yield item
                            if (limit := limit - 1) <= 0:
                                return
                except DepotError as error:
                    walk.failed[disk] = error.code
            if "" not in folders:
                yield from self._foreign(disk, walk)

    def again(self, item: Item, options: Options) -> tuple[ObjectInfo | None, Skip | None]:
        """The object of an item as it is now, or None; and what stops its deletion."""
        try:
            info = self._disk(item.disk).get_metadata(item.path)
        except FileMissing:
            return None, None
        for judged in self._judged(item.disk, [info], options):
            return info, judged.reason
        return info, Skip.LIVE_LEASE  # a row knows it by now

    # --- steps -----------------------------------------------------------------------------------------------

    def _pages(
        self, disk: str, folder: str, cursor: str | None, walk: Walk, name: str
    ) -> Iterator[Sequence[ObjectInfo]]:
        for _ in range(SLICE_PAGES):
            page = self._disk(disk).list_with_prefix(folder, cursor, PAGE)
            yield page.items
            if (cursor := page.cursor) is None:
                return
        if cursor is not None:
            walk.cursors[name] = cursor

    def _judged(self, disk: str, found: Sequence[ObjectInfo], options: Options) -> Iterator[Item]:
        """Those that no row knows. The young are not even asked about: of what is due in hours, none is old."""
        now, asked = self._clock(), self._hours if options.hours is None else options.hours
        least = max(asked * 3600, self._stale) + SKEW_SECONDS if asked else 0.0
        old = [info for info in found if not asked or now - info.modified_at.timestamp() > least - 2 * SKEW_SECONDS]
        known = claims((name, info.path) for info in old for name in self._places.same[disk])
        for info in old:
            reason = Skip.TOO_YOUNG if asked and now - info.modified_at.timestamp() <= least else None
            held_by = [known.get(claim_key(name, info.path)) for name in self._places.same[disk]]
            if any(claim is not None and claim.file_id for claim in held_by):
                continue
            for claim in held_by:
                # An upload takes its path before its first byte, and may be late in letting it go.
                if claim is not None and claim.pending and float(claim.pending_until or 0) + self._stale >= now:
                    reason = Skip.LIVE_LEASE
            if self._places.is_submission_place(disk, info.path):
                reason = Skip.SUBMISSION
            yield _item(disk, info, reason)

    def _foreign(self, disk: str, walk: Walk) -> Iterator[Item]:
        """On a disk that is not ours alone: of its first thousand objects those outside our folders that no row knows."""
        try:
            found = self._disk(disk).list_with_prefix("", None, PAGE).items
        except DepotError as error:
            walk.failed[disk] = error.code
            return
        others = [info for info in found if not info.path.startswith(OURS)]
        known = claims((name, info.path) for info in others for name in self._places.same[disk])
        for info in others:
            if not any(claim_key(name, info.path) in known for name in self._places.same[disk]):
                yield _item(disk, info, Skip.FOREIGN_TENANT)


def _item(disk: str, info: ObjectInfo, reason: Skip | None) -> Item:
    written = info.modified_at.timestamp()
    return Item(
        id=claim_key("", info.path)[1:33],
        rule=Rule.OBJECT,
        disk=disk,
        path=info.path,
        size=info.size,
        created_at=written,
        active_at=written,
        reason=reason,
    )
