"""The storage report as words and numbers: for the page, the terminal, and a pipe. Knows the report's form, no web."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

FORMATS: Final = ("text", "json", "html")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size: float) -> str:
    """Bytes as people read them.

    >>> size_text(999), size_text(1536), size_text(5 * 2**40)
    ('999 B', '1.5 KiB', '5.0 TiB')
    """
    number, unit = float(size), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} B" if unit == 0 else f"{number:.1f} {_UNITS[unit]}"


def hours_text(hours: float) -> str:
    """
    >>> hours_text(0.25), hours_text(7), hours_text(100)
    ('0.2 h', '7.0 h', '4.2 days')
    """
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def files_text(count: int) -> str:
    """
    >>> files_text(1), files_text(2000)
    ('1 file', '2,000 files')
    """
    return f"{count:,} file{'' if count == 1 else 's'}"


def name_text(name: str) -> str:
    """ "" stands for what belongs to none."""
    return name or "(none)"


def age_text(row: Mapping[str, Any]) -> str:
    """The span of one bar of the histogram."""
    start, end = row["from_hours"], row["to_hours"]
    return f"over {start} h" if end is None else f"{start}-{end} h"


def standing_text(report: Mapping[str, Any]) -> str:
    """How old the numbers are."""
    if report["snapshot_at"] is None:
        return "Nothing has been counted yet: the job 'report' runs once a day, or: depot jobs run report."
    age = hours_text(report["snapshot_age_hours"])
    return f"Counted at {report['snapshot_at']}, {age} ago. Overdue copies and open operations: as of now."


def scope_text(report: Mapping[str, Any]) -> str:
    cohorts = report["cohorts"]
    return "All cohorts" if cohorts is None else f"Cohorts: {', '.join(cohorts)}"


def jobs_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Name, outcome, when the last run ended, and whether it is overdue."""
    for job in report["jobs"]:
        run = next(iter(job["runs"]), None)
        outcome = "never ran" if run is None else run["outcome"]
        ended = "" if run is None else run["finished"] or f"since {run['started']}"
        yield job["name"], outcome, ended, "OVERDUE" if job["overdue"] else ""


def render(report: Mapping[str, Any]) -> str:
    """The report for a terminal. Control characters in names cannot be there: paths and cohorts refuse them."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    totals, late, left = report["totals"], report["overdue"], report["open_intents"]
    yield f"Storage report, {report['generated_at']}. {scope_text(report)}."
    yield standing_text(report)
    yield ""
    yield f"stored      {totals['files']:>12,} files  {size_text(totals['bytes']):>12}"
    temporary = totals["temporary"]
    yield f"  temporary {temporary['files']:>12,} files  {size_text(temporary['bytes']):>12}"
    if totals["corrupt"]["files"]:
        yield f"  CORRUPT   {totals['corrupt']['files']:>12,} files  {size_text(totals['corrupt']['bytes']):>12}"
    more = "" if late["complete"] else " or more"
    yield f"overdue     {late['files']:>12,} files{more}  {late['phi_hours']:,.1f} PHI-hours at risk"
    more = "" if left["complete"] else " or more"
    since = f"  the oldest since {left['oldest']}" if left["oldest"] else ""
    yield f"open        {left['count']:>12,} operations{more}{since}"
    for key, title in (("by_disk", "Disks"), ("by_cohort", "Cohorts"), ("by_type", "File types")):
        yield from _section(
            title, ([name_text(row["name"]), f"{row['files']:,}", size_text(row["bytes"])] for row in report[key])
        )
    yield from _section(
        "Age of temporary copies",
        ([age_text(row), f"{row['files']:,}", size_text(row["bytes"])] for row in report["temporary_ages"]),
    )
    yield from _section(
        "Overdue copies, PHI-hours",
        ([name_text(row["name"]), f"{row['files']:,}", f"{row['phi_hours']:,.1f}"] for row in late["by_cohort"]),
    )
    grown = [row for row in report["growth"] if row["added_files"] or row["files"] is not None]
    yield from _section(
        "Growth",
        (
            [row["day"], f"+{row['added_files']:,}", f"+{size_text(row['added_bytes'])}", _total(row["bytes"])]
            for row in grown[-14:]
        ),
    )
    yield from _section("Jobs", (list(row) for row in jobs_rows(report)))


def _total(size: int | None) -> str:
    return "" if size is None else size_text(size)


def _section(title: str, rows: Iterable[list[str]]) -> Iterator[str]:
    found = list(rows)
    if not found:
        return
    yield ""
    yield title
    width = min(60, max(len(row[0]) for row in found))
    for first, *rest in found:
        yield f"  {first:<{width}}  " + "  ".join(f"{cell:>14}" for cell in rest).rstrip()
