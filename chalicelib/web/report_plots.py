"""Small plots as inline SVG: bars, columns, a line. No script, no style attribute, nothing fetched; all text is escaped.

Colours come from the page's classes (`bar`, `grid`, `label`), so they follow its light or dark theme. Each has a title and
a description for those who cannot see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 720.0
_ROW, _LABEL, _VALUE = 26.0, 200.0, 100.0
_HEIGHT, _LEFT, _BOTTOM, _TOP = 240.0, 78.0, 30.0, 12.0
# Characters of a name that fit; the whole one is the bar's own title.
_NAME = 24


@dataclass(frozen=True, slots=True)
class Mark:
    """One bar, column or point: what it is called, how much it is (0 or more), and that in words."""

    name: str
    value: float
    text: str


def bars(ident: str, title: str, about: str, marks: Sequence[Mark]) -> str:
    """Horizontal bars, in the order given."""
    most = max((mark.value for mark in marks), default=0) or 1
    room = WIDTH - _LABEL - _VALUE
    parts = []
    for number, mark in enumerate(marks):
        top, width = number * _ROW, max(1.0, room * mark.value / most) if mark.value else 0.0
        middle = top + _ROW / 2 + 4
        parts.append(
            f"<g><title>{escape(f'{mark.name}: {mark.text}')}</title>"
            f'<text class="label" x="{_LABEL - 8:g}" y="{middle:g}" text-anchor="end">{escape(_short(mark.name))}</text>'
            f'<rect class="bar" x="{_LABEL:g}" y="{top + 4:g}" width="{width:.1f}" height="{_ROW - 8:g}" rx="2"/>'
            f'<text class="value" x="{_LABEL + width + 8:.1f}" y="{middle:g}">{escape(mark.text)}</text></g>'
        )
    return _svg(ident, title, about, max(1, len(marks)) * _ROW, parts)


def columns(ident: str, title: str, about: str, marks: Sequence[Mark], top_text: str, every: int = 1) -> str:
    """Vertical columns; every `every`-th is named. `top_text` is the highest value in words."""
    most = max((mark.value for mark in marks), default=0) or 1
    step = (WIDTH - _LEFT) / max(1, len(marks))
    room = _HEIGHT - _BOTTOM - _TOP
    parts = _axes(top_text)
    for number, mark in enumerate(marks):
        height = max(1.0, room * mark.value / most) if mark.value else 0.0
        x, gap = _LEFT + number * step, min(6.0, step * 0.2)
        parts.append(
            f"<g><title>{escape(f'{mark.name}: {mark.text}')}</title>"
            f'<rect class="bar" x="{x + gap / 2:.2f}" y="{_TOP + room - height:.1f}" width="{max(1.0, step - gap):.2f}"'
            f' height="{height:.1f}"/></g>'
        )
        if number % every == 0:
            parts.append(_name_below(x + step / 2, mark.name))
    return _svg(ident, title, about, _HEIGHT, parts)


def line(ident: str, title: str, about: str, marks: Sequence[Mark | None], top_text: str, names: Sequence[str]) -> str:
    """A line through the marks; None is a gap, and a mark between two gaps a dot. `names` has one for each place."""
    most = max((mark.value for mark in marks if mark is not None), default=0) or 1
    step = (WIDTH - _LEFT) / max(1, len(marks))
    room = _HEIGHT - _BOTTOM - _TOP
    parts, run = _axes(top_text), list[str]()
    for number, mark in enumerate([*marks, None]):
        if mark is not None:
            x, y = _LEFT + (number + 0.5) * step, _TOP + room * (1 - mark.value / most)
            run.append(f"{x:.1f},{y:.1f}")
            about_mark = escape(f"{mark.name}: {mark.text}")
            parts.append(f'<circle class="bar" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{about_mark}</title></circle>')
            continue
        if len(run) > 1:
            parts.append(f'<polyline class="line" points="{" ".join(run)}"/>')
        run = []
    every = max(1, len(names) // 6)
    parts += [_name_below(_LEFT + (place + 0.5) * step, names[place]) for place in range(0, len(names), every)]
    return _svg(ident, title, about, _HEIGHT, parts)


def _axes(top_text: str) -> list[str]:
    floor = _HEIGHT - _BOTTOM
    return [
        f'<line class="grid" x1="{_LEFT:g}" x2="{WIDTH:g}" y1="{y:g}" y2="{y:g}"/>'
        f'<text class="label" x="{_LEFT - 8:g}" y="{y + 4:g}" text-anchor="end">{escape(text)}</text>'
        for y, text in ((_TOP, top_text), (floor, "0"))
    ]


def _name_below(x: float, name: str) -> str:
    return f'<text class="label" x="{x:.1f}" y="{_HEIGHT - 8:g}" text-anchor="middle">{escape(_short(name))}</text>'


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _svg(ident: str, title: str, about: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{ident}-title {ident}-about">'
        f'<title id="{ident}-title">{escape(title)}</title><desc id="{ident}-about">{escape(about)}</desc>'
        f"{''.join(parts)}</svg>"
    )
