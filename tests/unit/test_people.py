"""Users and cohorts administered, one's own account, tokens, the second factor, broken glasses. Each with its event."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pyotp
import pytest
from argon2 import PasswordHasher
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb import dynamodb_backends

from chalicelib import context
from chalicelib.auth import users
from chalicelib.auth.policy import Permission, Principal
from chalicelib.auth.rates import Limit, Rates
from chalicelib.auth.sessions import Sessions
from chalicelib.auth.signin import SignIn, network
from chalicelib.auth.tables import RateRow, TokenRow, User
from chalicelib.config import Settings
from chalicelib.errors import (
    AlreadyThere,
    BadCredentials,
    CodeRequired,
    DepotError,
    Forbidden,
    GrantMissing,
    InvalidPath,
    InvalidRequest,
    LastSuperuser,
    NotSignedIn,
    SignInRequired,
    TokenMissing,
    TooManyRequests,
    UserMissing,
)
from chalicelib.storage.streams import BytesReader
from nas_gateway import wiring
from nas_gateway.api.guard import Gateway
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.ledger import queries
from nas_gateway.people.people import People
from tests.support.gateway import AWS, ENV, made_gateway

GOOD, OTHER = "correct horse battery", "another good password"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class House:
    """People over one gateway and one clock; everybody has the same hash of `GOOD`, since argon2 takes its time."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.clock = gateway, Clock()
        self.sessions = Sessions(gateway.settings, self.clock)
        self.people = People(
            gateway.settings, gateway.transfers.ledger, gateway.transfers.access, self.sessions, self.clock
        )
        self.gate = SignIn(gateway.settings, self.clock)

    def person(self, name: str, role: str, *cohorts: str) -> User:
        row = User(
            name, user_id=name.encode().hex().ljust(32, "0"), role=role, cohorts=set(cohorts) or None,
            password_hash=HASH[0], created_at=int(self.clock()),
        )  # fmt: skip
        row.save()
        return row

    def session(self, user: User) -> str:
        return self.sessions.open(user)[0]

    def call(self, token: str | None) -> Call:
        context.assertion.set(token)
        return Call(self.sessions.resolve(token), "request-0001") if token else Call()

    def ask(self, token: str | None, name: str, values: dict[str, Any] | None = None, **where: str) -> dict[str, Any]:
        return self.people.ask(name, self.call(token), values, **where)


HASH: list[str] = []


@pytest.fixture(scope="module")
def tables() -> Iterator[None]:
    """One set of tables for all: making them takes longer than any test here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in AWS.items():
            patch.setenv(name, value)
        patch.setattr(users, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        with made_gateway(ENV):
            HASH.append(users.hashed(GOOD)[1])
            yield


@pytest.fixture
def house(tables: None) -> Iterator[House]:
    for table in dynamodb_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].tables.values():
        table.items.clear()
    wiring.gateway.cache_clear()  # the ledger remembers the heads of its chains
    yield House(wiring.configure(Settings.from_env(ENV)))
    context.assertion.set(None)


@pytest.fixture
def root(house: House) -> str:
    """A superuser's session."""
    return house.session(house.person("root", "superuser"))


def events(**selected: str) -> list[tuple[str, str, dict[str, str]]]:
    found = queries.query(**selected, limit=1000).events  # type: ignore[arg-type]
    return [(event.action, event.outcome, dict(event.metadata or {})) for event in found]


# --- users and cohorts --------------------------------------------------------------------------------------------


def test_a_user_is_created_with_cohorts_that_exist_and_the_password_is_told_once(house: House, root: str) -> None:
    with pytest.raises(InvalidRequest, match="no such cohort"):
        house.ask(root, "create_user", {"username": "ana@example.org", "role": "reader", "cohorts": ["VACS"]})
    assert house.ask(root, "create_cohort", {"name": "VACS"})["created_by"] == "root"
    made = house.ask(root, "create_user", {"username": "Ana@Example.org", "role": "reader", "cohorts": ["VACS"]})
    assert made["username"] == "ana@example.org"
    assert users.authenticate("ana@example.org", made["password"]).cohorts == {"VACS"}
    told = house.ask(root, "user", user_id=made["user_id"])
    assert told == {key: value for key, value in made.items() if key != "password"}
    with pytest.raises(AlreadyThere):
        house.ask(root, "create_user", {"username": "ana@example.org", "role": "reader", "cohorts": []})
    (created,) = events(user="root", action="user_created")
    assert created[2]["user_id"] == made["user_id"]
    assert made["password"] not in str(events(user="root"))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\\b", "x" * 256, "-", "\u202e"])
