"""The storage report as one HTML page that stands alone: style and plots are in it, nothing is fetched, no script runs.

Light and dark follow the reader's system. Beside each plot stand its numbers as a table.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from chalicelib.web import report_plots as plots
from chalicelib.web import report_text as words
from chalicelib.web.report_plots import Mark

# Bars of one plot; the table beside it has them all.
SHOWN: Final = 12

STYLE: Final = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --bar: #1f6feb;
  --bad: #b42318; --card: #f6f8fa }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --soft: #9aa4af; --line: #30363d;
  --bar: #58a6ff; --bad: #ff8f85; --card: #161b22 } }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif }
h1 { margin: 0 0 .25rem; font-size: 1.6rem } h2 { margin: 2.5rem 0 .5rem; font-size: 1.2rem }
p { margin: .25rem 0 } .soft { color: var(--soft) } .bad { color: var(--bad) }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1.25rem 0 }
dl div { padding: .6rem .8rem; border: 1px solid var(--line); border-radius: 6px; background: var(--card) }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums }
dd small { display: block; color: var(--soft); font-size: .85rem }
svg { display: block; width: 100%; height: auto; margin: .5rem 0; font: 13px system-ui, sans-serif }
.bar { fill: var(--bar) } .line { fill: none; stroke: var(--bar); stroke-width: 2 } .grid { stroke: var(--line) }
.label { fill: var(--soft) } .value { fill: var(--text) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
caption { text-align: left; color: var(--soft) }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child { text-align: left; font-weight: 400; overflow-wrap: anywhere } thead th { font-weight: 600 }
summary { cursor: pointer; color: var(--soft) }
@media print { details > summary { display: none } }
"""
_BAD: Final = ' class="bad"'
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Also sent as a header; in the page itself it holds for a copy that was saved. (frame-ancestors counts in a header alone.)
POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"


