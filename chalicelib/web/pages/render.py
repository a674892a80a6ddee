"""From templates to answers: the Jinja environment, and the headers that every page has. Used by `kit`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from chalice.app import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from chalicelib.web.pages import assets

TEMPLATES = Path(__file__).parent.parent / "templates"

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def html(template: str, values: Mapping[str, Any], status: int = 200, *, connect: tuple[str, ...] = ()) -> Response:
    """A page. `connect`: origins besides our own that its script may talk to (the store's, for presigned uploads)."""
    body = _environment().get_template(template).render(values)
    return Response(body, _headers(connect), status)


def fragment(template: str, values: Mapping[str, Any]) -> Markup:
    """A part of a page, to be kept: what is the same for everybody and takes long to make. Escaped as every page is."""
    return Markup(_environment().get_template(template).render(values))  # noqa: S704 -- by the template


def see_other(location: str, *cookies: str) -> Response:
    """303: go on with GET there, whatever this was."""
    headers: dict[str, Any] = {"Location": location, "Cache-Control": "no-store"}
    if cookies:
        headers["Set-Cookie"] = list(cookies) if len(cookies) > 1 else cookies[0]
    return Response("", headers, 303)


def _headers(connect: tuple[str, ...]) -> dict[str, Any]:
    """Nothing from elsewhere, nothing inline, no frames (OWASP ASVS 5, chapter 3.4); no copy in a cache."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": " ".join(("'self'", *connect)),
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"bytes": in_bytes, "moment": moment, "label": label}
    made.globals |= {"asset": assets.url}
    return made


def in_bytes(size: float | None) -> str:
    """A size for people: `1.5 MiB`; an em dash where it is not known.

    >>> in_bytes(0), in_bytes(1536 * 1024), in_bytes(1)
    ('0 bytes', '1.5 MiB', '1 byte')
    """
    if size is None:
        return "\N{EM DASH}"
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return f"{int(value)} byte" + ("" if value == 1 else "s")
    return f"{value:.1f} {_UNITS[unit]}"


def moment(text: str | None) -> str:
    """An ISO 8601 time as people read it, in UTC, to the second; an em dash where there is none.

    >>> moment("2026-01-02T03:04:05.678Z")
    '2026-01-02 03:04:05'
    """
    if not text:
        return "\N{EM DASH}"
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def label(code: str | None) -> str:
    """A code such as `file_uploaded_via_stream` as words; "" for None.

    >>> label("file_uploaded_via_stream")
    'File uploaded via stream'
    """
    return (code or "").replace("_", " ").capitalize()
