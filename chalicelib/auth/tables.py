"""The tables of the auth package: users and sessions. Hold no file names and no PHI."""

from __future__ import annotations

from pynamodb.attributes import (
    BooleanAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UnicodeSetAttribute,
)
from pynamodb.models import Model


class User(Model):
    """One person. `password_hash` is argon2id in PHC string format; times are epoch seconds."""

    class Meta:
        suffix = "users"
        table_name = "users"

    username = UnicodeAttribute(hash_key=True)
    role = UnicodeAttribute()
    cohorts = UnicodeSetAttribute(null=True)
    password_hash = UnicodeAttribute()
    disabled = BooleanAttribute(default=False)
    created_at = NumberAttribute()
    failed_sign_ins = NumberAttribute(default=0)
    locked_until = NumberAttribute(default=0)


class SessionRow(Model):
    """One signed-in session. The key is an HMAC of the token: the table cannot be used to sign in."""

    class Meta:
        suffix = "sessions"
        table_name = "sessions"

    key = UnicodeAttribute(hash_key=True)
    username = UnicodeAttribute()
    created_at = NumberAttribute()
    last_seen = NumberAttribute()
    expires_at = NumberAttribute()  # absolute end; DynamoDB's TTL may remove the row after it


MODELS: list[type[Model]] = [User, SessionRow]
