"""Where a request came from, behind the reverse proxies that the settings trust. Knows no tables."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from chalicelib.config import Network


def client_address(request: Any, trusted: Sequence[Network]) -> str:
    """The address of whoever sent it: the peer's, or, of a trusted proxy, the last one in `X-Forwarded-For` it can vouch for.

    What is left of the first address that is not a trusted proxy's is what the client says of itself: not believed.
    """
    peer = str((request.context.get("identity") or {}).get("sourceIp") or "")
    told = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",") if part.strip()]
    while told and _trusted(peer, trusted):
        peer = told.pop()
    return peer


def _trusted(address: str, trusted: Sequence[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in trusted)