def render(report: Mapping[str, Any]) -> str:
    """The whole page. Every name in it is escaped."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Storage report {escape(report['generated_at'])}</title><style>{STYLE}</style></head><body><main>\n"
        + body(report)
        + "\n</main></body></html>\n"
    )


def body(report: Mapping[str, Any]) -> str:
    """What stands in the page, for a frame that brings its own style. Every name in it is escaped."""
    return "\n".join(_sections(report))


def _sections(report: Mapping[str, Any]) -> Iterable[str]:
    yield f"<h1>Storage report</h1><p>{escape(report['generated_at'])} · {escape(words.scope_text(report))}</p>"
    yield f'<p class="soft">{escape(words.standing_text(report))}</p>'
    yield _totals(report)
    late = report["overdue"]
    yield "<h2>Overdue copies</h2>"
    if not late["by_cohort"]:
        yield "<p>No temporary copy is past its deadline.</p>"
    else:
        marks = [
            Mark(words.name_text(row["name"]), row["phi_hours"], f"{row['phi_hours']:,.1f} h")
            for row in late["by_cohort"]
        ]
        yield _bars("overdue", "PHI-hours at risk by cohort", marks)
        rows = [
            [
                words.name_text(row["name"]),
                f"{row['files']:,}",
                words.size_text(row["bytes"]),
                f"{row['phi_hours']:,.1f}",
                words.hours_text(row["longest"]),
            ]
            for row in late["by_cohort"]
        ]
        head = ["Cohort", "Files", "Bytes", "PHI-hours", "Longest overdue"]
        yield _table("Each hour that a copy is past its deadline is one PHI-hour", head, rows)
    for key, title, first in (
        ("by_cohort", "By cohort", "Cohort"),
        ("by_disk", "By disk", "Disk"),
        ("by_type", "By file type", "File type"),
    ):
        yield f"<h2>{title}</h2>" + _stored(key, title, first, report[key])
    yield from _growth(report["growth"])
    yield "<h2>Age of temporary copies</h2>" + _ages(report)
    if report["jobs"]:
        rows = [[*row] for row in words.jobs_rows(report)]
        yield "<h2>Scheduled jobs</h2>" + _table("The last run of each", ["Job", "Outcome", "Ended", ""], rows)


def _totals(report: Mapping[str, Any]) -> str:
    totals, late, left = report["totals"], report["overdue"], report["open_intents"]
    more = {True: "", False: " or more"}
    cards = [
        ("Stored", words.size_text(totals["bytes"]), words.files_text(totals["files"]), False),
        (
            "Temporary",
            words.size_text(totals["temporary"]["bytes"]),
            words.files_text(totals["temporary"]["files"]),
            False,
        ),
        (
            "Overdue",
            words.files_text(late["files"]) + more[late["complete"]],
            f"{late['phi_hours']:,.1f} PHI-hours at risk",
            late["files"] > 0,
        ),
        (
            "Open operations",
            f"{left['count']:,}{more[left['complete']]}",
            f"oldest since {left['oldest']}" if left["oldest"] else "",
            False,
        ),
    ]
    if totals["corrupt"]["files"]:
        cards.append(
            ("Corrupt", words.files_text(totals["corrupt"]["files"]), "restore them, or have them sent again", True)
        )
    inner = "".join(
        f"<div><dt>{escape(name)}</dt><dd{_BAD if bad else ''}>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note, bad in cards
    )
    return f"<dl>{inner}</dl>"


def _stored(key: str, title: str, first: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p>Nothing is stored.</p>"
    marks = [Mark(words.name_text(row["name"]), row["bytes"], words.size_text(row["bytes"])) for row in rows]
    cells = [[words.name_text(row["name"]), f"{row['files']:,}", words.size_text(row["bytes"])] for row in rows]
    table = _table("", [first, "Files", "Bytes"], cells)
    return _bars(key, f"Bytes {title[0].lower()}{title[1:]}", marks) + _details(f"{len(rows)} rows", table)


def _bars(ident: str, title: str, marks: Sequence[Mark]) -> str:
    rest = len(marks) - SHOWN
    about = f"The largest is {marks[0].name} with {marks[0].text}."
    return plots.bars(ident, title, about + (f" {rest} more are in the table." if rest > 0 else ""), marks[:SHOWN])


def _growth(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    names = [row["day"][5:] for row in rows]
    most = max((row["bytes"] or 0 for row in rows), default=0)
    totals = [
        None if row["bytes"] is None else Mark(row["day"], row["bytes"], words.size_text(row["bytes"])) for row in rows
    ]
    yield "<h2>Growth</h2>"
    if any(mark is not None for mark in totals):
        about = f"One point for each day that was counted; the highest is {words.size_text(most)}."
        yield '<p class="soft">Bytes stored, by day</p>'
        yield plots.line("total", "Bytes stored, by day", about, totals, words.size_text(most), names)
    added = [Mark(row["day"][5:], row["added_bytes"], f"+{words.size_text(row['added_bytes'])}") for row in rows]
    most = max((row["added_bytes"] for row in rows), default=0)
    about = f"Of what is still there, by the day it was stored; the most in a day is {words.size_text(most)}."
    every = max(1, len(added) // 6)
    yield '<p class="soft">Bytes added, by day, of what is still there</p>'
    yield plots.columns("added", "Bytes added, by day", about, added, words.size_text(most), every)
    known = [row for row in rows if row["added_files"] or row["files"] is not None]
    cells = [
        [
            row["day"],
            f"+{row['added_files']:,}",
            f"+{words.size_text(row['added_bytes'])}",
            "" if row["files"] is None else f"{row['files']:,}",
            "" if row["bytes"] is None else words.size_text(row["bytes"]),
        ]
        for row in reversed(known)
    ]
    head = ["Day", "Files added", "Bytes added", "Files stored", "Bytes stored"]
    yield _details(f"{len(cells)} days", _table("", head, cells))


def _ages(report: Mapping[str, Any]) -> str:
    rows = report["temporary_ages"]
    marks = [Mark(words.age_text(row), row["files"], words.files_text(row["files"])) for row in rows]
    oldest = report["oldest_temporary_hours"]
    about = "There is none." if oldest is None else f"The oldest is {words.hours_text(oldest)} old."
    most = max((row["files"] for row in rows), default=0)
    cells = [[words.age_text(row), f"{row['files']:,}", words.size_text(row["bytes"])] for row in rows]
    return (
        f"<p>{escape(about)}</p>"
        + plots.columns("ages", "Age of temporary copies", about, marks, f"{most:,}")
        + _table("", ["Age", "Files", "Bytes"], cells)
    )


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _details(summary: str, inner: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"
