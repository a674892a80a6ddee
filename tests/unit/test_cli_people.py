"""`depot user` and `depot cohort` over real use-cases, and what they print."""

from __future__ import annotations

import json

import pytest
from argon2 import PasswordHasher

from chalicelib.auth import users
from chalicelib.cli import main
from nas_gateway.api.guard import Gateway
from tests.support.gateway import ENV


def test_people_from_the_command_line(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(users, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    for name, value in {**ENV, "NAS_WORKSPACE_PATH": "/mnt/nas"}.items():
        monkeypatch.setenv(name, value)

    def depot(*arguments: str, code: int = 0) -> str:
        assert main(arguments) == code
        told = capsys.readouterr()
        return told.err if code else told.out

    assert depot("cohort", "create", "VACS") == "Cohort VACS created.\n"
    assert "already" in depot("cohort", "create", "VACS", code=1)
    depot("cohort", "create", "HIVRN")
    assert depot("cohort", "list") == "HIVRN\nVACS\n"
    ana = ("ana@example.org", "--role", "reader")
    made = depot("user", "create", *ana, "--cohort", "VACS", "--cohort", "HIVRN")
    assert made.startswith("User ana@example.org, role reader, cohorts HIVRN, VACS.\nPassword (shown this once): ")
    assert users.authenticate("ana@example.org", made.split(": ")[1].strip()).role == "reader"
    assert "no such cohort" in depot("user", "create", "bob@example.org", "--role", "reader", "--cohort", "X", code=1)
    assert "no role" in depot("user", "create", "bob@example.org", "--role", "king", code=1)
    given = json.loads(
        depot("user", "create", "bob@x", "--role", "auditor", "--password", "correct horse battery", "--json")
    )
    assert (given["password"], given["cohorts"]) == ("correct horse battery", [])
    assert depot("user", "disable", "Ana@Example.org") == "ana@example.org  reader  HIVRN, VACS  disabled\n"
    assert depot("user", "list") == "ana@example.org  reader  HIVRN, VACS  disabled\nbob@x  auditor  -\n"
    depot("user", "enable", "ana@example.org")
    assert (
        depot("user", "set-role", "ana@example.org", "--role", "uploader") == "ana@example.org  uploader  HIVRN, VACS\n"
    )
    assert depot("user", "set-role", "ana@example.org", "--no-cohort") == "ana@example.org  uploader  -\n"
    assert "Say what to change" in depot("user", "set-role", "ana@example.org", code=1)
    password = depot("user", "reset", "ana@example.org").split(": ")[1].strip()
    assert users.authenticate("ana@example.org", password).role == "uploader"
    assert "no such user" in depot("user", "reset", "nobody@example.org", code=1)
