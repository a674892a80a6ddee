"""The tables of the auth package: users, sessions, tokens, cohorts, broken glasses, rates. Hold no file names and no PHI.

The web tier reads users, sessions and tokens and counts sign-ins; everything else is written by the services tier, in one
transaction with the ledger's event (`nas_gateway.people`).
"""

from __future__ import annotations

from pynamodb.attributes import (
    BooleanAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UnicodeSetAttribute,
)
from pynamodb.indexes import AllProjection, GlobalSecondaryIndex, IncludeProjection, KeysOnlyProjection
from pynamodb.models import Model


class ByName(GlobalSecondaryIndex["User"]):
    """Every user, by name, without what signs them in."""

    class Meta:
        index_name = "by-name"
        projection = IncludeProjection(["user_id", "role", "cohorts", "disabled", "created_at", "totp_on", "external"])

    listed = UnicodeAttribute(hash_key=True)
    username = UnicodeAttribute(range_key=True)


class ById(GlobalSecondaryIndex["User"]):
    """A user by the opaque id that stands in URLs."""

    class Meta:
        index_name = "by-id"
        projection = KeysOnlyProjection()

    user_id = UnicodeAttribute(hash_key=True)


class User(Model):
    """One person. `password_hash` is argon2id in PHC string format; times are epoch seconds.

    `generation` is raised to end every session at once: a session holds the one it was opened in. `totp` is the sealed
    secret (`totp.py`), in force once `totp_on`; `totp_step` the last time step whose code was used; `recovery` the hashes
    of recovery codes that are left. `external` is who signs them in elsewhere (`issuer subject`), `grants` the glasses
    that are broken: `{cohort: [grant_id, until]}`.
    """

    class Meta:
        suffix = "users"
        table_name = "users"

    username = UnicodeAttribute(hash_key=True)
    user_id = UnicodeAttribute(null=True)
    listed = UnicodeAttribute(default="user")
    role = UnicodeAttribute()
    cohorts = UnicodeSetAttribute(null=True)
    password_hash = UnicodeAttribute()
    disabled = BooleanAttribute(default=False)
    created_at = NumberAttribute()
    failed_sign_ins = NumberAttribute(default=0)
    locked_until = NumberAttribute(default=0)
    generation = NumberAttribute(default=0)
    totp = UnicodeAttribute(null=True)
    totp_on = BooleanAttribute(default=False)
    totp_step = NumberAttribute(default=0)
    recovery = UnicodeSetAttribute(null=True)
    external = UnicodeAttribute(null=True)
    # JSON text: PynamoDB takes a dictionary of one key, in a condition, for a value that is serialised already.
    grants = UnicodeAttribute(null=True)

    by_name = ByName()
    by_id = ById()


class SessionsOf(GlobalSecondaryIndex["SessionRow"]):
    """The sessions of a user, by when they began."""

    class Meta:
        index_name = "by-user"
        projection = AllProjection()

    username = UnicodeAttribute(hash_key=True)
    created_at = NumberAttribute(range_key=True)


class SessionRow(Model):
    """One signed-in session. The key is an HMAC of the token: the table cannot be used to sign in."""

    class Meta:
        suffix = "sessions"
        table_name = "sessions"
        ttl = "expires_at"

    key = UnicodeAttribute(hash_key=True)
    username = UnicodeAttribute()
    created_at = NumberAttribute()
    last_seen = NumberAttribute()
    expires_at = NumberAttribute()  # absolute end; DynamoDB's TTL may remove the row after it
    generation = NumberAttribute(default=0)

    by_user = SessionsOf()


class TokensOf(GlobalSecondaryIndex["TokenRow"]):
    """The personal tokens of a user, by when they were made."""

    class Meta:
        index_name = "by-user"
        projection = AllProjection()

    username = UnicodeAttribute(hash_key=True)
    created_at = NumberAttribute(range_key=True)


class TokenRow(Model):
    """One personal token: an HMAC of it, what it may (permissions; cohorts, None for all of its owner's), and until when."""

    class Meta:
        suffix = "tokens"
        table_name = "tokens"
        ttl = "expires_at"

    key = UnicodeAttribute(hash_key=True)
    token_id = UnicodeAttribute()
    username = UnicodeAttribute()
    name = UnicodeAttribute()
    permissions = UnicodeSetAttribute()
    cohorts = UnicodeSetAttribute(null=True)
    created_at = NumberAttribute()
    expires_at = NumberAttribute()
    last_used = NumberAttribute(null=True)

    by_user = TokensOf()


class Cohort(Model):
    """One cohort. All are in one partition, which lists them by name; there are dozens."""

    class Meta:
        suffix = "cohorts"
        table_name = "cohorts"

    listed = UnicodeAttribute(hash_key=True, default="cohort")
    name = UnicodeAttribute(range_key=True)
    created_at = NumberAttribute()
    created_by = UnicodeAttribute()


class GlassByEnd(GlobalSecondaryIndex["BrokenGlass"]):
    """Broken glasses whose end is not recorded yet, by when they end. Sparse."""

    class Meta:
        index_name = "by-end"
        projection = AllProjection()

    standing = UnicodeAttribute(hash_key=True)
    until = NumberAttribute(range_key=True)


class BrokenGlass(Model):
    """One elevation for READ on one cohort. `standing` goes when its end is recorded."""

    class Meta:
        suffix = "break-glass"
        table_name = "break-glass"

    grant_id = UnicodeAttribute(hash_key=True)
    username = UnicodeAttribute()
    cohort = UnicodeAttribute()
    reason = UnicodeAttribute()
    begun_at = NumberAttribute()
    until = NumberAttribute()
    standing = UnicodeAttribute(null=True, default="standing")

    by_end = GlassByEnd()


class RateRow(Model):
    """How often something was done in one window of time. The key holds an HMAC of who did it, never an address."""

    class Meta:
        suffix = "rates"
        table_name = "rates"
        ttl = "expires_at"

    key = UnicodeAttribute(hash_key=True)
    taken = NumberAttribute()
    locked_until = NumberAttribute(null=True)  # of a name that nobody has: see `signin`
    expires_at = NumberAttribute()


MODELS: list[type[Model]] = [User, SessionRow, TokenRow, Cohort, BrokenGlass, RateRow]
