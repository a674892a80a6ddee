"""Users, sessions, the policy table, and where a request's token may come from."""

import pytest

from chalicelib.auth import users
from chalicelib.auth.policy import ROLES, SERVICE, Permission, Principal
from chalicelib.auth.sessions import Sessions
from chalicelib.auth.tables import SessionRow, User
from chalicelib.errors import (
    BadApiKey,
    BadCredentials,
    CrossSiteRequest,
    Forbidden,
    InvalidRequest,
    NotSignedIn,
    TooManyRequests,
)
from chalicelib.web.tier import refuse_cross_site, token_of
from nas_gateway.api.guard import check_api_key

GOOD = "correct horse battery"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ana(gateway) -> User:
    users.create_user("Ana@Example.org", "cohort_manager", ["VACS"], GOOD)
    found = users.find("ana@example.org")
    assert found is not None
    return found


def test_a_password_is_checked_and_stored_only_as_a_hash(ana):
    assert users.authenticate(" ANA@example.org ", GOOD).username == "ana@example.org"
    assert ana.password_hash.startswith("$argon2id$")
    assert GOOD not in str(ana.to_dynamodb_dict())


def test_wrong_name_and_wrong_password_look_the_same(ana):
    answers = set()
    for name, password in (("ana@example.org", "wrong password here"), ("nobody@example.org", GOOD)):
        with pytest.raises(BadCredentials) as caught:
            users.authenticate(name, password)
        answers.add(caught.value.message)
    assert len(answers) == 1


def test_a_disabled_user_cannot_sign_in_nor_use_an_open_session(gateway, ana):
    token, _ = gateway.sessions.open(ana)
    assert gateway.sessions.resolve(token).username == ana.username
    ana.update([User.disabled.set(True)])
    with pytest.raises(BadCredentials):
        users.authenticate("ana@example.org", GOOD)
    with pytest.raises(NotSignedIn):
        gateway.sessions.resolve(token)


def test_wrong_passwords_lock_for_longer_and_longer(ana):
    clock = Clock()
    for _ in range(users.FREE_ATTEMPTS):
        with pytest.raises(BadCredentials):
            users.authenticate("ana@example.org", "wrong password here", clock)
    with pytest.raises(TooManyRequests):
        users.authenticate("ana@example.org", GOOD, clock)
    clock.now += 2
    assert users.authenticate("ana@example.org", GOOD, clock).username == "ana@example.org"
    refreshed = users.find("ana@example.org")
    assert refreshed is not None
    assert refreshed.failed_sign_ins == 0


def test_users_are_created_once_with_known_roles_and_long_passwords(ana):
    with pytest.raises(InvalidRequest, match="exists"):
        users.create_user("ana@example.org", "reader")
    with pytest.raises(InvalidRequest, match="no role"):
        users.create_user("bob@example.org", "king")
    with pytest.raises(InvalidRequest, match="15 characters"):
        users.create_user("bob@example.org", "reader", (), "short")
    generated = users.create_user("bob@example.org", "reader")
    assert len(generated) >= 20
    assert users.ensure_superuser("root") is not None
    assert users.ensure_superuser("root") is None


def test_a_session_ends_when_idle_and_absolutely(gateway, ana):
    clock = Clock()
    sessions = Sessions(gateway.settings, clock)
    token, seconds = sessions.open(ana)
    assert seconds == gateway.settings.session_absolute_seconds
    for _ in range(3):  # use keeps it alive
        clock.now += gateway.settings.session_idle_seconds - 1
        sessions.resolve(token)
    clock.now += gateway.settings.session_idle_seconds
    with pytest.raises(NotSignedIn):
        sessions.resolve(token)
    token, _ = sessions.open(ana)
    for _ in range(gateway.settings.session_absolute_seconds // 1000):
        clock.now += 1000
        try:
            sessions.resolve(token)
        except NotSignedIn:
            break
    clock.now += 1000
    with pytest.raises(NotSignedIn):
        sessions.resolve(token)


def test_signing_out_ends_the_session_at_once(gateway, ana):
    token, _ = gateway.sessions.open(ana)
    gateway.sessions.end(token)
    with pytest.raises(NotSignedIn):
        gateway.sessions.resolve(token)
    gateway.sessions.end(token)


def test_the_session_table_cannot_be_used_to_sign_in(gateway, ana):
    token, _ = gateway.sessions.open(ana)
    rows = list(SessionRow.scan())
    assert token not in str([row.to_dynamodb_dict() for row in rows])
    for row in rows:
        with pytest.raises(NotSignedIn):
            gateway.sessions.resolve(row.key)


def test_a_role_that_was_taken_away_is_gone_with_the_next_request(gateway, ana):
    token, _ = gateway.sessions.open(ana)
    ana.update([User.role.set("reader")])
    assert gateway.sessions.resolve(token).role == "reader"


# --- the table ---------------------------------------------------------------------------------------------------


def test_cohort_roles_count_for_their_cohorts_only():
    manager = Principal("m", "cohort_manager", frozenset({"VACS"}))
    assert manager.may(Permission.UPLOAD, "VACS")
    assert not manager.may(Permission.UPLOAD, "OTHER")
    assert not manager.may(Permission.UPLOAD, None)
    assert not manager.may(Permission.ADMIN, "VACS")
    with pytest.raises(Forbidden):
        manager.require(Permission.READ, "OTHER")


def test_who_never_sees_bytes():
    for role in ("auditor", "operator", "uploader"):
        assert not Principal("x", role, frozenset({"VACS"})).may(Permission.READ, "VACS")


def test_an_unknown_role_may_nothing():
    assert not any(Principal("x", "king", frozenset({"VACS"})).may(permission, "VACS") for permission in Permission)
    assert Principal("x", "king").scope(Permission.READ) == frozenset()


def test_the_scope_of_a_permission():
    assert SERVICE.scope(Permission.READ) is None
    assert Principal("x", "reader", frozenset({"A", "B"})).scope(Permission.READ) == {"A", "B"}
    assert Principal("x", "reader", frozenset({"A"})).scope(Permission.DELETE) == frozenset()
    assert set(ROLES) >= {"superuser", "administrator", "cohort_manager", "uploader", "reader", "auditor", "operator"}


# --- tokens and keys -----------------------------------------------------------------------------------------------


def test_a_bearer_token_goes_before_the_cookie():
    assert token_of({"authorization": "Bearer abc", "cookie": "depot_session=def"}) == ("abc", False)
    assert token_of({"cookie": "other=1; depot_session=def"}) == ("def", True)
    assert token_of({"authorization": "Basic abc"}) == (None, False)
    assert token_of({}) == (None, False)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example", "host": "depot.example"},
        {"origin": "null", "host": "depot.example"},
    ],
)
def test_a_request_from_another_site_is_refused(headers):
    with pytest.raises(CrossSiteRequest):
        refuse_cross_site(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": "https://depot.example", "host": "depot.example"},
    ],
)
def test_our_own_pages_and_programs_are_not(headers):
    refuse_cross_site(headers)


def test_either_of_two_keys_opens_and_nothing_else_does(gateway):
    from chalicelib.config import Secret

    keys = (Secret("new" * 11), Secret("old" * 11))
    check_api_key("new" * 11, keys)
    check_api_key("old" * 11, keys)
    for bad in ("", "new", "retired" * 5, "NEW" * 11, "ключ"):
        with pytest.raises(BadApiKey):
            check_api_key(bad, keys)