def test_a_cohorts_name_must_be_a_folders(house: House, root: str, name: str) -> None:
    with pytest.raises((InvalidPath, InvalidRequest)):
        house.ask(root, "create_cohort", {"name": name})
    assert house.ask(root, "cohorts")["cohorts"] == []


def test_cohorts_are_listed_by_name_and_made_once(house: House, root: str) -> None:
    for name in ("VACS", "HIVRN"):
        house.ask(root, "create_cohort", {"name": name})
    with pytest.raises(AlreadyThere):
        house.ask(root, "create_cohort", {"name": "VACS"})
    assert [each["name"] for each in house.ask(root, "cohorts")["cohorts"]] == ["HIVRN", "VACS"]
    assert len(events(user="root", action="cohort_created")) == 2


def test_users_are_listed_in_pages_whose_cursor_is_no_name(house: House, root: str) -> None:
    for number in range(5):
        house.person(f"user{number}", "reader")
    names, cursor = [], None
    while True:
        page = house.ask(root, "users", {"limit": "2", **({"cursor": cursor} if cursor else {})})
        names += [each["username"] for each in page["users"]]
        assert "password" not in str(page)
        if (cursor := page["cursor"]) is None:
            break
        assert "user" not in bytes.fromhex(cursor).decode("latin-1") or len(cursor) == 32
    assert names == ["root", *(f"user{number}" for number in range(5))]
    with pytest.raises(InvalidRequest):
        house.ask(root, "users", {"cursor": "0" * 32})


@pytest.mark.parametrize("role", ["cohort_manager", "uploader", "reader", "auditor", "operator"])
def test_nobody_else_administers_people(house: House, role: str) -> None:
    token = house.session(house.person("x", role, "VACS"))
    for name in ("users", "cohorts", "create_cohort", "create_user"):
        with pytest.raises(Forbidden):
            house.ask(token, name, {"name": "c", "username": "u", "role": "reader"})
    for name in ("user", "change_user", "reset_password"):
        with pytest.raises(Forbidden):
            house.ask(token, name, {"disabled": True}, user_id="0" * 32)
    assert [event[0] for event in events(user="x")] == ["access_denied"] * 7


def test_an_administrator_neither_makes_nor_changes_superusers(house: House, root: str) -> None:
    admin = house.session(house.person("boss", "administrator"))
    target = house.person("ana", "reader")
    root_id = users.find("root").user_id  # type: ignore[union-attr]
    for name, values, user_id in (
        ("create_user", {"username": "evil", "role": "superuser"}, None),
        ("change_user", {"role": "superuser"}, target.user_id),
        ("change_user", {"disabled": True}, root_id),
        ("change_user", {"role": "reader"}, root_id),
        ("reset_password", {}, root_id),
    ):
        with pytest.raises(Forbidden, match="superuser"):
            house.ask(admin, name, values, **({"user_id": user_id} if user_id else {}))
    assert house.ask(admin, "change_user", {"role": "uploader"}, user_id=str(target.user_id))["role"] == "uploader"
    assert house.ask(root, "change_user", {"role": "superuser"}, user_id=str(target.user_id))["role"] == "superuser"
    assert [e[2].get("role") for e in events(user="boss", action="access_denied")] == ["superuser"] * 5


def test_the_last_superuser_stays_one(house: House, root: str) -> None:
    mine = str(users.find("root").user_id)  # type: ignore[union-attr]
    house.person("gone", "superuser").update([User.disabled.set(True)])
    for values in ({"role": "administrator"}, {"disabled": True}):
        with pytest.raises(LastSuperuser):
            house.ask(root, "change_user", values, user_id=mine)
    house.person("second", "superuser")
    assert house.ask(root, "change_user", {"role": "administrator"}, user_id=mine)["role"] == "administrator"


