"""What the calls about sessions and people answer.

Declared because the services tier makes these as plain objects. Used by the operations alone; a test compares every one with
what the running tiers answer.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from chalicelib.web.openapi.kinds import Epoch, Id, Role, TokenPermission


class Session(TypedDict):
    """A session that began. The token comes as a cookie, too. `expires_in` in seconds."""

    token: str
    token_type: Literal["Bearer"]
    expires_in: int
    username: str
    role: Role


class Glass(TypedDict):
    """A broken glass: reading one cohort for a while."""

    cohort: str
    until: Epoch


class Me(TypedDict):
    """Who is signed in; `token`: by a personal token."""

    username: str
    user_id: str
    role: Role
    cohorts: list[str]
    token: bool
    break_glass: list[Glass]


class SignedOut(TypedDict):
    signed_out: Literal[True]


class User(TypedDict):
    """A user as administrators see it; `external`: signs in elsewhere, by OpenID Connect."""

    user_id: Id
    username: str
    role: Role
    cohorts: list[str]
    disabled: bool
    created_at: Epoch
    second_factor: bool
    external: bool


class NewUser(User):
    """The user who was made, and the password, which nobody is shown again."""

    password: NotRequired[str]


class Users(TypedDict):
    """A page of users by name; `cursor` is null on the last."""

    users: list[User]
    cursor: str | None


class NewPassword(TypedDict):
    """The new password, which nobody is shown again."""

    user_id: Id
    password: str


class Cohort(TypedDict):
    name: str
    created_at: Epoch
    created_by: str


class Cohorts(TypedDict):
    cohorts: list[Cohort]


class Changed(TypedDict):
    changed: Literal[True]


class OwnSession(TypedDict):
    """One of one's own sessions; `session_id` cannot be used to sign in."""

    session_id: str
    created_at: Epoch
    last_seen: Epoch
    expires_at: Epoch
    current: bool


class OwnSessions(TypedDict):
    sessions: list[OwnSession]


class Token(TypedDict):
    """A personal token as its owner sees it; `cohorts` null: all of the owner's."""

    token_id: Id
    name: str
    permissions: list[TokenPermission]
    cohorts: list[str] | None
    created_at: Epoch
    expires_at: Epoch
    last_used: Epoch | None


class NewToken(Token):
    """The token that was made, with the token itself, which nobody is shown again."""

    token: str


class Tokens(TypedDict):
    tokens: list[Token]


class RevokedToken(TypedDict):
    token_id: Id
    revoked: Literal[True]


class SecondFactor(TypedDict):
    """What an authenticator needs, once."""

    secret: str
    uri: str


class RecoveryCodes(TypedDict):
    """Each signs in once instead of the authenticator. Nobody is shown them again."""

    recovery_codes: list[str]


class Removed(TypedDict):
    removed: Literal[True]


class Grant(TypedDict):
    """A break-glass access."""

    grant_id: Id
    username: str
    cohort: str
    reason: str
    begun_at: Epoch
    until: Epoch


class Grants(TypedDict):
    grants: list[Grant]


class EndedGrant(TypedDict):
    grant_id: Id
    ended: Literal[True]
