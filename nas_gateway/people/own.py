"""One's own account: password, sessions, tokens, second factor. For somebody who signed in; never for a token.

Imported by `people`.
"""

from __future__ import annotations

from typing import Any

from pynamodb.exceptions import PynamoDBException
from pynamodb.transactions import TransactWrite

from chalicelib import context
from chalicelib.auth import tokens, users
from chalicelib.auth.rates import Limit, Rates
from chalicelib.auth.sessions import Sessions, generation_of, session_id
from chalicelib.auth.tables import TokenRow, User
from chalicelib.auth.totp import SecondFactor
from chalicelib.errors import AlreadyThere, CodeRequired, InvalidRequest, TokenMissing
from nas_gateway.files.access import Call
from nas_gateway.ledger.events import Action
from nas_gateway.ledger.ledger import ChangeRefused
from nas_gateway.people.records import Records, Values, maybe_text, number, subject, text, texts, unavailable

# What the web tier tells of a user's sign-ins is recorded this often: more is no person.
_NOTES = Limit("note", 60, 60)
_CHANGED = "Your account was changed at the same moment. Look again."


class OwnAccount:
    """The use-cases of whoever is signed in."""

    def __init__(self, records: Records, sessions: Sessions, factor: SecondFactor, rates: Rates) -> None:
        self._records, self._sessions, self._factor, self._rates = records, sessions, factor, rates

    # --- sessions and password -------------------------------------------------------------------------------

    def note_session(self, call: Call, values: Values) -> dict[str, Any]:
        """The web tier saw its user sign in, or out. Believed, as the assertion shows that there is a session."""
        user = self._records.me(call)
        actions = {"signed_in": Action.SIGNED_IN, "signed_out": Action.SIGNED_OUT}
        action = actions.get(text(values, "event"))
        if action is None:
            raise InvalidRequest(f"event must be one of {', '.join(actions)}.")
        self._rates.take(_NOTES, user.username)
        self._records.write(call, action, {"session": call.principal.session})
        return {"recorded": True}

    def sessions(self, call: Call, values: Values) -> dict[str, Any]:
        rows = self._sessions.of(self._records.me(call).username)
        told = [
            {
                "session_id": session_id(row),
                "created_at": int(row.created_at),
                "last_seen": int(row.last_seen),
                "expires_at": int(row.expires_at),
                "current": session_id(row) == call.principal.session,
            }
            for row in rows
        ]
        return {"sessions": told}

    def end_sessions(self, call: Call, values: Values) -> dict[str, Any]:
        """Every session, this one too. Tokens stay: they are revoked one by one."""
        user = self._records.me(call)

        def change(transaction: TransactWrite) -> None:
            transaction.update(User(user.username), [User.generation.add(1)], condition=User.username.exists())

        self._records.write(call, Action.SIGNED_OUT, {"everywhere": "true"}, change)
        return {"signed_out": True}

    def change_password(self, call: Call, values: Values) -> dict[str, Any]:
        """Every other session ends. Raises `InvalidRequest` for a wrong old password, or a bad new one."""
        user = self._records.me(call)
        old, new = text(values, "old"), text(values, "new")
        self._records.check_password(user, old)
        _, password_hash = users.hashed(new)

        def change(transaction: TransactWrite) -> None:
            transaction.update(
                User(user.username),
                [User.password_hash.set(password_hash), User.generation.add(1)],
                condition=User.password_hash == user.password_hash,
            )

        try:
            self._records.write(call, Action.PASSWORD_CHANGED, subject(user), change)
        except ChangeRefused:
            raise InvalidRequest(_CHANGED) from None
        self._sessions.carry_over(context.assertion.get() or "", generation_of(user) + 1)
        return {"changed": True}

    # --- tokens ----------------------------------------------------------------------------------------------

    def tokens(self, call: Call, values: Values) -> dict[str, Any]:
        return {"tokens": [tokens.view(row) for row in tokens.of(self._records.me(call).username)]}

    def create_token(self, call: Call, values: Values) -> dict[str, Any]:
        """The token, which nobody is shown again. Raises `InvalidRequest` for a scope beyond one's own rights."""
        user = self._records.me(call)
        if len(tokens.of(user.username)) >= tokens.MAX_TOKENS:
            raise InvalidRequest(f"You have {tokens.MAX_TOKENS} tokens. Revoke one that is no longer used.")
        row, token = self._sessions.tokens.new(
            user,
            text(values, "name"),
            texts(values, "permissions"),
            texts(values, "cohorts") or None,
            number(values, "days"),
        )

        def change(transaction: TransactWrite) -> None:
            transaction.save(row, condition=TokenRow.key.does_not_exist())

        about = {
            "token_id": row.token_id,
            "permissions": ", ".join(sorted(row.permissions)),
            "cohorts": ", ".join(sorted(row.cohorts or ())),
            "expires_at": str(int(row.expires_at)),
        }
        self._records.write(call, Action.TOKEN_CREATED, about, change)
        return {**tokens.view(row), "token": token}

    def revoke_token(self, call: Call, values: Values, token_id: str) -> dict[str, Any]:
        user = self._records.me(call)
        row = next((row for row in tokens.of(user.username) if row.token_id == token_id), None)
        if row is None:
            raise TokenMissing
        key = row.key

        def change(transaction: TransactWrite) -> None:
            transaction.delete(TokenRow(key), condition=TokenRow.key.exists())

        try:
            self._records.write(call, Action.TOKEN_REVOKED, {"token_id": token_id}, change)
        except ChangeRefused:
            raise TokenMissing from None
        return {"token_id": token_id, "revoked": True}

    # --- second factor ---------------------------------------------------------------------------------------

    def enrol(self, call: Call, values: Values) -> dict[str, Any]:
        """A new secret, told once; in force when `confirm` has shown that the authenticator has it."""
        user = self._records.me(call)
        if user.totp_on:
            raise AlreadyThere("A second factor is on already. Remove it first.")
        self._records.check_password(user, text(values, "password"))
        sealed, secret, uri = self._factor.new(user.username)
        try:
            user.update([User.totp.set(sealed)], condition=User.totp_on.does_not_exist() | (User.totp_on == False))  # noqa: E712
        except PynamoDBException as error:
            unavailable(error)
        return {"secret": secret, "uri": uri}

    def confirm(self, call: Call, values: Values) -> dict[str, Any]:
        """The recovery codes, told once. Raises `CodeRequired` for a wrong code."""
        user = self._records.me(call)
        if user.totp is None or user.totp_on:
            raise InvalidRequest("There is nothing to confirm: POST /session/totp first.")
        step = self._factor.step_of(user, "".join(text(values, "code").split()))
        if step is None:
            raise CodeRequired("The code is wrong. Look whether the clocks agree, and send the one shown now.")
        codes, hashes = self._factor.recovery()
        sealed = user.totp

        def change(transaction: TransactWrite) -> None:
            actions: list[Any] = [User.totp_on.set(True), User.totp_step.set(step), User.recovery.set(hashes)]
            transaction.update(User(user.username), actions, condition=User.totp == sealed)

        try:
            self._records.write(call, Action.SECOND_FACTOR_ON, subject(user), change)
        except ChangeRefused:
            raise InvalidRequest(_CHANGED) from None
        return {"recovery_codes": codes}

    def drop_factor(self, call: Call, values: Values) -> dict[str, Any]:
        """No second factor any more; takes both factors. Raises `CodeRequired`, `InvalidRequest`."""
        user = self._records.me(call)
        if not user.totp_on:
            raise InvalidRequest("No second factor is on.")
        self._records.check_password(user, text(values, "password"))
        try:
            self._factor.use(user, maybe_text(values, "code"))
        except CodeRequired:
            if values.get("code"):
                users.count_failure(user, self._records.clock())
                self._records.failed(user)
            raise

        def change(transaction: TransactWrite) -> None:
            actions: list[Any] = [User.totp_on.set(False), User.totp.remove(), User.recovery.remove()]
            transaction.update(User(user.username), actions, condition=User.totp_on == True)  # noqa: E712

        self._records.write(call, Action.SECOND_FACTOR_OFF, subject(user), change)
        return {"removed": True}