def test_two_superusers_who_demote_each_other_at_once_leave_one(house: House, root: str) -> None:
    """Each of the two transactions checks that the other one still is one; DynamoDB lets one of them through."""
    second = house.person("second", "superuser")
    first = users.find("root")
    assert first is not None
    admin = house.people.admin
    stale = users.find("second")
    assert stale is not None
    original = users.by_id

    def raced(user_id: str) -> User | None:  # between the look at `second` and the write, `second` is demoted
        found = original(user_id)
        if not seen:
            seen.append(user_id)
            second.update([User.role.set("reader")])
        return found

    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "by_id", raced)
        with pytest.raises(LastSuperuser):
            admin.change_user(Call(), {"role": "reader"}, str(first.user_id))
    assert users.find("root").role == "superuser"  # type: ignore[union-attr]


def test_the_other_superuser_is_checked_in_the_same_transaction(house: House, root: str) -> None:
    from nas_gateway.people import admin

    first, second = users.find("root"), house.person("second", "superuser")
    assert first is not None
    found = admin._another_superuser(first)
    assert found.username == "second"
    with pytest.MonkeyPatch.context() as patch:
        # The index, which lags, still shows a superuser who is none any more.
        patch.setattr(admin, "_another_superuser", lambda user: found)
        second.update([User.disabled.set(True)])
        with pytest.raises(InvalidRequest, match="Somebody else"):
            house.ask(root, "change_user", {"role": "reader"}, user_id=str(first.user_id))
    assert users.find("root").role == "superuser"  # type: ignore[union-attr]


def test_disabling_ends_sessions_for_good_and_is_recorded(house: House, root: str) -> None:
    ana = house.person("ana", "reader")
    token = house.session(ana)
    assert house.ask(root, "change_user", {"disabled": True}, user_id=str(ana.user_id))["disabled"]
    with pytest.raises(NotSignedIn):
        house.sessions.resolve(token)
    assert not house.ask(root, "change_user", {"disabled": False}, user_id=str(ana.user_id))["disabled"]
    with pytest.raises(NotSignedIn):
        house.sessions.resolve(token)
    assert [each[0] for each in events(user="root")] == ["user_disabled", "user_enabled"]


def test_cohorts_are_changed_to_such_as_exist(house: House, root: str) -> None:
    ana = house.person("ana", "reader", "OLD")
    house.ask(root, "create_cohort", {"name": "NEW"})
    with pytest.raises(InvalidRequest, match="no such cohort"):
        house.ask(root, "change_user", {"cohorts": ["NEW", "NONE"]}, user_id=str(ana.user_id))
    assert house.ask(root, "change_user", {"cohorts": ["NEW"]}, user_id=str(ana.user_id))["cohorts"] == ["NEW"]
    assert house.ask(root, "change_user", {"cohorts": []}, user_id=str(ana.user_id))["cohorts"] == []
    (first, _) = events(user="root", action="user_changed")
    assert (first[2]["cohorts"], first[2]["cohorts_before"]) == ("NEW", "OLD")


def test_a_reset_password_ends_everything_that_the_old_one_opened(house: House, root: str) -> None:
    ana = house.person("ana", "reader", "VACS")
    token = house.session(ana)
    script = house.ask(token, "create_token", {"name": "s", "permissions": ["read"]})["token"]
    ana.update([User.totp_on.set(True), User.locked_until.set(int(house.clock() + 99)), User.failed_sign_ins.set(9)])
    password = house.ask(root, "reset_password", user_id=str(ana.user_id))["password"]
    for old in (token, script):
        with pytest.raises(NotSignedIn):
            house.sessions.resolve(old)
    assert users.authenticate("ana", password, house.clock).username == "ana"
    with pytest.raises(BadCredentials):
        users.authenticate("ana", GOOD, house.clock)


def test_who_is_not_there_is_not_found(house: House, root: str) -> None:
    with pytest.raises(UserMissing):
        house.ask(root, "user", user_id="0" * 32)


@pytest.mark.parametrize(
    "values",
    [{}, {"role": "king"}, {"disabled": "yes"}, {"cohorts": "VACS"}, {"cohorts": [1]}, {"role": 1}],
    ids=str,
)
def test_malformed_changes_are_refused(house: House, root: str, values: dict[str, Any]) -> None:
    ana = house.person("ana", "reader")
    with pytest.raises(InvalidRequest):
        house.ask(root, "change_user", values, user_id=str(ana.user_id))
    assert events(user="root") == []


# --- one's own account --------------------------------------------------------------------------------------------


