"""Users and cohorts, administered: who may sign in, as what, for which cohorts.

Only a superuser makes or changes superusers, and the last one who can sign in stays one. Imported by `people`.
"""

from __future__ import annotations

from typing import Any

from pynamodb.exceptions import PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib import http
from chalicelib.auth import tokens, users
from chalicelib.auth.policy import Permission
from chalicelib.auth.tables import Cohort, TokenRow, User
from chalicelib.errors import (
    AlreadyThere,
    Forbidden,
    InvalidRequest,
    LastSuperuser,
    UserMissing,
)
from chalicelib.storage import paths
from nas_gateway.files.access import Call
from nas_gateway.files.registry import NO_COHORT
from nas_gateway.ledger.events import Action
from nas_gateway.ledger.ledger import ChangeRefused
from nas_gateway.people.records import Records, Values, maybe_text, subject, text, texts, unavailable

SUPERUSER = "superuser"
# Races with another administrator about the same user that are tried again.
_TRIES = 3


class Administration:
    """The use-cases. Each requires ADMIN, and is recorded with its change."""

    def __init__(self, records: Records) -> None:
        self._records = records

    # --- cohorts ---------------------------------------------------------------------------------------------

    def cohorts(self, call: Call, values: Values) -> dict[str, Any]:
        self._records.require(call, Permission.ADMIN)
        try:
            rows = list(Cohort.query("cohort"))
        except PynamoDBException as error:
            unavailable(error)
        told = [{"name": row.name, "created_at": int(row.created_at), "created_by": row.created_by} for row in rows]
        return {"cohorts": told}

    def create_cohort(self, call: Call, values: Values) -> dict[str, Any]:
        """Raises `InvalidPath` for a name that could be no folder, `AlreadyThere`."""
        self._records.require(call, Permission.ADMIN)
        name = paths.segment(text(values, "name"), "cohort")
        if name == NO_COHORT:
            raise InvalidRequest(f"{NO_COHORT!r} stands for no cohort.")
        row = Cohort("cohort", name, created_at=int(self._records.clock()), created_by=call.principal.username)

        def change(transaction: TransactWrite) -> None:
            transaction.save(row, condition=Cohort.name.does_not_exist())

        try:
            self._records.write(call, Action.COHORT_CREATED, {}, change, cohort=name)
        except ChangeRefused:
            raise AlreadyThere("There is a cohort of that name already.") from None
        return {"name": name, "created_at": int(row.created_at), "created_by": row.created_by}

    # --- users -----------------------------------------------------------------------------------------------

    def users(self, call: Call, values: Values) -> dict[str, Any]:
        """Users by name. The cursor is the id of the last one told: names do not travel in addresses."""
        self._records.require(call, Permission.ADMIN)
        after = None
        if cursor := maybe_text(values, "cursor"):
            last = users.by_id(cursor)
            if last is None:
                raise InvalidRequest("The cursor is not one of this list's.")
            after = {"listed": {"S": "user"}, "username": {"S": last.username}}
        try:
            found = User.by_name.query("user", limit=http.page_limit(values.get("limit")), last_evaluated_key=after)
            rows = list(found)
        except PynamoDBException as error:
            unavailable(error)
        more = rows[-1].user_id if rows and found.last_evaluated_key else None
        return {"users": [view(row) for row in rows], "cursor": more}

    def user(self, call: Call, values: Values, user_id: str) -> dict[str, Any]:
        self._records.require(call, Permission.ADMIN)
        return view(_found(user_id))

    def create_user(self, call: Call, values: Values) -> dict[str, Any]:
        """The user, and the password that nobody is shown again. Raises `AlreadyThere`, `InvalidRequest`."""
        self._records.require(call, Permission.ADMIN)
        return self.create(
            call,
            text(values, "username"),
            text(values, "role"),
            texts(values, "cohorts"),
            password=maybe_text(values, "password"),
        )

    def create(
        self,
        call: Call,
        username: str,
        role: str,
        cohorts: list[str],
        *,
        password: str | None = None,
        external: str | None = None,
    ) -> dict[str, Any]:
        """`create_user`, once it is known that it is allowed. `external`: who signs them in, instead of a password."""
        users.check_role(role)
        self._only_superusers(call, role)
        row, made = users.new_user(username, role, cohorts, password, external=external)

        def change(transaction: TransactWrite) -> None:
            transaction.save(row, condition=User.username.does_not_exist())
            _require_cohorts(transaction, cohorts)

        about = {**subject(row), "role": role, "cohorts": ", ".join(cohorts)}
        try:
            self._records.write(call, Action.USER_CREATED, about, change)
        except ChangeRefused as refused:
            if refused.index:
                raise _no_cohort() from None
            raise AlreadyThere("There is a user of that name already.") from None
        return {**view(row), **({"password": made} if external is None else {})}

    def change_user(self, call: Call, values: Values, user_id: str) -> dict[str, Any]:
        """Role, cohorts, disabled. Disabling ends every session. Raises `LastSuperuser`, `Forbidden`, `UserMissing`."""
        self._records.require(call, Permission.ADMIN)
        role, disabled = maybe_text(values, "role"), values.get("disabled")
        cohorts = texts(values, "cohorts") if values.get("cohorts") is not None else None
        if disabled is not None and not isinstance(disabled, bool):
            raise InvalidRequest("disabled must be true or false.")
        if role is None and cohorts is None and disabled is None:
            raise InvalidRequest("Say what to change: role, cohorts, or disabled.")
        if role is not None:
            users.check_role(role)
        for _ in range(_TRIES):
            user = _found(user_id)
            try:
                self._change(call, user, role or user.role, cohorts, user.disabled if disabled is None else disabled)
            except ChangeRefused as refused:
                if cohorts and refused.index > 1:
                    raise _no_cohort() from None
                continue
            return view(_found(user_id))
        raise InvalidRequest("Somebody else changes this user at this moment. Look again.")

    def _change(self, call: Call, user: User, role: str, cohorts: list[str] | None, disabled: bool) -> None:
        self._only_superusers(call, user.role, role)
        stays = role == SUPERUSER and not disabled
        other = _another_superuser(user) if user.role == SUPERUSER and not user.disabled and not stays else None
        actions: list[Any] = [User.role.set(role), User.disabled.set(disabled)]
        if cohorts is not None:
            actions.append(User.cohorts.set(set(cohorts)) if cohorts else User.cohorts.remove())
        if disabled and not user.disabled:
            actions.append(User.generation.add(1))

        def change(transaction: TransactWrite) -> None:
            seen = (User.role == user.role) & (User.disabled == user.disabled)
            transaction.update(User(user.username), actions, condition=seen)
            if other is not None:
                still = (User.role == SUPERUSER) & (User.disabled == False)  # noqa: E712
                transaction.condition_check(User, other.username, condition=still)
            _require_cohorts(transaction, cohorts or [])

        action = Action.USER_CHANGED
        if disabled != user.disabled:
            action = Action.USER_DISABLED if disabled else Action.USER_ENABLED
        about = {**subject(user), "role": role, "role_before": user.role}
        if cohorts is not None:
            about |= {"cohorts": ", ".join(cohorts), "cohorts_before": ", ".join(sorted(user.cohorts or ()))}
        self._records.write(call, action, about, change)

    def reset_password(self, call: Call, values: Values, user_id: str) -> dict[str, Any]:
        """A new password, told once. Sessions, tokens and the second factor end: whoever had them may be the reason."""
        self._records.require(call, Permission.ADMIN)
        user = _found(user_id)
        self._only_superusers(call, user.role)
        password, password_hash = users.hashed(None)
        held = tokens.of(user.username)

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                User(user.username),
                [
                    User.password_hash.set(password_hash),
                    User.generation.add(1),
                    User.failed_sign_ins.set(0),
                    User.locked_until.set(0),
                    User.totp_on.set(False),
                    User.totp.remove(),
                    User.recovery.remove(),
                ],
                condition=User.role == user.role,
            )
            for token in held:
                transaction.delete(TokenRow(token.key))

        try:
            self._records.write(call, Action.PASSWORD_RESET, {**subject(user), "tokens_ended": str(len(held))}, change)
        except ChangeRefused:
            raise InvalidRequest("Somebody else changes this user at this moment. Look again.") from None
        return {"user_id": user.user_id, "password": password}

    def _only_superusers(self, call: Call, *roles: str) -> None:
        """Raises `Forbidden` where one of the roles is theirs to give and take only."""
        if SUPERUSER in roles and not call.is_service and call.principal.role != SUPERUSER:
            self._records.write(call, Action.ACCESS_DENIED, {"permission": Permission.ADMIN.value, "role": SUPERUSER})
            raise Forbidden("Only a superuser makes or changes superusers.")


def view(user: User) -> dict[str, Any]:
    """A user as administrators see it."""
    return {
        "user_id": user.user_id,
        "username": user.username,
        "role": user.role,
        "cohorts": sorted(user.cohorts or ()),
        "disabled": bool(user.disabled),
        "created_at": int(user.created_at),
        "second_factor": bool(user.totp_on),
        "external": user.external is not None,
    }


def _found(user_id: str) -> User:
    user = users.by_id(user_id)
    if user is None:
        raise UserMissing
    return user


def _another_superuser(user: User) -> User:
    """One who can sign in. Raises `LastSuperuser`."""
    try:
        for row in User.by_name.query("user"):
            if row.role == SUPERUSER and not row.disabled and row.username != user.username:
                return row
    except PynamoDBException as error:
        unavailable(error)
    raise LastSuperuser


def _require_cohorts(transaction: TransactWrite, names: list[str]) -> None:
    for name in names:
        transaction.condition_check(Cohort, "cohort", name, condition=Cohort.name.exists())


def _no_cohort() -> InvalidRequest:
    return InvalidRequest("There is no such cohort. Make it first: depot cohort create, or POST /cohorts.")
