"""The optional second factor: TOTP (RFC 6238) and recovery codes. Imports the auth tables, errors, pyotp, cryptography.

The secret is sealed with a key derived from SESSION_SECRET, so that the table alone gives nobody a code. Each code counts
once: the time step it belongs to must be later than the last one used, in one conditional write.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable

import pyotp
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pynamodb.exceptions import UpdateError

from chalicelib import dynamo
from chalicelib.auth.tables import User
from chalicelib.config import Settings
from chalicelib.errors import CodeRequired, InvalidRequest, LedgerUnavailable

# RFC 6238, 5.2: steps of 30 seconds; one step either way for clocks that differ and codes typed slowly.
STEP_SECONDS, DRIFT_STEPS = 30, 1
# 80 random bits each: no dictionary, so an HMAC is enough of a hash.
RECOVERY_CODES, _RECOVERY_BYTES = 10, 10


class SecondFactor:
    """Makes, seals and checks what a user's second factor is made of."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        secret = settings.session_secret.reveal().encode()
        self._key = hmac.new(secret, b"depot totp secrets", hashlib.sha256).digest()
        self._now = now

    def new(self, username: str) -> tuple[str, str, str]:
        """Sealed secret (to store), the secret in base32, and the URI for an authenticator."""
        secret = pyotp.random_base32()
        uri = pyotp.TOTP(secret).provisioning_uri(name=username, issuer_name="Depot")
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(self._key).encrypt(nonce, secret.encode(), username.encode())
        return base64.b64encode(sealed).decode(), secret, uri

    def recovery(self) -> tuple[list[str], set[str]]:
        """Recovery codes (to show once) and their hashes (to store)."""
        codes = [base64.b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode().lower() for _ in range(RECOVERY_CODES)]
        return codes, {self._hash(code) for code in codes}

    def step_of(self, user: User, code: str) -> int | None:
        """The time step whose code this is, if it is one of now and later than the last used; else None."""
        secret, step = self._open(user), int(self._now()) // STEP_SECONDS
        totp = pyotp.TOTP(secret)
        found = None
        for candidate in range(step - DRIFT_STEPS, step + DRIFT_STEPS + 1):
            if hmac.compare_digest(totp.at(candidate * STEP_SECONDS).encode(), code.encode()):
                found = candidate
        return found if found is not None and found > (user.totp_step or 0) else None

    def use(self, user: User, code: str | None) -> None:
        """Spend a code, or a recovery code, of a user who has the factor on. Raises `CodeRequired`, `LedgerUnavailable`."""
        code = "".join((code or "").split()).lower()
        if not code:
            raise CodeRequired
        step = self.step_of(user, code)
        try:
            if step is not None:
                user.update([User.totp_step.set(step)], condition=User.totp_step < step)
                return
            hashed = self._hash(code)
            if hashed in (user.recovery or ()):
                user.update([User.recovery.delete({hashed})], condition=User.recovery.contains(hashed))
                return
        except UpdateError as error:
            if dynamo.code_of(error) != "ConditionalCheckFailedException":
                raise LedgerUnavailable("The user table cannot be written. Try again in a while.") from error
            # the same code was used at the same time
        raise CodeRequired("The code is wrong, or was used already. Wait for the next one.")

    def _open(self, user: User) -> str:
        try:
            sealed = base64.b64decode(user.totp or "")
            return AESGCM(self._key).decrypt(sealed[:12], sealed[12:], user.username.encode()).decode()
        except (InvalidTag, ValueError):
            # SESSION_SECRET was changed: nobody can tell the codes any more.
            raise InvalidRequest(
                "The second factor cannot be read: the server's secret has changed. Ask an administrator to reset it."
            ) from None

    def _hash(self, code: str) -> str:
        return hmac.new(self._key, code.encode(), hashlib.sha256).hexdigest()