def test_a_new_password_ends_the_other_sessions_and_keeps_this_one(house: House) -> None:
    ana = house.person("ana", "reader")
    here, elsewhere = house.session(ana), house.session(ana)
    with pytest.raises(InvalidRequest, match="wrong"):
        house.ask(here, "change_password", {"old": "not the password", "new": OTHER})
    with pytest.raises(InvalidRequest, match="15 characters"):
        house.ask(here, "change_password", {"old": GOOD, "new": "short"})
    house.ask(here, "change_password", {"old": GOOD, "new": OTHER})
    assert house.sessions.resolve(here).username == "ana"
    with pytest.raises(NotSignedIn):
        house.sessions.resolve(elsewhere)
    assert users.authenticate("ana", OTHER, house.clock).username == "ana"
    assert [each[:2] for each in events(user="ana")] == [
        ("sign_in_failed", "failed"), ("password_changed", "completed"),
    ]  # fmt: skip


def test_a_stolen_session_cannot_try_passwords_without_end(house: House) -> None:
    ana = house.person("ana", "reader")
    here = house.session(ana)
    ana.update([User.failed_sign_ins.set(users.FREE_ATTEMPTS)])
    with pytest.raises(InvalidRequest):
        house.ask(here, "change_password", {"old": "not the password", "new": OTHER})
    with pytest.raises(TooManyRequests) as caught:
        house.ask(here, "change_password", {"old": GOOD, "new": OTHER})
    assert caught.value.retry_after


def test_own_sessions_are_listed_and_all_of_them_ended(house: House) -> None:
    ana = house.person("ana", "reader")
    first = house.session(ana)
    house.clock.now += 10
    second = house.session(ana)
    told = house.ask(second, "sessions")["sessions"]
    assert [each["current"] for each in told] == [False, True]
    assert not {first, second} & {str(value) for each in told for value in each.values()}
    house.ask(second, "end_sessions")
    for token in (first, second):
        with pytest.raises(NotSignedIn):
            house.sessions.resolve(token)
    assert house.sessions.of("ana") == []
    assert events(user="ana") == [("signed_out", "completed", {"everywhere": "true"})]


def test_a_user_from_before_there_were_generations_signs_in_as_ever(house: House) -> None:
    old = house.person("old", "reader")
    old.update([User.generation.remove(), User.totp_on.remove(), User.totp_step.remove()])
    user = house.gate.check("old", GOOD, None, "192.0.2.1")
    here, elsewhere = house.session(user), house.session(user)
    house.ask(here, "change_password", {"old": GOOD, "new": OTHER})
    assert house.sessions.resolve(here).username == "old"
    with pytest.raises(NotSignedIn):
        house.sessions.resolve(elsewhere)
    user.update([User.password_hash.set(HASH[0])])
    enrolled(house, here)
    with pytest.raises(CodeRequired):
        house.gate.check("old", GOOD, None, "192.0.2.1")


def test_a_session_that_was_idle_too_long_is_not_listed(house: House) -> None:
    ana = house.person("ana", "reader")
    house.session(ana)
    house.clock.now += house.gateway.settings.session_idle_seconds
    assert house.sessions.of("ana") == []


def test_signing_in_and_out_is_noted_and_no_more_often_than_people_do_it(house: House) -> None:
    token = house.session(house.person("ana", "reader"))
    for _ in range(60):
        house.ask(token, "note_session", {"event": "signed_in"})
    with pytest.raises(TooManyRequests):
        house.ask(token, "note_session", {"event": "signed_in"})
    with pytest.raises(InvalidRequest):
        house.ask(token, "note_session", {"event": "user_created"})
    with pytest.raises(SignInRequired):
        house.ask(None, "note_session", {"event": "signed_in"})
    assert len(events(user="ana", action="signed_in")) == 60


# --- personal tokens ----------------------------------------------------------------------------------------------


def test_a_token_has_its_owners_rights_within_its_scope_at_each_call(house: House) -> None:
    ana = house.person("ana", "cohort_manager", "A", "B")
    here = house.session(ana)
    made = house.ask(here, "create_token", {"name": "nightly", "permissions": ["upload", "list"], "cohorts": ["A"]})
    assert made["token"].startswith("depot_")
    held = house.sessions.resolve(made["token"])
    assert held.token
    assert held.may(Permission.UPLOAD, "A")
    assert not held.may(Permission.UPLOAD, "B")
    assert not held.may(Permission.READ, "A")
    assert held.scope(Permission.LIST) == {"A"}
    ana.update([User.role.set("reader")])
    held = house.sessions.resolve(made["token"])
    assert not held.may(Permission.UPLOAD, "A")
    assert held.may(Permission.LIST, "A")
    ana.update([User.cohorts.set({"B"})])
    assert not house.sessions.resolve(made["token"]).may(Permission.LIST, "A")
    ana.update([User.disabled.set(True)])
    with pytest.raises(NotSignedIn):
        house.sessions.resolve(made["token"])


