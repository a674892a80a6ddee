"""Users: creation and the check of a password. Imports the auth tables, errors and argon2."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pynamodb.exceptions import DoesNotExist, PutError, PynamoDBException, UpdateError
from pynamodb.expressions.update import Action

from chalicelib import dynamo
from chalicelib.auth.policy import ROLES
from chalicelib.auth.tables import User
from chalicelib.errors import BadCredentials, CodeRequired, InvalidRequest, LedgerUnavailable, TooManyRequests

# argon2-cffi's defaults are RFC 9106's second recommended set (64 MiB, 3 passes, 4 lanes). Two at a time bound the
# memory that sign-ins can take on the web tier to 128 MiB.
_hasher = PasswordHasher()
_hashing = threading.BoundedSemaphore(2)

# NIST SP 800-63B-4, 3.1.1.2: at least 15 characters where a password is the only factor.
MIN_PASSWORD_CHARS = 15
# The same section: at least 64 must be taken. Argon2 takes any length, but a request need not.
MAX_PASSWORD_CHARS = 1024

# After this many wrong passwords in a row each further one doubles the wait, up to a quarter of an hour.
FREE_ATTEMPTS, MAX_LOCK_SECONDS = 5, 900

# Verified when the user does not exist, so that the answer takes as long (made on first use, not at import).
_decoy: list[str] = []


def new_user(
    username: str, role: str, cohorts: Iterable[str] = (), password: str | None = None, *, external: str | None = None
) -> tuple[User, str]:
    """A row that is not stored yet, and the password (a generated one when none is given). Raises `InvalidRequest`."""
    username = normal(username)
    check_role(role)
    password, password_hash = hashed(password)
    row = User(
        username=username,
        user_id=uuid.uuid4().hex,
        role=role,
        cohorts=set(cohorts) or None,
        password_hash=password_hash,
        created_at=int(time.time()),
        external=external,
    )
    return row, password


def check_role(role: str) -> None:
    """Raises `InvalidRequest`."""
    if role not in ROLES:
        raise InvalidRequest(f"There is no role {role!r}. Roles: {', '.join(ROLES)}.")


def hashed(password: str | None) -> tuple[str, str]:
    """A password (a generated one where none is given) and its hash. Raises `InvalidRequest` for a short one."""
    if password is None:
        password = secrets.token_urlsafe(18)
    elif not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise InvalidRequest(f"A password needs at least {MIN_PASSWORD_CHARS} characters.")
    with _hashing:
        return password, _hasher.hash(password)


def create_user(username: str, role: str, cohorts: Iterable[str] = (), password: str | None = None) -> str:
    """Create a user without an event in the ledger: the first superuser; returns the password. Raises `InvalidRequest`."""
    row, password = new_user(username, role, cohorts, password)
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


def authenticate(
    username: str,
    password: str,
    now: Callable[[], float] = time.time,
    second: Callable[[User], None] | None = None,
) -> User:
    """The user, or `BadCredentials` (the same for a wrong name and a wrong password), or `TooManyRequests`.

    `second` checks the second factor of a user who has one; without it such a user is refused (`CodeRequired`). Called by
    `signin`, which also bounds how often one address may try.
    """
    user = find(normal(username))
    if user is not None:
        refuse_locked(user.locked_until, now())
    with _hashing:
        if user is None or user.disabled:
            _verify(_decoy_hash(), password)
            raise BadCredentials
        good = _verify(user.password_hash, password)
    if not good:
        count_failure(user, now())
        raise BadCredentials
    if user.totp_on:
        if second is None:
            raise CodeRequired
        second(user)
    forgive(user)
    return user


def forgive(user: User) -> None:
    """A sign-in succeeded: wrong passwords before it count no longer. Raises `LedgerUnavailable`."""
    if user.failed_sign_ins:
        try:
            user.update([User.failed_sign_ins.set(0), User.locked_until.set(0)])
        except UpdateError as error:
            raise LedgerUnavailable("The user table cannot be written. Try again in a while.") from error


def right_password(user: User, password: str) -> bool:
    """Whether it is the user's, whatever else is true of them."""
    with _hashing:
        return _verify(user.password_hash, password)


def find(username: str) -> User | None:
    """The row of a user, read consistently; None when there is none. Raises `LedgerUnavailable`."""
    try:
        return User.get(username, consistent_read=True)
    except DoesNotExist:
        return None
    except PynamoDBException as error:
        raise LedgerUnavailable("The user table cannot be read. Try again in a while.") from error


def by_id(user_id: str) -> User | None:
    """A user by the id that stands in URLs; None when there is none. Raises `LedgerUnavailable`."""
    try:
        found = list(User.by_id.query(user_id, limit=1))
    except PynamoDBException as error:
        raise LedgerUnavailable("The user table cannot be read. Try again in a while.") from error
    user = find(found[0].username) if found else None
    return user if user is not None and user.user_id == user_id else None


def normal(username: str) -> str:
    """A user name as it is kept. Raises `InvalidRequest`."""
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


def wait_after(failures: int) -> int:
    """Seconds that so many wrong passwords in a row cost.

    >>> [wait_after(n) for n in (4, 5, 6, 14, 15, 1000)]
    [0, 1, 2, 512, 900, 900]
    """
    return 0 if failures < FREE_ATTEMPTS else min(2 ** min(failures - FREE_ATTEMPTS, 30), MAX_LOCK_SECONDS)


def refuse_locked(until: float, now: float) -> None:
    """Raises `TooManyRequests` while somebody has to wait."""
    if until > now:
        wait = max(1, int(until - now))
        raise TooManyRequests("Too many wrong passwords. Wait a little and try again.", retry_after=wait)


def count_failure(user: User, now: float) -> None:
    """A wrong password, or a wrong second factor: each further one makes the user wait longer."""
    actions: list[Action] = [User.failed_sign_ins.add(1)]
    if wait := wait_after(int(user.failed_sign_ins) + 1):
        actions.append(User.locked_until.set(int(now) + wait))
    try:
        user.update(actions)
    except UpdateError as error:
        raise LedgerUnavailable("The user table cannot be written. Try again in a while.") from error
