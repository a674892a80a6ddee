"""`depot download` against a server that does as it is told: names, breaks, changed files, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from chalicelib.cli.client import place, retry
from tests.support.cli import Depot
from tests.support.tus_server import Answer, Cut, LoseAnswer, Step, Then, TusServer

SIZE = 300_000
NOTHING = Then(lambda: None)  # the step of the description, before that of the content


@pytest.fixture
def server() -> Iterator[TusServer]:
    with TusServer() as running:
        yield running


@pytest.fixture
def depot(
    server: TusServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Depot:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    server.tokens.add("t" * 40)
    return Depot(tmp_path, {"DEPOT_URL": server.url, "DEPOT_TOKEN": "t" * 40}, capsys, monkeypatch)


def asked_ranges(server: TusServer) -> list[str | None]:
    return [headers.get("range") for _, path, headers in server.requests if path.endswith("/content")]


@pytest.mark.parametrize("size", [0, 1, 65536, SIZE])
def test_a_file_comes_back_under_its_name(size: int, depot: Depot, server: TusServer) -> None:
    content = random.Random(size).randbytes(size)
    file_id = server.add_file(content, "patients.csv")
    done = depot("download", file_id)
    assert done.code == 0, done.err
    path = depot.folder / "patients.csv"
    assert path.read_bytes() == content
    assert hashlib.sha256(content).hexdigest() in done.out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(depot.folder.glob("*.part"))


def test_several_files_go_into_a_folder_and_are_told_in_order(depot: Depot, server: TusServer) -> None:
    (depot.folder / "there").mkdir()
    ids = [server.add_file(os.urandom(1000 * number), f"f{number}.csv") for number in range(5)]
    done = depot("download", *ids, "-o", "there", "--parallel", "3", "--json")
    assert done.code == 0
    told = [json.loads(line) for line in done.lines]
    assert [item["file_id"] for item in told] == ids
    assert [item["path"] for item in told] == [f"there/f{number}.csv" for number in range(5)]
    assert all(item["sha256_compared"] for item in told)


def test_o_names_the_file(depot: Depot, server: TusServer) -> None:
    assert depot("download", server.add_file(b"1"), "-o", "mine.csv").code == 0
    assert (depot.folder / "mine.csv").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../up.csv", "up.csv"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\win.csv", "win.csv"),
        (".bashrc", "_bashrc"),
        ("a\r\n\x1b[2J\u202ecsv.exe", "a_____[2J_csv.exe".replace("_____", "___")),
        ("nul.csv", "_nul.csv"),
    ],
)
def test_a_name_of_the_server_cannot_leave_the_folder(name: str, safe: str, depot: Depot, server: TusServer) -> None:
    (depot.folder / "there").mkdir()
    done = depot("download", server.add_file(b"1", name), "-o", "there")
    assert done.code == 0
    assert os.listdir(depot.folder / "there") == [safe]
    assert "\x1b" not in done.out + done.err


def test_a_file_without_a_usable_name_gets_its_id(depot: Depot, server: TusServer) -> None:
    file_id = server.add_file(b"1", "..")
    assert depot("download", file_id).code == 0
    assert (depot.folder / file_id).read_bytes() == b"1"


def test_two_files_of_one_name_do_not_replace_one_another(depot: Depot, server: TusServer) -> None:
    ids = [server.add_file(b"1", "Same.csv"), server.add_file(b"2", "same.csv")]
    done = depot("download", *ids, "--force")
    assert done.code == 1
    assert "Another of these files has the same name" in done.err
    assert len(list(depot.folder.glob("[Ss]ame.csv"))) == 1


# --- what is there already ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_another_file_of_that_name_stays(
    links: bool, depot: Depot, server: TusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = server.add_file(b"new", "a.csv")
    depot.file("a.csv", b"old")
    assert depot("download", file_id).code == 1
    assert (depot.folder / "a.csv").read_bytes() == b"old"
    assert depot("download", file_id, "--force").code == 0
    assert (depot.folder / "a.csv").read_bytes() == b"new"
    # Also when it appears only while the bytes are under way, with and without hard links.
    if not links:
        monkeypatch.setattr(place.os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError("no links here")))
    other = server.add_file(b"other", "b.csv")
    server.plan("GET", NOTHING, Then(lambda: (depot.folder / "b.csv").write_bytes(b"mine") and None))
    done = depot("download", other)
    assert done.code == 1
    assert "There is a file of that name already" in done.err
    assert (depot.folder / "b.csv").read_bytes() == b"mine"


def test_a_repeated_command_finds_what_it_brought(depot: Depot, server: TusServer) -> None:
    file_id = server.add_file(os.urandom(SIZE), "a.csv")
    assert depot("download", file_id).code == 0
    again = depot("download", file_id)
    assert again.code == 0
    assert "already there" in again.out
    assert len(asked_ranges(server)) == 1


def test_a_part_file_of_somebody_else_is_not_touched(depot: Depot, server: TusServer) -> None:
    depot.file("a.csv.part", b"of another program")
    done = depot("download", server.add_file(b"new", "a.csv"))
    assert done.code == 1
    assert ".part file that is not known here" in done.err
    assert (depot.folder / "a.csv.part").read_bytes() == b"of another program"


def test_a_link_in_place_of_the_part_file_is_not_followed(depot: Depot, server: TusServer) -> None:
    victim = depot.file("victim", b"")
    (depot.folder / "a.csv.part").symlink_to(victim)
    done = depot("download", server.add_file(b"new", "a.csv"))
    assert done.code == 1
    assert victim.read_bytes() == b""


# --- breaks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        [NOTHING, Cut(0)],
        [NOTHING, Cut(1), Cut(100_000), Cut(SIZE - 100_002)],
        [Answer(503), LoseAnswer(), Answer(502, "services_interrupted", {"Retry-After": "0"}), NOTHING, Answer(500)],
    ],
)
def test_a_break_costs_no_byte_twice(steps: list[Step], depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    file_id = server.add_file(content, "a.csv")
    server.plan("GET", *steps)
    done = depot("download", file_id)
    assert done.code == 0, done.err
    assert (depot.folder / "a.csv").read_bytes() == content
    got = sum(step.count for step in steps if isinstance(step, Cut))
    assert asked_ranges(server)[-1] == (f"bytes={got}-{SIZE - 1}" if got else None)


def test_the_next_command_goes_on_where_the_last_one_gave_up(depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    file_id = server.add_file(content, "a.csv")
    server.plan("GET", NOTHING, Cut(100_000))
    assert depot("download", file_id, "--retries", "0").code == 1
    assert (depot.folder / "a.csv.part").read_bytes() == content[:100_000]
    done = depot("download", file_id)
    assert done.code == 0
    assert "going on at 97.7 KiB of 293.0 KiB" in done.err
    assert asked_ranges(server)[-1] == f"bytes=100000-{SIZE - 1}"
    assert (depot.folder / "a.csv").read_bytes() == content


def test_what_is_left_of_another_version_is_not_used(depot: Depot, server: TusServer) -> None:
    file_id = server.add_file(os.urandom(SIZE), "a.csv")
    server.plan("GET", NOTHING, Cut(100_000))
    assert depot("download", file_id, "--retries", "0").code == 1
    new = os.urandom(SIZE)
    server.files[file_id] = ("a.csv", new)
    done = depot("download", file_id)
    assert done.code == 0
    assert "beginning anew" in done.err
    assert (depot.folder / "a.csv").read_bytes() == new


def test_a_file_that_changes_between_two_ranges_is_never_mixed(depot: Depot, server: TusServer) -> None:
    file_id = server.add_file(os.urandom(SIZE), "a.csv")
    replaced = Then(lambda: server.files.update({file_id: ("a.csv", os.urandom(SIZE))}))
    server.plan("GET", NOTHING, Cut(100_000), replaced)
    done = depot("download", file_id, "--json")
    assert done.code == 1
    assert json.loads(done.out)["error"]["code"] == "file_changed"
    assert not (depot.folder / "a.csv").exists()


def test_damaged_bytes_are_never_given_the_name(depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    file_id = server.add_file(content, "a.csv")
    server.plan("GET", NOTHING, Cut(100_000))
    assert depot("download", file_id, "--retries", "0").code == 1
    with (depot.folder / "a.csv.part").open("r+b") as part:
        part.write(b"damaged")
    done = depot("download", file_id, "--json")
    assert done.code == 1
    assert json.loads(done.out)["error"]["code"] == "digest_mismatch"
    assert not (depot.folder / "a.csv").exists()
    assert depot("download", file_id).code == 0  # and the next one begins anew
    assert (depot.folder / "a.csv").read_bytes() == content


@pytest.mark.parametrize("told", [True, False])
def test_a_host_with_a_ceiling_is_asked_in_pieces(
    told: bool, depot: Depot, server: TusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = 4 * 1024 * 1024
    server.config, server.max_chunk_bytes = told, four
    content = os.urandom(2 * four + 5)
    file_id = server.add_file(content, "a.bin")
    assert depot("download", file_id).code == 0
    assert (depot.folder / "a.bin").read_bytes() == content
    pieces = [f"bytes=0-{four - 1}", f"bytes={four}-{2 * four - 1}", f"bytes={2 * four}-{2 * four + 4}"]
    assert asked_ranges(server) == (pieces if told else [None, *pieces])


def test_a_redirect_to_the_store_goes_without_the_token(depot: Depot, server: TusServer) -> None:
    content = os.urandom(SIZE)
    file_id = server.add_file(content, "a.csv")
    with TusServer() as store:
        store.tokens.add("")  # whoever comes without a token
        there = store.add_file(content)
        location = {"Location": f"{store.url}/files/{there}/content?X-Amz-Signature=1"}
        store.plan("GET", Cut(100_000))
        server.plan("GET", NOTHING, Answer(307, "moved", location), Answer(307, "moved", location))
        done = depot("download", file_id)
        assert done.code == 0, done.err
        assert (depot.folder / "a.csv").read_bytes() == content
        assert not [headers for *_, headers in store.requests if "authorization" in headers]


def test_a_redirect_without_tls_to_elsewhere_is_refused(depot: Depot, server: TusServer) -> None:
    file_id = server.add_file(b"1", "a.csv")
    server.plan("GET", NOTHING, Answer(307, "moved", {"Location": "http://store.example.org/x"}))
    done = depot("download", file_id)
    assert done.code == 1
    assert "without TLS" in done.err


# --- exit codes --------------------------------------------------------------------------------------------------------------


def test_unknown_files_are_1_and_the_others_come(depot: Depot, server: TusServer) -> None:
    fine = server.add_file(b"1", "a.csv")
    done = depot("download", "0" * 32, "A" * 32, fine, "--json")
    assert done.code == 1
    assert [json.loads(line)["ok"] for line in done.lines] == [False, False, True]
    assert server.count("GET", "/files/") == 3  # what cannot be an id is not asked for


def test_a_token_that_has_ended_is_3(depot: Depot, server: TusServer) -> None:
    server.tokens.clear()
    assert depot("download", server.add_file(b"1")).code == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["0" * 32, "1" * 32, "-o", "new"], "-o must be an existing folder"),
        (["0" * 32, "-o", "new/a.csv"], "a folder that does not exist"),
        ([], "FILE_ID"),
    ],
)
def test_wrong_use_is_2(arguments: list[str], said: str, depot: Depot, server: TusServer) -> None:
    done = depot("download", *arguments)
    assert done.code == 2
    assert said in done.err
    assert server.requests == []
