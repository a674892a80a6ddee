"""The gate that every sign-in with a password goes through: the address's rate, the password, the second factor.

Both the API (`web.session`) and the pages use it. Imports auth, config and errors.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from chalicelib.auth import users
from chalicelib.auth.rates import Limit, Rates
from chalicelib.auth.tables import User
from chalicelib.auth.totp import SecondFactor
from chalicelib.config import Settings
from chalicelib.errors import BadCredentials, CodeRequired

WINDOW_SECONDS = 15 * 60


class SignIn:
    """One a process."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._rates, self._factor = Rates(settings, now), SecondFactor(settings, now)
        self._limit = Limit("sign-in", settings.sign_in_failures, WINDOW_SECONDS)

    def check(self, username: str, password: str, code: str | None, address: str) -> User:
        """The user. Raises `BadCredentials`, `CodeRequired` (the password was right), `TooManyRequests`.

        Every attempt takes one of the address's before anything else is looked at, and success gives it back: so that
        attempts at once are counted too, also those for names that nobody has.
        """
        who, name = network(address), users.normal(username)
        self._rates.take(self._limit, who)
        self._rates.refuse_ghost(name)

        def second(user: User) -> None:
            try:
                self._factor.use(user, code)
            except CodeRequired:
                if code:
                    users.count_failure(user, self._now())
                else:
                    self._rates.give_back(self._limit, who)
                raise

        try:
            user = users.authenticate(name, password, self._now, second)
        except CodeRequired:
            raise
        except BadCredentials:
            found = users.find(name)
            if found is None or found.disabled:  # or else only names that somebody has would ever have to wait
                self._rates.count_ghost(name)
            raise
        self._rates.give_back(self._limit, who)
        return user


def failed_at(error: BadCredentials, code: str | None) -> bool:
    """Whether a refusal is a failed attempt, and not the question for the second factor."""
    return bool(code) or not isinstance(error, CodeRequired)


def network(address: str) -> str:
    """Whom an address stands for: itself, or for IPv6 its /64, which is what one subscriber has at least (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
