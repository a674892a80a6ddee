"""Who may read the audit trail, what may be told to the ledger, and what an export looks like, to the byte."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from chalicelib.auth import users
from chalicelib.auth.policy import Permission, Principal
from chalicelib.auth.tables import User
from chalicelib.errors import BadCredentials, FileMissing, Forbidden, InvalidRequest, ServicesUnavailable
from chalicelib.storage.audit import FIELDS, OTHER, AuditPage, Denial, Question
from chalicelib.storage.streams import BytesReader
from chalicelib.web import told
from chalicelib.web.audit import collected
from chalicelib.web.audit_text import header, render
from nas_gateway.files.access import Call
from nas_gateway.files.audit import ROUTES, Audit
from nas_gateway.files.placement import place
from nas_gateway.ledger import queries
from nas_gateway.ledger.chain import verify_chain
from nas_gateway.ledger.events import Action, Outcome, digest
from nas_gateway.ledger.tables import PHIFileTracking
from tests.support.gateway import user

AUDITOR, MANAGER = user("auditor"), user("cohort_manager", "MINE")
GOOD = "correct horse battery"


@pytest.fixture
def audit(gateway: Any) -> Audit:
    return Audit(gateway.transfers)


def denial(**values: Any) -> Denial:
    usual = {"permission": "read", "cohort": "THEIRS", "method": "GET", "route": "/files/{file_id}/content"}
    return Denial(**{**usual, **values})


def events(**asked: Any) -> list[dict[str, Any]]:
    return [queries.to_json(event) for event in queries.query(**asked, limit=1000).events]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_whoever_may_not_read_it_is_refused_and_recorded(audit: Audit) -> None:
    expected = []
    for who in (MANAGER, user("uploader", "MINE"), user("operator")):
        for asked in ({}, {"cohort": "THEIRS"}, {"user": "ana"}, {"since": "2020-01-01"}):
            with pytest.raises(Forbidden):
                audit.page(who, Question(**asked), None, 10)
            with pytest.raises(Forbidden):
                audit.exporting(who, Question(**asked), "csv", resumed=False)
            expected += 2 * [(who.principal.username, asked.get("cohort"), {"permission": "ledger"})]
    denied = events(action=Action.ACCESS_DENIED)
    assert [(event["user"], event.get("cohort"), event["metadata"]) for event in denied] == expected
    assert events(action=Action.AUDIT_EXPORTED) == []


def test_a_managers_other_filters_stay_inside_the_own_cohort(gateway: Any, audit: Audit) -> None:
    for cohort in ("MINE", "THEIRS"):
        where = place("submissions", f"submissions/{cohort}/2024/patient/p.csv")
        gateway.transfers.upload(user("superuser"), where, BytesReader(b"x"))
    assert len(audit.page(AUDITOR, Question(action="file_uploaded_via_stream"), None, 10).events) == 4
    for more in ({"action": "file_uploaded_via_stream"}, {"user": "superuser-of-none"}, {"since": "2020-01-01"}):
        found = audit.page(MANAGER, Question(cohort="MINE", **more), None, 10).events
        assert [event.cohort for event in found] == ["MINE", "MINE"]


def test_a_bad_question_is_refused(audit: Audit) -> None:
    since = "2025-01-01"
    for bad in (
        {"since": "yesterday"},
        {"outcome": "good", "since": since},
        {"user": "x" * 257},
        {"outcome": "failed"},
        {},
    ):
        with pytest.raises(InvalidRequest):
            audit.page(AUDITOR, Question(**bad), None, 10)


def test_failures_are_found_by_their_own_index(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    audit.denied(user("reader", "MINE"), denial())
    asked: list[str] = []
    for name, index in queries._INDEXES.items():
        real = index.query
        monkeypatch.setattr(index, "query", lambda *a, n=name, r=real, **k: (asked.append(n), r(*a, **k))[1])
    page = audit.page(AUDITOR, Question(outcome="failed", since="2020-01-01"), None, 10)
    assert [event.action for event in page.events] == [Action.ACCESS_DENIED]
    assert set(asked) == {"failed_day"}
    assert len(asked) < 5


def test_an_export_is_an_event_with_its_filters(audit: Audit) -> None:
    audit.exporting(MANAGER, Question(cohort="MINE", user="ana", since="2025-01-01"), "csv", resumed=True)
    (event,) = events(action=Action.AUDIT_EXPORTED)
    assert (event["user"], event["cohort"], event["request_id"]) == (MANAGER.principal.username, "MINE", "request-0001")
    assert event["metadata"] == {
        "asked_cohort": "MINE", "asked_user": "ana", "asked_since": "2025-01-01", "format": "csv", "resumed": "true",
    }  # fmt: skip
    with pytest.raises(InvalidRequest):
        audit.exporting(MANAGER, Question(cohort="MINE"), "xlsx", resumed=False)


# --- what the web tier may tell -----------------------------------------------------------------------------------


def test_a_refusal_that_is_none_by_our_table_is_not_recorded(audit: Audit) -> None:
    assert not audit.denied(user("reader", "MINE"), denial(cohort="MINE"))
    assert not audit.denied(AUDITOR, denial(permission="ledger", cohort=None))
    assert events(action=Action.ACCESS_DENIED) == []


def test_only_known_words_and_the_asking_user_get_into_the_event(audit: Audit) -> None:
    told_of = denial(method="CANARY", route="/canary", cohort="../canary", file_id="0" * 32)
    assert audit.denied(user("reader", "MINE"), told_of)
    (event,) = events(action=Action.ACCESS_DENIED)
    assert event["metadata"] == {"permission": "read", "refused_by": "web", "route": OTHER}
    assert (event["user"], event["outcome"], event["request_id"]) == ("reader-of-MINE", "failed", "request-0001")
    assert "canary" not in json.dumps(event).lower()
    assert not {"cohort", "file_id", "file_path"} & set(event)
    with pytest.raises(InvalidRequest):
        audit.denied(user("reader", "MINE"), denial(permission="anything"))
    with pytest.raises(InvalidRequest):
        audit.denied(Call(), denial())


def test_a_refusal_names_a_file_only_with_its_own_cohort(gateway: Any, audit: Audit) -> None:
    where = place("submissions", "submissions/THEIRS/2024/patient/p.csv")
    file_id = gateway.transfers.upload(user("superuser"), where, BytesReader(b"x")).file_id
    reader = user("reader", "MINE")
    audit.denied(reader, denial(file_id=file_id))
    audit.denied(reader, denial(cohort="OTHER", file_id=file_id))
    assert [(e.get("cohort"), e.get("file_id")) for e in events(action=Action.ACCESS_DENIED)] == [
        ("THEIRS", file_id), ("OTHER", None),
    ]  # fmt: skip


def test_what_this_tier_hides_or_refuses_itself_is_recorded_once(gateway: Any) -> None:
    from nas_gateway.files.catalog import page_of

    where = place("submissions", "submissions/THEIRS/2024/patient/p.csv")
    file_id = gateway.transfers.upload(user("superuser"), where, BytesReader(b"x")).file_id
    reader = user("reader", "MINE")
    with pytest.raises(FileMissing):
        gateway.transfers.file(reader, file_id)
    with pytest.raises(FileMissing):
        gateway.transfers.file(reader, "0" * 32)  # not there for anybody: no event
    with pytest.raises(Forbidden):
        page_of(gateway.transfers, reader, "THEIRS", None, 10)
    assert [(e["cohort"], e.get("file_id")) for e in events(action=Action.ACCESS_DENIED)] == [
        ("THEIRS", file_id), ("THEIRS", None),
    ]  # fmt: skip


def test_a_wrong_password_is_recorded_for_users_that_exist_and_while_it_counts(audit: Audit) -> None:
    users.create_user("ana@example.org", "reader", ["MINE"], GOOD)
    assert not audit.sign_in_failed("ana@example.org", "request-0002")  # nobody has tried: the web tier made it up
    with pytest.raises(BadCredentials):
        users.authenticate("ana@example.org", "wrong password here")
    assert audit.sign_in_failed(" ANA@example.org", "request-0002")
    for nobody in ("nobody@example.org", "", " ", "x" * 5000):
        assert not audit.sign_in_failed(nobody, None)
    found = users.find("ana@example.org")
    assert found is not None
    found.update([User.disabled.set(True)])  # nothing counts for a disabled user, so nothing would bound it
    assert not audit.sign_in_failed("ana@example.org", None)
    (event,) = events(action=Action.SIGN_IN_FAILED)
    assert (event["user"], event["outcome"], event["metadata"]) == ("ana@example.org", "failed", {"in_a_row": "1"})


def test_every_route_of_the_web_tier_that_asks_who_somebody_is_has_its_name_in_denials() -> None:
    """That the table has every route of app.py is a test of the table."""
    assert {"/files/{file_id}/content", "/app/files/{file_id}", "/uploads"} <= ROUTES
    assert not {"/", "/health", "/config", "/app/sign-in"} & ROUTES


# --- telling ----------------------------------------------------------------------------------------------------------


class Request:
    def __init__(self, route: str, **uri_params: str) -> None:
        self.method, self.context, self.uri_params = "GET", {"resourcePath": route}, uri_params


class Trail:
    """An audit trail of events in memory that notes what it is told; `error` is raised at every call."""

    def __init__(self, found: Sequence[dict[str, Any]] = (), error: Exception | None = None) -> None:
        self.found, self.error = found, error
        self.denials: list[Denial] = []
        self.pages: list[int] = []

    def denied(self, denial: Denial) -> None:
        self.denials.append(denial)
        if self.error:
            raise self.error

    def sign_in_failed(self, username: str) -> None:
        if self.error:
            raise self.error

    def exporting(self, question: Question, form: str, *, resumed: bool) -> None:
        raise AssertionError("not asked for here")

    def page(self, question: Question, cursor: str | None = None, limit: int = 100) -> AuditPage:
        start = int(cursor or 0)
        self.pages.append(limit)
        more = start + limit < len(self.found)
        return AuditPage(self.found[start : start + limit], str(start + limit) if more else None)


READER = Principal("ana", "reader", frozenset({"MINE"}), "s")


def test_a_refusal_is_told_with_what_was_asked() -> None:
    trail = Trail()
    principal = told.reporting(READER, trail, Request("/files/{file_id}", file_id="a" * 32))
    principal.require(Permission.READ, "MINE")
    assert trail.denials == []
    with pytest.raises(Forbidden):
        principal.require(Permission.DELETE, "MINE")
    (only,) = trail.denials
    assert only == Denial(permission="delete", cohort="MINE", method="GET", route="/files/{file_id}", file_id="a" * 32)
    assert (principal.username, principal.scope(Permission.READ)) == ("ana", frozenset({"MINE"}))


def test_text_of_the_address_is_not_told_unless_it_is_an_id() -> None:
    trail = Trail()
    with pytest.raises(Forbidden):
        told.reporting(READER, trail, Request("/x", file_id="canary")).require(Permission.ADMIN, None)
    assert trail.denials[0].file_id is None


@pytest.mark.parametrize("error", [ServicesUnavailable(), RuntimeError("canary")], ids=["ours", "foreign"])
def test_a_refusal_stays_one_when_it_cannot_be_told(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    principal = told.reporting(READER, Trail(error=error), Request("/files"))
    with pytest.raises(Forbidden):
        principal.require(Permission.UPLOAD, "canary")
    told.sign_in_failed(Trail(error=error), "canary")
    logged = capsys.readouterr().err
    assert '"denial_not_recorded"' in logged
    assert '"failed_sign_in_not_recorded"' in logged
    assert "canary" not in logged


# --- the text ---------------------------------------------------------------------------------------------------------


def real_event(**more: Any) -> dict[str, Any]:
    from nas_gateway.ledger.events import GENESIS, utcnow

    values = {
        "v": 1, "shard": 3, "event_id": "e1", "tracking_id": "t1", "action": "file_uploaded_via_stream",
        "outcome": Outcome.COMPLETED, "server_role": "services", "user": "ana", "bytes_transferred": 5,
        "cleanup_required": False, **more,
    }  # fmt: skip
    return PHIFileTracking.linked(seq=1, prev_hash=GENESIS, at=utcnow(), **values).to_dict()


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def test_the_columns_are_the_fields_of_the_format() -> None:
    stored = set(PHIFileTracking.get_attributes()) - {"at_key", "day", "failed_day"}
    assert len(FIELDS) == len(set(FIELDS))
    assert set(FIELDS) == stored


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"], ids=lambda c: f"U+{ord(c):04X}"
)
@pytest.mark.parametrize("field", ["user", "file_path", "cohort", "error_message", "event_id"])
def test_a_cell_that_would_be_a_formula_is_text(start: str, field: str) -> None:
    evil = f"{start}HYPERLINK(\"http://evil/\",1)&';|'!A1"
    event = real_event(**{field: evil})
    (row,) = cells(render("csv", [event]))
    assert row[FIELDS.index(field)] == f"'{evil}"
    assert json.loads(render("jsonl", [event]))[field] == evil  # exact


def test_csv_is_rfc_4180_and_every_event_has_every_column() -> None:
    values = {"user": 'a"b,c', "file_path": "line\r\nbreak", "cohort": "Åsa—漢", "metadata": {"k": '=1,"x"'}}
    text = header("csv") + render("csv", [real_event(**values), real_event()])
    assert text.startswith("v,shard,seq,event_id,tracking_id,at,action,outcome,server_role,user,cohort,")
    assert text.endswith("\r\n")
    assert text.encode().decode("utf-8") == text
    names, first, second = cells(text)
    assert names == list(FIELDS)
    assert [len(first), len(second)] == [len(FIELDS)] * 2
    row = dict(zip(names, first, strict=True))
    assert {name: row[name] for name in ("user", "file_path", "cohort")} == {
        name: value for name, value in values.items() if isinstance(value, str)
    }
    assert json.loads(row["metadata"]) == values["metadata"]
    assert (row["cleanup_required"], row["bytes_transferred"], row["file_hash"]) == ("false", "5", "")


def test_json_lines_are_what_was_hashed() -> None:
    event = real_event(user="Åsa", metadata={"b": "\x01", "a": "—"})
    line = render("jsonl", [event])
    assert line.endswith("\n")
    assert digest(json.loads(line)) == event["hash"]
    assert verify_chain([json.loads(line)]).ok
    from nas_gateway.ledger.events import canonical

    without = {name: value for name, value in json.loads(line).items() if name != "hash"}
    assert canonical(without).decode() == line.replace(f'"hash":"{event["hash"]}",', "").rstrip("\n")


# --- under Lambda -----------------------------------------------------------------------------------------------------


def sized_events(rng: random.Random, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"seq": number, "file_path": rng.choice(['"', "x", "\x01", "漢"]) * rng.randrange(900)}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_answers_of_limited_size_hold_every_event_once(form: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    found = list(sized_events(random.Random(seed), 2000))
    text, cursor, answers = "", None, 0
    while True:
        part, cursor = collected(Trail(found), Question(), form, "", cursor, most=100_000)
        assert len(json.dumps(part)) <= 100_000 + 2
        text, answers = text + part, answers + 1
        if cursor is None:
            break
    assert text == render(form, found)
    assert answers > 3


def test_an_answer_stops_after_so_many_pages() -> None:
    class Sparse(Trail):
        def page(self, question: Question, cursor: str | None = None, limit: int = 100) -> AuditPage:
            self.pages.append(limit)
            return AuditPage([], "again")

    trail = Sparse()
    assert collected(trail, Question(), "csv", "head", None) == ("head", "again")
    assert len(trail.pages) == 20
