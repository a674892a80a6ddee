"""Static files: `/static/{version}/{name}`. A version is the content's digest, so a browser may keep a file for ever.

`chalicelib/web/static/` holds our own style and script; `static/build/` what npm made of them and of Uppy (`make assets`),
which is there only where Node was. Read once a process; nothing else of the disk can be reached.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.errors import NotFound
from chalicelib.hosting.chalice_app import StreamResponse
from chalicelib.web.tier import Tier

FOLDER: Final = Path(__file__).parent.parent / "static"
TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# RFC 8246: the content at this address never changes.
_KEPT: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    name: str
    content: bytes
    packed: bytes  # gzip
    version: str

    @property
    def type(self) -> str:
        return TYPES[Path(self.name).suffix]


@cache
def assets() -> Mapping[str, Asset]:
    """Every static file by its name, those of `build/` before our own of the same name."""
    found: dict[str, Asset] = {}
    for path in (*sorted(FOLDER.glob("*")), *sorted((FOLDER / "build").glob("*"))):
        if path.is_file() and path.suffix in TYPES:
            content = path.read_bytes()
            version = hashlib.sha256(content).hexdigest()[:16]
            found[path.name] = Asset(path.name, content, gzip.compress(content, mtime=0), version)
    return found


def has(name: str) -> bool:
    return name in assets()


def url(name: str) -> str:
    """The address of a static file, as pages name it. Raises `KeyError` for one that is not there."""
    return f"/static/{assets()[name].version}/{name}"


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint; it needs no tier, and no sign-in."""
    del tier
    bp = Blueprint(__name__)

    @bp.route("/static/{version}/{name}", methods=["GET", "HEAD"])
    def static(version: str, name: str) -> Response:
        asset = assets().get(name)
        if asset is None or asset.version != version:
            raise NotFound
        headers = {
            "Content-Type": asset.type,
            "Cache-Control": _KEPT,
            "ETag": f'"{asset.version}"',
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        asked, body = bp.current_request.headers, asset.content
        if http.matches(asked.get("if-none-match"), headers["ETag"]):
            return Response("", dict(headers), 304)
        if takes_gzip(asked.get("accept-encoding", "")):
            headers["Content-Encoding"], body = "gzip", asset.packed
        return StreamResponse([body], {**headers, "Content-Length": len(body)})

    return bp


def takes_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` (RFC 9110, 12.5.3) has gzip in it, and not with the weight 0.

    >>> takes_gzip("br, gzip;q=0.5"), takes_gzip("gzip; q=0"), takes_gzip("")
    (True, False, False)
    """
    for item in accepted.lower().split(","):
        coding, _, weight = item.partition(";")
        if coding.strip() == "gzip":
            return not re.fullmatch(r"q=0(\.0*)?", weight.replace(" ", ""))
    return False