def test_a_superusers_token_for_one_cohort_is_for_that_one(house: House, root: str) -> None:
    made = house.ask(root, "create_token", {"name": "x", "permissions": ["read", "ledger"], "cohorts": ["A"]})
    held = house.sessions.resolve(made["token"])
    assert held.scope(Permission.READ) == {"A"}
    assert not held.may(Permission.LEDGER, None)
    assert not held.may(Permission.ADMIN, None)
    everywhere = house.ask(root, "create_token", {"name": "y", "permissions": ["read"]})["token"]
    assert house.sessions.resolve(everywhere).scope(Permission.READ) is None


@pytest.mark.parametrize(
    "values",
    [
        {"permissions": []},
        {"permissions": ["read", "king"]},
        {"permissions": ["admin"]},
        {"permissions": ["break_glass"]},
        {"permissions": ["cleanup"]},
        {"permissions": ["read"], "cohorts": ["THEIRS"]},
        {"permissions": ["read"], "days": 367},
        {"permissions": ["read"], "days": 0},
        {"permissions": ["read"], "days": -1},
        {"permissions": ["read"], "days": True},
        {"permissions": ["read"], "name": "\n"},
    ],
    ids=str,
)
def test_a_token_beyond_its_owner_is_not_made(house: House, values: dict[str, Any]) -> None:
    here = house.session(house.person("ana", "cohort_manager", "MINE"))
    with pytest.raises(InvalidRequest):
        house.ask(here, "create_token", {"name": "x", **values})
    assert house.ask(here, "tokens")["tokens"] == []


def test_tokens_expire_are_listed_with_last_use_and_are_revoked(house: House) -> None:
    here = house.session(house.person("ana", "reader", "A"))
    short = house.ask(here, "create_token", {"name": "short", "permissions": ["read"], "days": 0.01})
    long = house.ask(here, "create_token", {"name": "long", "permissions": ["read"]})
    assert long["expires_at"] - long["created_at"] == 90 * 86400
    house.clock.now += 1000
    house.sessions.resolve(long["token"])
    with pytest.raises(NotSignedIn, match="expired"):
        house.sessions.resolve(short["token"])
    told = {each["name"]: each for each in house.ask(here, "tokens")["tokens"]}
    assert told["long"]["last_used"] == int(house.clock())
    assert told["short"]["last_used"] is None
    assert "token" not in told["long"]
    house.ask(here, "revoke_token", token_id=long["token_id"])
    with pytest.raises(NotSignedIn, match="revoked"):
        house.sessions.resolve(long["token"])
    for gone in (long["token_id"], "0" * 32):
        with pytest.raises(TokenMissing):
            house.ask(here, "revoke_token", token_id=gone)
    bob = house.session(house.person("bob", "reader", "A"))
    with pytest.raises(TokenMissing):
        house.ask(bob, "revoke_token", token_id=short["token_id"])
    assert [each[0] for each in events(user="ana")] == ["token_created", "token_created", "token_revoked"]


def test_the_token_table_and_the_ledger_cannot_be_used_to_sign_in(house: House) -> None:
    here = house.session(house.person("ana", "reader", "A"))
    token = house.ask(here, "create_token", {"name": "x", "permissions": ["read"]})["token"]
    (row,) = TokenRow.by_user.query("ana")
    kept = str(row.to_dynamodb_dict()) + str(events(user="ana"))
    assert token not in kept
    assert token.removeprefix("depot_") not in kept
    for guess in (row.key, "depot_" + row.key, "depot_", "depot_x"):
        with pytest.raises(NotSignedIn):
            house.sessions.resolve(guess)


