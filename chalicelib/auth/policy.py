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
    "operator": _rule("clean-up and health, never bytes", P.LIST, P.CLEANUP, everywhere=True),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `session` identifies the session in logs; it cannot be used to sign in."""

    username: str
    role: str
    cohorts: frozenset[str] = field(default_factory=frozenset)
    session: str = ""

    def may(self, permission: Permission, cohort: str | None) -> bool:
        """Whether the table allows it. `cohort=None` is something that belongs to no cohort: only for `everywhere`."""
        rule = ROLES.get(self.role)
        if rule is None or permission not in rule.permissions:
            return False
        return rule.everywhere or (cohort is not None and cohort in self.cohorts)

    def require(self, permission: Permission, cohort: str | None) -> None:
        """Raise `Forbidden` unless the table allows it."""
        if not self.may(permission, cohort):
            raise Forbidden

    def scope(self, permission: Permission) -> frozenset[str] | None:
        """The cohorts it is allowed for: None is every one, an empty set is none."""
        rule = ROLES.get(self.role)
        if rule is None or permission not in rule.permissions:
            return frozenset()
        return None if rule.everywhere else self.cohorts


# A call with the tier's API key and no user: the operator's curl, a script on the services host, a scheduled job.
SERVICE = Principal("service", "superuser")
