"""Events as lines of text: JSON Lines, exact, or CSV for a spreadsheet. Knows the fields and nothing of the web."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from chalicelib.storage.audit import FIELDS

TYPES: Final[Mapping[str, str]] = {
    "csv": "text/csv; charset=utf-8; header=present",  # RFC 4180, section 3
    "jsonl": "application/x-ndjson; charset=utf-8",
}

# OWASP, "CSV Injection": a cell that begins like this is run as a formula. The full-width forms count in some
# spreadsheets. An apostrophe in front makes it text.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # fmt: skip

_exact = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def header(form: str) -> str:
    """What comes before the first event: the names of the columns in CSV, nothing in JSON Lines."""
    return _rows([FIELDS]) if form == "csv" else ""


def render(form: str, events: Iterable[Mapping[str, Any]]) -> str:
    """The lines of these events.

    A line of JSON Lines is the event's canonical form (docs/ledger-format.md) with `hash` among its fields: what is
    verified. CSV changes what would be a formula, so nothing can be verified from it.
    """
    if form == "csv":
        return _rows([_cell(event.get(name)) for name in FIELDS] for event in events)
    return "".join(f"{_exact(dict(event))}\n" for event in events)


def _rows(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # RFC 4180
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = _exact(value) if isinstance(value, Mapping) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
