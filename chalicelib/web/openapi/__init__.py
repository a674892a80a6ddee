"""`GET /openapi.json`: the API of the web tier, described for programs. For people the same is at `/docs` (`pages.docs`).

Needs no sign-in and no services tier: it is the same for every installation. Registered by app.py.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from chalice.app import Blueprint, Response

from chalicelib import http
from chalicelib.web.openapi.document import document, views_of
from chalicelib.web.tier import Tier

__all__ = ["blueprint", "described", "document", "views_of"]


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint; it needs no tier."""
    del tier
    bp = Blueprint(__name__)

    @bp.route("/openapi.json", methods=["GET"])
    def openapi() -> Response:
        """This API as an OpenAPI 3.1 document."""
        text, tag = _written(bp.current_app)
        headers: dict[str, Any] = {"Content-Type": "application/json", "Cache-Control": "no-cache", "ETag": tag}
        if http.matches(bp.current_request.headers.get("if-none-match"), tag):
            return Response("", headers, 304)
        return Response(text, {**headers, "X-Content-Type-Options": "nosniff"})

    return bp


@cache
def described(app: Any) -> dict[str, Any]:
    """The document of an app, made once a process. Not to be changed."""
    return document(views_of(app))


@cache
def _written(app: Any) -> tuple[str, str]:
    text = json.dumps(described(app), ensure_ascii=False)
    return text, f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
