"""`depot upload` through every kind of break, and with files that change meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chalicelib.cli.client import retry
from tests.support.cli import Depot
from tests.support.tus_server import Answer, Cut, LoseAnswer, Step, Then, TusServer


@pytest.fixture
def server() -> Iterator[TusServer]:
    with TusServer() as running:
        yield running


@pytest.fixture
def depot(
    server: TusServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Depot:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    return Depot(tmp_path, signed_in(server), capsys, monkeypatch)


def signed_in(server: TusServer) -> dict[str, str]:
    return {"DEPOT_URL": server.url, "DEPOT_USERNAME": server.username, "DEPOT_PASSWORD": server.password}


def entries(depot: Depot) -> dict[str, object]:
    return dict(json.loads((depot.state / "uploads.json").read_text())["entries"])


# --- breaks ------------------------------------------------------------------------------------------------------------

SIZE = 400_000


@pytest.mark.parametrize(
    ("method", "steps", "sent"),
    [
        ("PATCH", [Cut(0)], SIZE),
        ("PATCH", [Cut(1), Cut(99_999), Cut(SIZE - 100_000)], SIZE),
        ("PATCH", [LoseAnswer()], SIZE),
        (
            "PATCH",
            [Answer(503, "storage_unavailable"), Answer(500), Answer(504), Answer(429, "too_many_requests")],
            SIZE,
        ),
        ("PATCH", [Cut(5), Answer(423, "upload_locked", {"Retry-After": "0"}), Answer(409, "lease_lost")], SIZE),
        ("PATCH", [Answer(409, "offset_conflict"), Answer(409)], SIZE),
        ("POST", [LoseAnswer()], SIZE),
        ("POST", [Answer(502), Answer(503, "ledger_unavailable"), LoseAnswer()], SIZE),
        ("HEAD", [LoseAnswer(), Answer(503)], SIZE),
        ("GET", [Answer(503), Cut(0), LoseAnswer()], SIZE),
    ],
)
@pytest.mark.parametrize("parallel", ["1", "3"])
def test_a_break_anywhere_costs_no_byte_twice(
    method: str, steps: list[Step], sent: int, parallel: str, depot: Depot, server: TusServer
) -> None:
    content = os.urandom(SIZE)
    depot.file("a.bin", content)
    if method == "HEAD":
        server.plan("PATCH", Cut(1000))  # something must go wrong before anybody asks
    server.plan(method, *steps)
    done = depot.upload("a.bin", "--parallel", parallel)
    assert done.code == 0, done.err
    assert server.stored() == [content]
    assert server.received == sent
    assert entries(depot) == {}


def test_many_breaks_are_no_matter_while_there_is_progress(depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    depot.file("a.bin", content)
    server.plan("PATCH", *[Cut(1000)] * 30)
    done = depot.upload("a.bin", "--retries", "2")
    assert done.code == 0, done.err
    assert server.stored() == [content]


def test_without_progress_the_tries_are_counted(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", os.urandom(SIZE))
    server.plan("PATCH", Cut(1000), *[Answer(507, "storage_full")] * 10)
    done = depot.upload("a.bin", "--retries", "3")
    assert done.code == 1
    assert "Told storage_full" in done.err
    assert "(3 of 3)" in done.err
    # The break, which had brought progress, and then the first try and three more.
    assert server.count("PATCH") == 5


def test_the_next_command_goes_on_where_the_last_one_gave_up(depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    depot.file("a.bin", content)
    server.plan("PATCH", Cut(150_000))
    assert depot.upload("a.bin", "--retries", "0").code == 1
    done = depot.upload("a.bin")
    assert done.code == 0
    assert "going on at 146.5 KiB of 390.6 KiB" in done.err
    assert server.received == SIZE
    assert server.stored() == [content]
    assert hashlib.sha256(content).hexdigest() in done.out


def test_it_goes_on_even_when_the_state_is_lost(depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    depot.file("a.bin", content)
    server.plan("PATCH", Cut(150_000))
    assert depot.upload("a.bin", "--retries", "0").code == 1
    (depot.state / "uploads.json").write_text("{ damaged")
    assert depot.upload("a.bin").code == 0
    assert server.received == SIZE
    assert server.stored() == [content]


def test_pieces_go_on_too(depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    depot.file("a.bin", content)
    server.plan("PATCH", *[Cut(10_000)] * 3, *[Answer(503)] * 3)
    assert depot.upload("a.bin", "--parallel", "3", "--retries", "0").code == 1
    before = server.received
    assert before >= 10_000
    done = depot.upload("a.bin")  # whatever --parallel says now
    assert done.code == 0, done.err
    assert server.received == SIZE
    assert server.stored() == [content]


@pytest.mark.parametrize("parallel", ["1", "3"])
def test_an_upload_that_the_server_forgot_is_begun_anew(parallel: str, depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    depot.file("a.bin", content)
    server.plan("PATCH", Cut(1000), Then(server.forget_uploads))
    done = depot.upload("a.bin", "--parallel", parallel)
    assert done.code == 0, done.err
    assert "The server no longer knows the upload." in done.err
    assert server.stored() == [content]


def test_a_session_that_ended_is_opened_again(depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    depot.file("a.bin", content)
    server.plan("PATCH", Cut(1000), Then(lambda: None), Then(lambda: None))
    server.plan("HEAD", Then(server.tokens.clear))  # the HEAD itself passes, the next PATCH meets 401
    done = depot.upload("a.bin")
    assert done.code == 0, done.err
    assert "signed in again" in done.err
    assert server.stored() == [content]


# --- files that are not what they were ------------------------------------------------------------------------------


def changes(path: Path) -> dict[str, Callable[[], object]]:
    return {
        "grown": lambda: path.open("ab").write(b"more"),
        "shortened": lambda: os.truncate(path, 1000),
        "rewritten": lambda: path.write_bytes(b"y" * SIZE),
        "replaced": lambda: (path.with_name("new").write_bytes(b"y" * SIZE), os.replace(path.with_name("new"), path)),
        "removed": path.unlink,
    }


@pytest.mark.parametrize("how", ["grown", "shortened", "rewritten", "replaced", "removed"])
@pytest.mark.parametrize("parallel", ["1", "3"])
def test_a_file_that_changes_meanwhile_never_arrives(how: str, parallel: str, depot: Depot, server: TusServer) -> None:
    path = depot.file("a.bin", b"x" * SIZE)
    os.utime(path, ns=(1, 1))  # long ago, so that a change in the same tick shows
    server.plan("PATCH", Cut(1000), Then(changes(path)[how]))
    done = depot.upload(path, "--json", "--chunk-bytes", "65536", "--parallel", parallel)
    assert done.code == 1
    assert json.loads(done.out)["error"]["code"] == "source_changed"
    assert server.stored() == []
    assert [upload for upload in server.uploads.values() if not upload.partial] == []
    assert entries(depot) == {}


@pytest.mark.parametrize("sha256", [True, False])
def test_a_file_that_changes_at_the_very_end_is_told(sha256: bool, depot: Depot, server: TusServer) -> None:
    path = depot.file("a.bin", b"x" * SIZE)
    server.gives_sha256 = sha256
    server.plan("GET", Then(lambda: path.open("ab").write(b"more") and None))  # the receipt is being asked for
    done = depot.upload(path, "--json")
    assert done.code == 1
    error = json.loads(done.out)["error"]
    assert error["code"] == "source_changed"
    assert next(iter(server.files)) in error["message"]


def test_a_file_that_changed_between_two_commands_is_begun_anew(depot: Depot, server: TusServer) -> None:
    path = depot.file("a.bin", b"x" * SIZE)
    server.plan("PATCH", Cut(1000))
    assert depot.upload("a.bin", "--retries", "0").code == 1
    path.write_bytes(b"y" * SIZE)
    done = depot.upload("a.bin")
    assert done.code == 0
    assert "the file has changed since its upload was interrupted" in done.err
    assert server.stored() == [b"y" * SIZE]
    assert len(server.uploads) == 1  # the old one was discarded on the server too
