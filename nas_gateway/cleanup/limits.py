"""How much one plan may delete: a mistake stays bounded. For this package.

The share is of the files on a disk that could be cleaned up at all (temporary files and objects that no row knows), and
counts once a plan would delete more than a hundred there. To know whether n files are more than p percent, n * 100 / p of
them are counted and no more: so the cost grows with what is due, not with what is stored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nas_gateway.cleanup.items import SWEPT, Item, Limits, Outcome, Rule
from nas_gateway.files.registry import Registry

# A disk's share counts from here on.
FREE_FILES = 100


@dataclass(slots=True)
class Allowance:
    """What may still be deleted; `by_disk` of the disks that have a share."""

    files: int
    by_disk: dict[str, int] = field(default_factory=dict)

    def room(self, item: Item) -> bool:
        if item.rule in SWEPT:
            return True
        return self.files > 0 and self.by_disk.get(item.disk, 1) > 0

    def use(self, item: Item, outcome: str) -> None:
        """Count an item that was tried. One that was skipped took nothing away."""
        if item.rule in SWEPT or outcome == Outcome.SKIPPED:
            return
        self.files -= 1
        if item.disk in self.by_disk:
            self.by_disk[item.disk] -= 1


def allowed(items: Sequence[Item], limits: Limits, registry: Registry) -> Allowance:
    """The allowance of a plan. Raises `LedgerUnavailable`."""
    due = Counter(item.disk for item in items if item.rule not in SWEPT)
    unknown = Counter(item.disk for item in items if item.rule is Rule.OBJECT)
    shares: Mapping[str, int] = {
        disk: max(
            FREE_FILES, math.floor(_files(disk, count, unknown[disk], limits, registry) * limits.max_percent / 100)
        )
        for disk, count in due.items()
        if count > FREE_FILES and limits.max_percent < 100
    }
    return Allowance(limits.max_files, dict(shares))


def _files(disk: str, due: int, unknown: int, limits: Limits, registry: Registry) -> int:
    """Files of a disk that a clean-up is about, counted as far as it matters."""
    if not limits.max_percent:
        return 0
    enough = math.ceil(due * 100 / limits.max_percent)
    return unknown + registry.count_temporary(disk, max(0, enough - unknown))
