"""The one table of roles x cohort x action. Code enforces it, the documentation prints it. Imports only errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from chalicelib.errors import Forbidden


class Permission(StrEnum):
    """What can be allowed. A file's bytes and its description are separate: an auditor sees only the latter."""

    UPLOAD = "upload"
    READ = "read"  # a file's bytes
    LIST = "list"  # a file's description
    DELETE = "delete"
    LEDGER = "ledger"
    CLEANUP = "cleanup"
    ADMIN = "admin"  # users, cohorts, roles
    BREAK_GLASS = "break_glass"  # to give oneself READ on a cohort for a while, with a reason, recorded


@dataclass(frozen=True, slots=True)
class RoleRule:
    """`everywhere`: for every cohort; otherwise only for the cohorts the user belongs to."""

    permissions: frozenset[Permission]
    everywhere: bool
    about: str


def _rule(about: str, *permissions: Permission, everywhere: bool = False) -> RoleRule:
    return RoleRule(frozenset(permissions), everywhere, about)


P = Permission
ROLES: Mapping[str, RoleRule] = {
    "superuser": _rule("everything, everywhere", *P, everywhere=True),
    "administrator": _rule("runs the coordinating centre", *P, everywhere=True),
    "cohort_manager": _rule("a site's data manager", P.UPLOAD, P.READ, P.LIST, P.DELETE, P.LEDGER),
    "uploader": _rule("sends files and sees that they arrived", P.UPLOAD, P.LIST),
    "reader": _rule("reads a cohort's files", P.READ, P.LIST),
    "auditor": _rule("the ledger and what files there are, never their bytes", P.LIST, P.LEDGER, everywhere=True),
    "operator": _rule(
        "clean-up and health, never bytes but by break-glass", P.LIST, P.CLEANUP, P.BREAK_GLASS, everywhere=True
    ),
}

# What breaking the glass gives for one cohort.
GLASS = frozenset({P.READ, P.LIST})
# What a personal token can be given. People are administered, and the glass is broken, by somebody who signed in.
TOKEN_PERMISSIONS = frozenset(P) - {P.ADMIN, P.BREAK_GLASS}


@dataclass(frozen=True, slots=True)
class Grant:
    """A broken glass: `GLASS` for one cohort, under the id that the ledger's events name. `until` in epoch seconds."""

    grant_id: str
    cohort: str
    until: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `session` identifies the session in logs; it cannot be used to sign in.

    A personal token (`token`) has its owner's rights, but no more than `only` (permissions) and `within` (cohorts; None is
    all of the owner's). `grants` are glasses that are broken at this moment.
    """

    username: str
    role: str
    cohorts: frozenset[str] = field(default_factory=frozenset)
    session: str = ""
    user_id: str = ""
    token: bool = False
    only: frozenset[Permission] | None = None
    within: frozenset[str] | None = None
    grants: tuple[Grant, ...] = ()

    def may(self, permission: Permission, cohort: str | None) -> bool:
        """Whether the table allows it. `cohort=None` is something that belongs to no cohort: only for `everywhere`."""
        scope = self.scope(permission)
        return scope is None or (cohort is not None and cohort in scope)

    def require(self, permission: Permission, cohort: str | None) -> None:
        """Raise `Forbidden` unless the table allows it."""
        if not self.may(permission, cohort):
            raise Forbidden

    def scope(self, permission: Permission) -> frozenset[str] | None:
        """The cohorts it is allowed for: None is every one, an empty set is none."""
        rule = ROLES.get(self.role)
        glass = frozenset(grant.cohort for grant in self.grants) if permission in GLASS else frozenset[str]()
        if rule is None:
            return frozenset()
        if permission not in rule.permissions or (self.only is not None and permission not in self.only):
            return glass
        cohorts = None if rule.everywhere else self.cohorts
        if self.within is not None:
            cohorts = self.within if cohorts is None else cohorts & self.within
        return None if cohorts is None else cohorts | glass

    def grant(self, cohort: str | None) -> str | None:
        """The id of the broken glass that a use of this cohort's files counts for."""
        return next((grant.grant_id for grant in self.grants if grant.cohort == cohort), None)


def report_scope(principal: Principal) -> frozenset[str] | None:
    """The cohorts whose numbers somebody may see in reports: who may read their ledger, clean up, or administer.

    None is every one, an empty set is none.
    """
    scopes = [principal.scope(permission) for permission in (P.LEDGER, P.CLEANUP, P.ADMIN)]
    return None if None in scopes else frozenset[str]().union(*(scope for scope in scopes if scope))


# A call with the tier's API key and no user: the operator's curl, a script on the services host, a scheduled job.
SERVICE = Principal("service", "superuser")