OWN_CALLS = [
    ("change_password", {"old": GOOD, "new": OTHER}), ("sessions", {}), ("end_sessions", {}), ("tokens", {}),
    ("create_token", {"name": "more", "permissions": ["read"]}), ("enrol", {"password": GOOD}), ("confirm", {"code": "1"}),
    ("drop_factor", {"password": GOOD}), ("note_session", {"event": "signed_in"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values"), OWN_CALLS, ids=[name for name, _ in OWN_CALLS])
def test_a_token_does_nothing_to_its_owners_account(house: House, name: str, values: dict[str, Any]) -> None:
    here = house.session(house.person("ana", "superuser"))
    token = house.ask(here, "create_token", {"name": "x", "permissions": ["read", "ledger"]})["token"]
    with pytest.raises(SignInRequired):
        house.ask(token, name, values)
    with pytest.raises(SignInRequired):
        house.ask(token, "revoke_token", token_id="0" * 32)
    for call in ("users", "break_glass"):
        with pytest.raises(Forbidden):
            house.ask(token, call, {"cohort": "A", "reason": "a reason that is long"})


# --- second factor ------------------------------------------------------------------------------------------------


def enrolled(house: House, token: str) -> tuple[pyotp.TOTP, list[str]]:
    told = house.ask(token, "enrol", {"password": GOOD})
    assert told["uri"].startswith("otpauth://totp/Depot:")
    totp = pyotp.TOTP(told["secret"])
    codes = house.ask(token, "confirm", {"code": totp.at(house.clock())})["recovery_codes"]
    house.clock.now += 30
    return totp, codes


def test_the_second_factor_is_asked_for_once_confirmed_and_each_code_counts_once(house: House) -> None:
    here = house.session(house.person("ana", "reader"))
    told = house.ask(here, "enrol", {"password": GOOD})
    assert house.gate.check("ana", GOOD, None, "192.0.2.1").username == "ana"  # not confirmed yet
    assert told["secret"] not in str(users.find("ana").to_dynamodb_dict())  # type: ignore[union-attr]
    totp = pyotp.TOTP(told["secret"])
    with pytest.raises(CodeRequired):
        house.ask(here, "confirm", {"code": "000000" if totp.at(house.clock()) != "000000" else "000001"})
    house.ask(here, "confirm", {"code": totp.at(house.clock())})
    with pytest.raises(CodeRequired):  # spent by confirming
        house.gate.check("ana", GOOD, totp.at(house.clock()), "192.0.2.1")
    with pytest.raises(CodeRequired):
        house.gate.check("ana", GOOD, None, "192.0.2.1")
    with pytest.raises(CodeRequired):  # whoever does not know of second factors is refused
        users.authenticate("ana", GOOD, house.clock)
    house.clock.now += 30
    assert house.gate.check("ana", GOOD, f" {totp.at(house.clock())[:3]} {totp.at(house.clock())[3:]}", "::1").totp_on
    with pytest.raises(CodeRequired, match="used already"):
        house.gate.check("ana", GOOD, totp.at(house.clock()), "192.0.2.1")
    with pytest.raises(BadCredentials) as caught:  # the code is no way around the password
        house.gate.check("ana", "not the password", totp.at(house.clock() + 30), "192.0.2.1")
    assert not isinstance(caught.value, CodeRequired)


def test_a_code_sent_twice_at_once_opens_once(house: House) -> None:
    here = house.session(house.person("ana", "reader"))
    totp, _ = enrolled(house, here)
    factor, code = house.gate._factor, totp.at(house.clock())
    rows = [users.find("ana") for _ in range(2)]  # both have looked before either writes
    factor.use(rows[0], code)  # type: ignore[arg-type]
    with pytest.raises(CodeRequired):
        factor.use(rows[1], code)  # type: ignore[arg-type]


def test_recovery_codes_open_once_each(house: House) -> None:
    here = house.session(house.person("ana", "reader"))
    _, codes = enrolled(house, here)
    assert len(set(codes)) == 10
    assert not any(code in str(users.find("ana").to_dynamodb_dict()) for code in codes)  # type: ignore[union-attr]
    assert house.gate.check("ana", GOOD, codes[0].upper(), "192.0.2.1").username == "ana"
    with pytest.raises(CodeRequired):
        house.gate.check("ana", GOOD, codes[0], "192.0.2.1")
    factor, rows = house.gate._factor, [users.find("ana") for _ in range(2)]
    factor.use(rows[0], codes[1])  # type: ignore[arg-type]
    with pytest.raises(CodeRequired):
        factor.use(rows[1], codes[1])  # type: ignore[arg-type]


def test_wrong_codes_lock_as_wrong_passwords_do(house: House) -> None:
    here = house.session(house.person("ana", "reader"))
    totp, _ = enrolled(house, here)
    for _ in range(users.FREE_ATTEMPTS):
        with pytest.raises(CodeRequired):
            house.gate.check("ana", GOOD, "nothing", "192.0.2.1")
    with pytest.raises(TooManyRequests):
        house.gate.check("ana", GOOD, totp.at(house.clock()), "192.0.2.1")


def test_the_second_factor_goes_with_both_factors_only(house: House) -> None:
    here = house.session(house.person("ana", "reader"))
    totp, _ = enrolled(house, here)
    with pytest.raises(AlreadyThere):
        house.ask(here, "enrol", {"password": GOOD})
    with pytest.raises(CodeRequired):
        house.ask(here, "drop_factor", {"password": GOOD})
    with pytest.raises(InvalidRequest):
        house.ask(here, "drop_factor", {"password": "not the password", "code": totp.at(house.clock())})
    house.ask(here, "drop_factor", {"password": GOOD, "code": totp.at(house.clock())})
    assert house.gate.check("ana", GOOD, None, "192.0.2.1").username == "ana"
    actions = [each[0] for each in events(user="ana")]
    assert actions == ["second_factor_on", "sign_in_failed", "second_factor_off"]


# --- rates --------------------------------------------------------------------------------------------------------


def test_an_address_that_sprays_is_slowed_whoever_it_tries(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_verify", lambda stored, password: password == GOOD)  # argon2 takes its time
    most = house.gateway.settings.sign_in_failures
    house.person("ana", "reader")
    for number in range(most):
        with pytest.raises(BadCredentials):
            house.gate.check(f"nobody{number}", "not the password", None, "192.0.2.1")
    with pytest.raises(TooManyRequests) as caught:
        house.gate.check("ana", GOOD, None, "192.0.2.1")
    assert 0 < (caught.value.retry_after or 0) <= 900
    assert house.gate.check("ana", GOOD, None, "192.0.2.2").username == "ana"
    house.clock.now += 900
    for _ in range(most + 5):  # success costs nothing
        assert house.gate.check("ana", GOOD, None, "192.0.2.1").username == "ana"
    assert "192.0.2" not in str([row.to_dynamodb_dict() for row in RateRow.scan()])


def test_names_that_nobody_has_wait_as_those_that_somebody_has(house: House) -> None:
    house.person("ana", "reader")
    house.person("gone", "reader").update([User.disabled.set(True)])
    histories = []
    for name in ("ana", "nobody", "gone"):
        history: list[Any] = []
        for _ in range(users.FREE_ATTEMPTS + 4):
            try:
                house.gate.check(name, "not the password", None, "192.0.2.1")
            except (BadCredentials, TooManyRequests) as error:
                history.append((error.code, error.message, getattr(error, "retry_after", None)))
            house.clock.now += 1
        histories.append(history)
    assert histories[0] == histories[1] == histories[2]
    assert "too_many_requests" in str(histories[0])
    assert "nobody" not in str([row.to_dynamodb_dict() for row in RateRow.scan()])


def test_a_rate_is_exact_among_many_at_once(house: House) -> None:
    rates, limit = Rates(house.gateway.settings, house.clock), Limit("test", 40, 60)
    got: list[bool] = []

    def take() -> None:
        try:
            rates.take(limit, "x")
            got.append(True)
        except TooManyRequests:
            got.append(False)

    lock, real = threading.Lock(), RateRow.update

    def locked(row: RateRow, *args: Any, **options: Any) -> Any:  # moto races with itself unless it is locked
        with lock:
            return real(row, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RateRow, "update", locked)
        threads = [threading.Thread(target=take) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (got.count(True), got.count(False)) == (40, 60)


def test_whom_an_address_stands_for() -> None:
    assert network("192.0.2.7") == "192.0.2.7"
    assert network("2001:db8:1:2:3::4") == network("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert network("::ffff:192.0.2.7") == "192.0.2.7"
    assert network("fe80::1%eth0") == "fe80::/64"
    assert network("") == network("not an address") == "unknown"


# --- break-glass --------------------------------------------------------------------------------------------------

WHY = {"cohort": "A", "reason": "the file of the 12th does not open at the site"}


def test_a_broken_glass_gives_bytes_of_one_cohort_for_its_time_and_every_use_is_recorded(house: House) -> None:
    ids = {}
    for cohort in ("A", "B"):
        where = place("submissions", f"submissions/{cohort}/2024/patient/p.csv")
        ids[cohort] = house.gateway.transfers.upload(Call(), where, BytesReader(b"x"))
    token = house.session(house.person("ops", "operator"))
    assert not house.sessions.resolve(token).may(Permission.READ, "A")
    made = house.ask(token, "break_glass", WHY)
    assert made["until"] - made["begun_at"] == 3600
    principal = house.sessions.resolve(token)
    assert principal.scope(Permission.READ) == {"A"}
    assert principal.scope(Permission.LIST) is None
    assert not principal.may(Permission.DELETE, "A")
    call = house.call(token)
    with house.gateway.transfers.download(call, "submissions", str(ids["A"])) as download:
        assert download.read(1) == b"x"
    with pytest.raises(Forbidden):
        house.gateway.transfers.download(call, "submissions", str(ids["B"]))
    uses = events(user="ops", action="file_downloaded_via_stream")
    assert [each[2].get("break_glass") for each in uses] == [made["grant_id"]] * 2
    house.clock.now += 3600
    token = house.session(users.find("ops"))  # type: ignore[arg-type]
    assert house.sessions.resolve(token).scope(Permission.READ) == frozenset()
    assert house.people.glass.end_lapsed() == 1
    assert house.people.glass.end_lapsed() == 0
    begun = events(user="ops", action="break_glass_begun")
    ended = events(user="service", action="break_glass_ended")
    assert [each[2]["break_glass"] for each in (*begun, *ended)] == [made["grant_id"]] * 2
    assert begun[0][2]["reason"] == WHY["reason"]
    assert users.find("ops").grants is None  # type: ignore[union-attr]


def test_a_glass_is_ended_by_who_broke_it_or_an_administrator(house: House, root: str) -> None:
    token = house.session(house.person("ops", "operator"))
    other = house.session(house.person("ops2", "operator"))
    made = house.ask(token, "break_glass", WHY)
    with pytest.raises(AlreadyThere):
        house.ask(token, "break_glass", WHY)
    second = house.ask(token, "break_glass", {**WHY, "cohort": "B", "hours": 8})
    assert house.sessions.resolve(token).scope(Permission.READ) == {"A", "B"}
    with pytest.raises(GrantMissing):
        house.ask(other, "end_grant", grant_id=made["grant_id"])
    assert house.ask(other, "grants")["grants"] == []
    assert len(house.ask(root, "grants")["grants"]) == 2
    house.ask(token, "end_grant", grant_id=made["grant_id"])
    assert house.sessions.resolve(token).scope(Permission.READ) == {"B"}
    house.ask(root, "end_grant", grant_id=second["grant_id"])
    assert house.sessions.resolve(token).scope(Permission.READ) == frozenset()
    for gone in (made["grant_id"], "0" * 32):
        with pytest.raises(GrantMissing):
            house.ask(token, "end_grant", grant_id=gone)


@pytest.mark.parametrize(
    "values",
    [
        {"hours": 8.1},
        {"hours": 0},
        {"hours": -1},
        {"hours": "1"},
        {"reason": "because"},
        {"reason": "a\nb" * 9},
        {"cohort": ".."},
    ],
    ids=str,
)
def test_a_glass_is_not_broken_without_a_reason_or_for_too_long(house: House, values: dict[str, Any]) -> None:
    token = house.session(house.person("ops", "operator"))
    with pytest.raises((InvalidRequest, InvalidPath)):
        house.ask(token, "break_glass", {**WHY, **values})
    assert house.sessions.resolve(token).grants == ()


@pytest.mark.parametrize("role", ["cohort_manager", "uploader", "reader", "auditor"])
def test_whose_role_has_no_such_right_breaks_no_glass(house: House, role: str) -> None:
    token = house.session(house.person("x", role, "A"))
    with pytest.raises(Forbidden):
        house.ask(token, "break_glass", WHY)


def test_a_principal_without_a_role_gets_nothing_from_a_glass() -> None:
    from chalicelib.auth.policy import Grant

    nobody = Principal("x", "king", grants=(Grant("g", "A", 1),))
    assert not any(nobody.may(permission, "A") for permission in Permission)


def test_every_error_about_people_has_an_answer() -> None:
    for error in (AlreadyThere, GrantMissing, LastSuperuser, SignInRequired, TokenMissing, UserMissing):
        assert issubclass(error, DepotError)
        assert 400 <= error.status < 500
