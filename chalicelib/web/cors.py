"""Cross-origin requests: which other origins' pages may call us, and what they may see. Imports nothing of the project.

Only pages of the origins in `DEPOT_CORS_ORIGINS`, only with a bearer token: credentials (the cookie) are never allowed, and
`refuse_cross_site` refuses them besides. Pages of our own origin need none of these headers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

# Chrome keeps a preflight's answer for two hours at most.
_MAX_AGE_SECONDS = "7200"


def cors_headers(
    allowed: Collection[str],
    request_headers: Mapping[str, str],
    *,
    methods: str,
    takes: str,
    shows: str,
) -> dict[str, str]:
    """The headers for one answer. `takes` are request headers and `shows` answer headers that a page may use; all are lists
    with commas."""
    if not allowed:
        return {}
    origin = request_headers.get("origin")
    if origin is None or origin not in allowed:
        return {"Vary": "Origin"}  # or a cache would give this answer to the others
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": takes,
        "Access-Control-Expose-Headers": shows,
        "Access-Control-Max-Age": _MAX_AGE_SECONDS,
    }
