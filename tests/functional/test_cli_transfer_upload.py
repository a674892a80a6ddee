"""`depot upload` against a server that does as it is told: receipts, secrets, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from chalicelib.cli.client import retry
from tests.support.cli import TARGET, Depot
from tests.support.tus_server import Answer, Cut, Then, TusServer


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


# --- what a good upload looks like -----------------------------------------------------------------------------------


def test_a_receipt_a_file_goes_to_stdout_in_the_order_of_the_files(depot: Depot, server: TusServer) -> None:
    names = [f"f{number}.csv" for number in range(6)]
    for number, name in enumerate(names):
        depot.file(name, os.urandom(number * 30_000))
    done = depot.upload(*names, "--parallel", "3")
    assert done.code == 0
    assert [line.split(":")[0] for line in done.lines] == names
    content = (depot.folder / "f2.csv").read_bytes()
    assert "58.6 KiB" in done.lines[2]
    assert hashlib.sha256(content).hexdigest() in done.lines[2]
    assert "2024-05-01T12:00:00Z" in done.lines[2]
    assert "ledger 3/17" in done.lines[2]
    assert sorted(server.stored()) == sorted((depot.folder / name).read_bytes() for name in names)
    assert done.err == ""


def test_json_is_one_object_a_file_also_for_one_that_failed(depot: Depot, server: TusServer) -> None:
    depot.file("a.csv", b"x" * 10)
    done = depot.upload("missing.csv", "a.csv", "--json")
    assert done.code == 1
    failed, fine = (json.loads(line) for line in done.lines)
    assert (failed["ok"], failed["file"], failed["error"]["code"]) == (False, "missing.csv", "local_file")
    assert (fine["ok"], fine["size"], fine["sha256_compared"]) == (True, 10, True)
    assert fine["file_id"] in server.files
    assert "missing.csv: FAILED: No such file or directory." in done.err
    assert "1 of 2 files failed" in done.err


def test_names_travel_in_the_metadata_only(depot: Depot, server: TusServer) -> None:
    name = "Jürgen Müller 1950 ☺.csv"
    depot.file(name, b"1")
    assert depot.upload(name).code == 0
    assert [filename for filename, _ in server.files.values()] == [name]
    assert not [path for _, path, _ in server.requests if "rgen" in path]


def test_name_and_purpose_are_sent(depot: Depot, server: TusServer) -> None:
    depot.file("local.csv", b"1")
    assert depot("upload", "local.csv", "--cohort", "VACS", "--purpose", "precheck", "--name", "there.csv").code == 0
    (upload,) = server.uploads.values()
    assert upload.metadata == {"cohort": "VACS", "filename": "there.csv", "purpose": "precheck"}


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000])
@pytest.mark.parametrize("parallel", ["1", "4"])
def test_every_size_arrives_whole_in_one_piece_or_several(
    size: int, parallel: str, depot: Depot, server: TusServer
) -> None:
    content = random.Random(size).randbytes(size)
    depot.file("a.bin", content)
    done = depot.upload("a.bin", "--parallel", parallel)
    assert done.code == 0, done.err
    assert server.stored() == [content]
    # The server's parts are 64 KiB: pieces are whole multiples of them, and none is smaller.
    pieces = [upload for upload in server.uploads.values() if upload.partial]
    assert len(pieces) == (0 if parallel == "1" or size < 2 * 65536 else 4)
    assert server.received == size


def test_chunks_are_as_small_as_the_server_asks(depot: Depot, server: TusServer) -> None:
    server.max_chunk_bytes = 100_000
    content = os.urandom(450_000)
    depot.file("a.bin", content)
    assert depot.upload("a.bin").code == 0
    assert server.stored() == [content]
    assert server.count("PATCH") == 5


def test_without_a_ceiling_the_rest_of_the_file_is_one_request(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", os.urandom(3_000_000))
    assert depot.upload("a.bin").code == 0
    assert server.count("PATCH") == 1


def test_a_server_without_config_takes_any_chunk(depot: Depot, server: TusServer) -> None:
    server.config = False
    depot.file("a.bin", os.urandom(200_000))
    assert depot.upload("a.bin").code == 0
    assert server.count("PATCH") == 1


def test_a_ceiling_that_nobody_told_of_is_found(depot: Depot, server: TusServer) -> None:
    server.config, server.max_chunk_bytes = False, 4 * 1024 * 1024
    content = os.urandom(6 * 1024 * 1024)
    depot.file("a.bin", content)
    assert depot.upload("a.bin").code == 0
    assert server.stored() == [content]


def test_a_digest_that_the_server_does_not_know_yet_is_said_to_be_open(depot: Depot, server: TusServer) -> None:
    server.gives_sha256 = False
    depot.file("a.bin", b"1" * 1000)
    done = depot.upload("a.bin")
    assert done.code == 0
    assert "not yet compared by the server; of its parts" in done.out
    assert hashlib.sha256(b"1" * 1000).hexdigest() in done.out


def test_verify_has_the_server_compare(depot: Depot, server: TusServer) -> None:
    content = os.urandom(1000)
    depot.file("a.bin", content)
    assert depot.upload("a.bin", "--verify").code == 0
    (upload,) = server.uploads.values()
    assert upload.metadata["sha256"] == hashlib.sha256(content).hexdigest()


def test_another_digest_on_the_server_is_an_error(depot: Depot, server: TusServer) -> None:
    def spoil() -> None:
        (upload,) = server.uploads.values()
        upload.data[500] ^= 1

    depot.file("a.bin", os.urandom(1000))
    server.plan("GET", Then(spoil))
    done = depot.upload("a.bin", "--json")
    assert done.code == 1
    assert json.loads(done.out)["error"]["code"] == "digest_mismatch"


# --- again -------------------------------------------------------------------------------------------------------------


def test_a_repeated_command_sends_nothing_and_gives_the_same_receipt(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", os.urandom(100_000))
    first, again = depot.upload("a.bin", "--json"), depot.upload("a.bin", "--json")
    assert again.code == 0
    assert json.loads(again.out)["already"] is True
    assert json.loads(again.out)["file_id"] == json.loads(first.out)["file_id"]
    assert server.received == 100_000


def test_a_file_that_was_deleted_on_the_server_is_sent_again(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", os.urandom(100_000))
    assert depot.upload("a.bin").code == 0
    server.files.clear()
    done = depot.upload("a.bin")
    assert done.code == 0
    assert ": uploaded" in done.out
    assert len(server.files) == 1


# --- secrets and state ---------------------------------------------------------------------------------------------


def test_the_state_holds_no_secret_and_no_name_and_is_private(depot: Depot, server: TusServer) -> None:
    depot.file("patient-smith.bin", os.urandom(5000))
    server.plan("PATCH", Cut(1000))
    assert depot.upload("patient-smith.bin", "--retries", "0").code == 1
    (entry,) = entries(depot).values()
    assert isinstance(entry, dict)
    assert entry["pieces"] == [[next(iter(server.uploads)), 0, 5000]]
    text = (depot.state / "uploads.json").read_text()
    tokens = {
        headers["authorization"].removeprefix("Bearer ")
        for *_, headers in server.requests
        if "authorization" in headers
    }
    assert len(tokens) == 1
    for secret in ("smith", server.password, server.username, *tokens):
        assert secret not in text
    assert stat.S_IMODE((depot.state / "uploads.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(depot.state.stat().st_mode) == 0o700


def test_a_state_that_cannot_be_kept_is_said_once_and_stops_nothing(depot: Depot, server: TusServer) -> None:
    depot.file("state", b"a file where a folder should be")
    depot.file("a.bin", b"1")
    depot.file("b.bin", b"2")
    done = depot.upload("a.bin", "b.bin")
    assert done.code == 0
    assert done.err.count("cannot be kept") == 1


def test_a_session_opened_here_is_closed_here(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", b"1")
    assert depot.upload("a.bin").code == 0
    assert server.tokens == set()
    assert not [headers for *_, headers in server.requests if "cookie" in headers]


def test_a_token_of_the_environment_is_used_and_left_alone(depot: Depot, server: TusServer) -> None:
    server.tokens.add("t" * 40)
    depot.env |= {"DEPOT_TOKEN": "t" * 40, "DEPOT_USERNAME": "", "DEPOT_PASSWORD": ""}
    depot.file("a.bin", b"1")
    assert depot.upload("a.bin").code == 0
    assert server.tokens == {"t" * 40}
    assert server.count("POST", "/session") == 0


def test_proxies_of_the_environment_are_not_used_for_this_machine(depot: Depot, server: TusServer) -> None:
    depot.env |= {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    depot.file("a.bin", b"1")
    assert depot.upload("a.bin").code == 0


def test_netrc_never_takes_the_place_of_our_sign_in(depot: Depot, server: TusServer) -> None:
    (depot.folder / ".netrc").write_text("machine 0.0.0.0 login mallory password x\n")
    (depot.folder / ".netrc").chmod(0o600)
    depot.file("a.bin", b"1")
    # 0.0.0.0 leads here too, and counts as elsewhere: there the environment's proxies and CA bundles are heeded.
    assert depot.upload("a.bin", "--insecure-http", "--url", server.url.replace("127.0.0.1", "0.0.0.0")).code == 0
    assert not [headers for *_, headers in server.requests if headers.get("authorization", "").startswith("Basic")]


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_3(depot: Depot, server: TusServer) -> None:
    depot.env["DEPOT_PASSWORD"] = "wrong"
    depot.file("a.bin", b"1")
    done = depot.upload("a.bin")
    assert done.code == 3
    assert done.err == "depot: Told bad_credentials. (request request-1)\n"


def test_all_refused_is_3_and_some_refused_is_1(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", b"1")
    depot.file("b.bin", b"2")
    server.plan("POST", Answer(403, "forbidden"))
    assert depot.upload("a.bin", "b.bin").code == 1
    server.plan("POST", Answer(403, "forbidden"))
    assert depot.upload("a.bin").code == 3


def test_a_taken_name_is_told_and_the_others_go_on(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", b"1")
    depot.file("b.bin", b"2")
    server.plan("POST", Answer(409, "file_exists"))
    done = depot.upload("a.bin", "b.bin")
    assert done.code == 1
    assert "a.bin: FAILED: Told file_exists." in done.err
    assert server.stored() == [b"2"]


def test_a_server_that_is_not_there_is_1(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", b"1")
    depot.env["DEPOT_URL"] = "http://127.0.0.1:9"
    done = depot.upload("a.bin", "--retries", "1")
    assert done.code == 1
    assert "could not be made" in done.err
    assert "(1 of 1)" in done.err


def test_a_name_cannot_move_the_cursor(depot: Depot) -> None:
    depot.file("a\x1b[2J.csv", b"1")
    done = depot.upload("a\x1b[2J.csv", "missing\x1b[2J.csv")
    assert "a?[2J.csv: uploaded" in done.out
    assert "missing?[2J.csv: FAILED" in done.err
    assert "\x1b" not in done.out + done.err


def test_a_folder_is_no_file(depot: Depot) -> None:
    (depot.folder / "folder").mkdir()
    done = depot.upload("folder")
    assert done.code == 1
    assert "Only regular files" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.bin", "b.bin", *TARGET, "--name", "c"], "--name is for one FILE"),
        (["a.bin", "--cohort", "VACS"], "--protocol-year is needed"),
        (["a.bin", "--cohort", "VACS", "--protocol-year", "2024"], "--file-type is needed"),
        (["a.bin", "x/a.bin", *TARGET], "Two FILEs have the same name"),
        (["a\udcff.bin", *TARGET], "no valid text"),
        (["a.bin"], "--cohort"),
        (["a.bin", *TARGET, "--parallel", "0"], "1 to 32"),
        (["a.bin", *TARGET, "--chunk-bytes", "1"], "65536"),
        (["a.bin", *TARGET, "--url", "ftp://x"], "--url must be a URL"),
        (["a.bin", *TARGET, "--url", "http://user:secret@127.0.0.1"], "no user name or password"),
        (["a.bin", *TARGET, "--url", "http://depot.example.org"], "must begin with https://"),
    ],
)
def test_wrong_use_is_2_before_anything_is_sent(
    arguments: list[str], said: str, depot: Depot, server: TusServer
) -> None:
    done = depot("upload", *arguments)
    assert done.code == 2
    assert said in done.err
    assert "secret" not in done.err
    assert server.requests == []
