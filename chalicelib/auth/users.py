"""Users: creation and the check of a password. Imports the auth tables, errors and argon2."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pynamodb.exceptions import DoesNotExist, PutError, PynamoDBException, UpdateError
from pynamodb.expressions.update import Action

from chalicelib import dynamo
from chalicelib.auth.policy import ROLES
from chalicelib.auth.tables import User
from chalicelib.errors import BadCredentials, InvalidRequest, LedgerUnavailable, TooManyRequests

# argon2-cffi's defaults are RFC 9106's second recommended set (64 MiB, 3 passes, 4 lanes). Two at a time bound the
# memory that sign-ins can take on the web tier to 128 MiB.
_hasher = PasswordHasher()
_hashing = threading.BoundedSemaphore(2)

# NIST SP 800-63B-4, 3.1.1.2: at least 15 characters where a password is the only factor.
MIN_PASSWORD_CHARS = 15

# After this many wrong passwords in a row each further one doubles the wait, up to a quarter of an hour.
FREE_ATTEMPTS, MAX_LOCK_SECONDS = 5, 900

# Verified when the user does not exist, so that the answer takes as long (made on first use, not at import).
_decoy: list[str] = []


def create_user(username: str, role: str, cohorts: Iterable[str] = (), password: str | None = None) -> str:
    """Create a user; returns the password (a generated one when none is given). Raises `InvalidRequest`."""
    username = _normal(username)
    if role not in ROLES:
        raise InvalidRequest(f"There is no role {role!r}. Roles: {', '.join(ROLES)}.")
    if password is None:
        password = secrets.token_urlsafe(18)
    elif len(password) < MIN_PASSWORD_CHARS:
        raise InvalidRequest(f"A password needs at least {MIN_PASSWORD_CHARS} characters.")
    with _hashing:
        password_hash = _hasher.hash(password)
    row = User(
        username=username,
        role=role,
        cohorts=set(cohorts) or None,
        password_hash=password_hash,
        created_at=int(time.time()),
    )
    try:
        row.save(User.username.does_not_exist())
    except PutError as error:
        if dynamo.code_of(error) == "ConditionalCheckFailedException":
            raise InvalidRequest("A user of that name exists already.") from None
        raise LedgerUnavailable("The user table cannot be written. Try again in a while.") from error
    return password


def ensure_superuser(username: str = "admin") -> str | None:
    """Create the first superuser unless there is one of that name; its generated password, or None."""
    try:
        return create_user(username, "superuser")
    except InvalidRequest:
        return None


def authenticate(username: str, password: str, now: Callable[[], float] = time.time) -> User:
    """The user, or `BadCredentials` (the same for a wrong name and a wrong password), or `TooManyRequests`."""
    user = find(_normal(username))
    if user is not None and user.locked_until > now():
        raise TooManyRequests("Too many wrong passwords. Wait a little and try again.")
    with _hashing:
        if user is None or user.disabled:
            _verify(_decoy_hash(), password)
            raise BadCredentials
        good = _verify(user.password_hash, password)
    if not good:
        _count_failure(user, now())
        raise BadCredentials
    if user.failed_sign_ins:
        user.update([User.failed_sign_ins.set(0), User.locked_until.set(0)])
    return user


def find(username: str) -> User | None:
    """The row of a user, read consistently; None when there is none. Raises `LedgerUnavailable`."""
    try:
        return User.get(username, consistent_read=True)
    except DoesNotExist:
        return None
    except PynamoDBException as error:
        raise LedgerUnavailable("The user table cannot be read. Try again in a while.") from error


def _normal(username: str) -> str:
    name = username.strip().casefold()
    if not 1 <= len(name) <= 254 or not name.isprintable():
        raise InvalidRequest("A user name has 1 to 254 printable characters.")
    return name


def _verify(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


def _decoy_hash() -> str:
    if not _decoy:
        _decoy.append(_hasher.hash(secrets.token_urlsafe(18)))
    return _decoy[0]


def _count_failure(user: User, now: float) -> None:
    over = int(user.failed_sign_ins) + 1 - FREE_ATTEMPTS
    actions: list[Action] = [User.failed_sign_ins.add(1)]
    if over >= 0:
        actions.append(User.locked_until.set(int(now) + min(2**over, MAX_LOCK_SECONDS)))
    try:
        user.update(actions)
    except UpdateError as error:
        raise LedgerUnavailable("The user table cannot be written. Try again in a while.") from error
