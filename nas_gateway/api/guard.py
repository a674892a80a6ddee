"""Who may call `/internal/`: the API key on every call, and the forwarded user's session resolved once more."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib import context, observability
from chalicelib.auth.policy import SERVICE
from chalicelib.auth.sessions import Sessions
from chalicelib.config import Secret, Settings
from chalicelib.errors import BadApiKey
from nas_gateway.cleanup.holds import Holds
from nas_gateway.cleanup.service import Cleanup
from nas_gateway.files.access import Call
from nas_gateway.files.published import Published
from nas_gateway.files.transfers import Transfers
from nas_gateway.jobs.jobs import Jobs
from nas_gateway.people.people import People
from nas_gateway.uploads.concatenation import Concatenation
from nas_gateway.uploads.direct import Direct
from nas_gateway.uploads.service import Uploads


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the internal handlers share. Made once by the wiring."""

    settings: Settings
    sessions: Sessions
    transfers: Transfers
    uploads: Uploads
    concatenation: Concatenation
    direct: Direct
    jobs: Jobs
    published: Published
    cleanup: Cleanup
    holds: Holds
    people: People

    def admit(self, request: Any) -> Call:
        """The call a request makes. Raises `BadApiKey`, `NotSignedIn` for a stale assertion.

        Without an assertion the caller is the services tier itself: whoever holds the tiers' key.
        """
        check_api_key(request.headers.get("x-api-key", ""), self.settings.internal_api_keys)
        token = request.headers.get("x-depot-assertion")
        principal = self.sessions.resolve(token) if token else SERVICE
        context.assertion.set(token)
        return Call(principal, observability.current_request_id())


GatewayOf = Callable[[], Gateway]


def check_api_key(given: str, keys: Sequence[Secret]) -> None:
    """Constant-time comparison with every configured key (two during a rotation). Raises `BadApiKey`."""
    good = False
    for key in keys:
        good |= hmac.compare_digest(given.encode(), key.reveal().encode())
    if not good:
        raise BadApiKey
