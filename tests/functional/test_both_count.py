"""Both tiers count: what the web tier says it forwarded stands beside what the services tier stored, and a difference is told.

A web tier of these tests' own reaches the services tier through a wire that can alter what passes.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from chalicelib.limits import MIB
from tests.support.client import Client, code, fresh_name
from tests.support.residue import files_on
from tests.support.stack import RunningStack, wait_until
from tests.support.tus_client import Tus
from tests.support.wire import Wire

DATA = b"Z" * (20 * MIB + 5)


@pytest.fixture(scope="module")
def wire(tiers: RunningStack) -> Iterator[Wire]:
    with Wire(tiers.document["services_url"]) as wire:
        yield wire


@pytest.fixture(scope="module")
def wired(tiers: RunningStack, wire: Wire) -> Iterator[Client]:
    """The superuser at a web tier behind the wire."""
    command = [sys.executable, "-m", "chalicelib.cli", "serve", "--role", "web", "--port", "0"]
    environ = {**os.environ, **tiers.document["env"], "SERVICES_URL": wire.url, "SERVER_ROLE": "web"}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        found = next(match for line in process.stdout if (match := re.search(r"listens on (http://\S+)", line)))
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
        client = Client(found.group(1))
        answer = client.post(
            "/session", json={"username": tiers.document["username"], "password": tiers.document["password"]}
        )
        assert answer.ok, answer.text
        client.session.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        yield client
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def altering(wire: Wire) -> Iterator[threading.Event]:
    """The next block full of Z loses its last one; the event is set when that has happened."""
    done = threading.Event()

    def alter(block: bytes) -> bytes:
        if done.is_set() or not block.endswith(b"Z" * 64):
            return block
        done.set()
        return block[:-1] + b"Y"

    wire.alter = alter
    yield done
    wire.alter = lambda block: block


def last_event(services: Client, **about: str) -> dict:
    return services.get("/internal/tracking", params=about).json()["events"][-1]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_the_completion_tells_what_the_web_tier_forwarded(wired: Client, services: Client, chunked: bool) -> None:
    answer = wired.upload(iter([DATA]) if chunked else DATA)
    assert answer.status_code == 201, answer.text
    event = last_event(services, file_id=answer.json()["file_id"])
    assert event["outcome"] == "completed"
    assert event["file_hash"] == hashlib.sha256(DATA).hexdigest()
    assert event["metadata"]["forwarded_sha256"] == event["file_hash"]
    assert event["metadata"]["forwarded_bytes"] == str(len(DATA)) == str(event["file_size"])


def test_the_bodies_of_a_session_add_up(wired: Client, services: Client) -> None:
    tus = Tus(wired)
    path, at = tus.opened(len(DATA)), 0
    for end in (3, 7 * MIB, 7 * MIB + 1, len(DATA)):
        answer = tus.patch(path, at, DATA[at:end])
        assert answer.status_code == 204, answer.text
        at = end
    event = last_event(services, file_id=answer.headers["X-Depot-File-Id"])
    assert event["metadata"]["forwarded_bytes"] == str(len(DATA))
    assert "forwarded_sha256" not in event["metadata"], "no body was the whole file"


def test_one_body_that_is_the_whole_file_has_its_digest_recorded(wired: Client, services: Client) -> None:
    tus = Tus(wired)
    answer = tus.patch(tus.opened(len(DATA)), 0, DATA)
    event = last_event(services, file_id=answer.headers["X-Depot-File-Id"])
    assert event["metadata"]["forwarded_sha256"] == event["file_hash"] == hashlib.sha256(DATA).hexdigest()


def test_what_came_before_a_client_broke_off_is_confirmed_too(wired: Client, services: Client) -> None:
    tus = Tus(wired)
    path, sent = tus.opened(len(DATA)), 9 * MIB + 17

    def broken() -> Iterator[bytes]:
        yield DATA[:sent]
        raise ConnectionAbortedError

    with pytest.raises(Exception, match=r"ConnectionAborted|Connection aborted"):
        tus.patch(path, 0, broken())
    wait_until(lambda: int(tus.head(path).headers.get("Upload-Offset", 0)) == sent, 30, "all that had arrived")
    offset = sent
    answer = tus.patch(path, offset, DATA[offset:])
    assert answer.status_code == 204, answer.text
    event = last_event(services, file_id=answer.headers["X-Depot-File-Id"])
    assert event["metadata"]["forwarded_bytes"] == str(len(DATA))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_file_that_was_altered_between_the_tiers_is_refused_and_nothing_is_kept(
    tiers: RunningStack, wired: Client, services: Client, altering: threading.Event, chunked: bool
) -> None:
    before, cohort = files_on(tiers), fresh_name("")
    answer = wired.upload(iter([DATA]) if chunked else DATA, cohort=cohort)
    assert altering.is_set()
    assert (answer.status_code, code(answer)) == (502, "forwarded_differs")
    assert files_on(tiers) == before
    event = last_event(services, cohort=cohort)
    assert (event["outcome"], event["error_code"]) == ("failed", "forwarded_differs")
    assert wired.get("/files", params={"cohort": cohort}).json()["files"] == []
    assert "forwarded_bytes_disputed" in tiers.output()


@pytest.mark.parametrize("end", [MIB, len(DATA)], ids=["a tail", "all"])
def test_a_session_whose_body_was_altered_ends_without_a_file(
    tiers: RunningStack, wired: Client, altering: threading.Event, end: int
) -> None:
    """Also when parts of that very body had been acknowledged before its seal was seen."""
    before, tus = files_on(tiers), Tus(wired)
    path = tus.opened(len(DATA))
    answer = tus.patch(path, 0, DATA[:end])
    assert altering.is_set()
    assert (answer.status_code, code(answer)) == (502, "forwarded_differs")
    assert tus.head(path).status_code in (404, 410)
    assert tus.patch(path, 0, DATA).status_code in (404, 410)
    assert files_on(tiers) == before


def test_a_body_of_the_web_tier_without_a_seal_is_refused(services: Client) -> None:
    """It could be one whose announcement was lost: its seal would be taken for the file's last bytes."""
    where = {"disk": "workspace", "path": f"scratch/audit_1/{fresh_name()}"}
    answer = services.post("/internal/storage/upload", params=where, data=b"x", headers={"X-Server-Role": "web"})
    assert (answer.status_code, code(answer)) == (400, "invalid_request")
