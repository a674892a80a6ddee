"""`Count`: files and bytes by what a report groups them by. Adds up, and turns into lines of JSON and back. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

Line = list[Any]

# Hours: where the bars of the histogram of ages begin.
AGE_HOURS: Final = (0, 1, 2, 4, 8, 24, 72, 168)
# Days that growth is shown for.
GROWTH_DAYS: Final = 90
# Groups that are told apart. File types are free text: what comes beyond counts as `OTHER_TYPES`.
MAX_GROUPS: Final = 20_000
OTHER_TYPES: Final = "(other types)"


class Count:
    """Of `groups` the key is (disk, cohort, file type, purpose, state); of `added` (day, cohort); of `ages` (bar, cohort).

    Each value is [files, bytes]. `oldest` is when the oldest temporary file of a cohort was made, in epoch seconds. ""
    stands for no cohort and for no type.
    """

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str, str, str, str], list[int]] = {}
        self.added: dict[tuple[str, str], list[int]] = {}
        self.ages: dict[tuple[int, str], list[int]] = {}
        self.oldest: dict[str, float] = {}

    def stored(
        self, disk: str, cohort: str, kind: str, purpose: str, state: str, size: int, created: float, now: float
    ) -> None:
        """A file that is there."""
        self._group((disk, cohort, kind, purpose, state), 1, size)
        if created > now - GROWTH_DAYS * 86400:
            _add(self.added, (day_of(created), cohort), 1, size)

    def temporary(self, cohort: str, size: int, created: float, now: float) -> None:
        """A temporary file that is there."""
        hours = max(0.0, (now - created) / 3600)
        _add(self.ages, (sum(1 for start in AGE_HOURS if hours >= start) - 1, cohort), 1, size)
        self.oldest[cohort] = min(created, self.oldest.get(cohort, created))

    def lines(self) -> Iterator[Line]:
        for key, value in sorted(self.groups.items()):
            yield ["group", *key, *value]
        for day, value in sorted(self.added.items()):
            yield ["added", *day, *value]
        for bar, value in sorted(self.ages.items()):
            yield ["age", *bar, *value]
        for cohort, created in sorted(self.oldest.items()):
            yield ["oldest", cohort, created]

    def add_lines(self, lines: Iterable[Line]) -> None:
        """Add what `lines` gave, of another count."""
        for kind, *rest in lines:
            if kind == "group":
                disk, cohort, group, purpose, state, files, size = rest
                self._group((disk, cohort, group, purpose, state), files, size)
            elif kind == "added":
                _add(self.added, (rest[0], rest[1]), *rest[2:])
            elif kind == "age":
                _add(self.ages, (rest[0], rest[1]), *rest[2:])
            elif kind == "oldest":
                cohort, created = rest
                self.oldest[cohort] = min(created, self.oldest.get(cohort, created))

    def _group(self, key: tuple[str, str, str, str, str], files: int, size: int) -> None:
        if key not in self.groups and len(self.groups) >= MAX_GROUPS:
            disk, cohort, _, purpose, state = key
            key = (disk, cohort, OTHER_TYPES, purpose, state)
        _add(self.groups, key, files, size)

    def within(self, sees: Callable[[str], bool]) -> Count:
        """Only the cohorts that somebody may see."""
        kept = Count()
        kept.groups = {key: value for key, value in self.groups.items() if sees(key[1])}
        kept.added = {key: value for key, value in self.added.items() if sees(key[1])}
        kept.ages = {key: value for key, value in self.ages.items() if sees(key[1])}
        kept.oldest = {cohort: value for cohort, value in self.oldest.items() if sees(cohort)}
        return kept

    def cohorts(self) -> dict[str, list[int]]:
        """Files and bytes of each cohort."""
        return self.by(1)

    def by(self, place: int) -> dict[str, list[int]]:
        """Files and bytes by one part of the groups' key."""
        found: dict[str, list[int]] = {}
        for key, value in self.groups.items():
            _add(found, key[place], *value)
        return found


def day_of(at: float) -> str:
    """The day in UTC, ISO 8601."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _add(into: dict[Any, list[int]], key: Any, files: int, size: int) -> None:
    value = into.setdefault(key, [0, 0])
    value[0] += files
    value[1] += size
