"""`/ledger/*`: the ledger's signed checkpoints as a file, and the public key. Registered by app.py; both tiers check.

For who reads the ledger everywhere: an auditor keeps the file, and `depot ledger verify --checkpoints` compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.auth.policy import Permission
from chalicelib.errors import InvalidRequest
from chalicelib.hosting.chalice_app import StreamResponse
from chalicelib.storage.checkpoints import CheckpointPage, Checkpoints
from chalicelib.web.audit_text import TYPES
from chalicelib.web.client_config import streams
from chalicelib.web.tier import Tier

# Checkpoints of one page, of 1.9 KiB each: what both tiers hold of them at a time, and what one answer under Lambda has. The
# services tier reads them from a bucket one by one, and API Gateway waits 29 seconds.
PAGE: Final = 250


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    def asked(*known: str) -> dict[str, str]:
        tier().sign_in(bp.current_request).require(Permission.LEDGER, None)
        query: dict[str, str] = dict(bp.current_request.query_params or {})
        if set(query) - set(known):
            raise InvalidRequest(f"Unknown parameters. Known: {', '.join(known) or 'none'}.")
        return query

    @bp.route("/ledger/checkpoints", methods=["GET"])
    def checkpoints() -> Response:
        """`?after=N`: JSON Lines, the checkpoints above number N as they are kept; under Lambda 250, and a link to the rest."""
        after, source = http.count(asked("after").get("after"), "after"), tier().checkpoints
        page = source.page(after, PAGE)
        headers = {
            "Content-Type": TYPES["jsonl"],
            "Content-Disposition": http.content_disposition(f"checkpoints-{after + 1}.jsonl"),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        if streams(bp.current_request):
            return StreamResponse(_blocks(source, page), headers)
        if page.next is not None:
            headers["Link"] = f'</ledger/checkpoints?after={page.next}>; rel="next"'
        return Response(_text(page), dict(headers))

    @bp.route("/ledger/public-key", methods=["GET"])
    def public_key() -> Response:
        """-> `{public_key}`. Compare it with what you were given on another way: who can forge the ledger can forge this."""
        asked()
        return Response({"public_key": tier().checkpoints.public_key()}, headers={"Cache-Control": "no-store"})

    return bp


def _blocks(source: Checkpoints, page: CheckpointPage) -> Iterator[bytes]:
    """The file a page at a time. An error in the middle breaks the connection: no short file looks whole."""
    while True:
        if page.lines:
            yield _text(page).encode()
        if page.next is None:
            return
        page = source.page(page.next, PAGE)


def _text(page: CheckpointPage) -> str:
    return "".join(f"{line}\n" for line in page.lines)
