"""What goes wrong in the middle: whoever is still there is told, nothing partial is left, and the ledger says so."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from chalicelib.limits import MIB
from tests.support.client import Client, code, fresh_name, internal, signed_in
from tests.support.raw import RawUpload
from tests.support.residue import files_on
from tests.support.stack import RunningStack, running_stack, wait_until

BLOCK = b"x" * MIB


@pytest.fixture
def stack(tmp_path) -> Iterator[RunningStack]:
    """A stack of one test's own, to be broken."""
    with running_stack(tmp_path) as running:
        yield running


@pytest.fixture
def breakable(stack) -> Client:
    return signed_in(stack, "admin", stack.document["password"])


def query(name: str, cohort: str = "VACS") -> dict[str, str]:
    return {"cohort": cohort, "protocol_year": "2024", "file_type": "patient", "filename": name}


def tracked(services: Client, **about: str) -> list[dict]:
    return services.get("/internal/tracking", params=about).json()["events"]


def ended(services: Client, cohort: str) -> dict:
    """The terminal event of a cohort's one upload, once it is there."""

    def probe() -> dict | None:
        found = tracked(services, cohort=cohort)
        return found[-1] if found and found[-1]["outcome"] != "intent" else None

    return wait_until(probe, 30, "the outcome of the upload")


@pytest.mark.parametrize("length", [20 * MIB, None], ids=["length", "chunked"])
@pytest.mark.parametrize("sent", [0, 3, 12], ids=["nothing", "3 MiB", "12 MiB"])
def test_a_client_that_goes_away_leaves_a_failed_event_and_nothing_else(tiers, web, services, length, sent):
    cohort, name = fresh_name(""), fresh_name()
    before = files_on(tiers)
    with RawUpload(web, query(name, cohort), length) as upload:
        for _ in range(sent):
            upload.send(BLOCK)
        wait_until(lambda: tracked(services, cohort=cohort), 30, "the intent")
    failed = ended(services, cohort)
    assert failed["outcome"] == "failed"
    assert failed["error_code"] in ("client_disconnected", "body_truncated")
    assert 0 <= failed["bytes_transferred"] <= sent * MIB
    assert wait_until(lambda: files_on(tiers) == before, 10, "the NAS to be as before")
    assert web.get("/files", params={"cohort": cohort}).json()["files"] == []
    assert web.upload(b"again", name, cohort=cohort).status_code == 201


def test_bytes_beyond_the_announced_length_are_no_part_of_the_file(web):
    with RawUpload(web, query(fresh_name()), 10) as upload:
        upload.send(b"0123456789GET /files HTTP/1.1\r\n\r\n")
        told = upload.answer()
    assert b"201 Created" in told
    assert b'"size":10' in told


def test_the_services_tier_killed_in_the_middle(stack, breakable):
    name, moved = fresh_name(), threading.Event()

    def source():
        for number in range(64):
            if number == 24:
                os.kill(stack.pids["services"], signal.SIGKILL)
                moved.set()
            yield BLOCK

    answer = breakable.upload(source(), name)
    assert moved.is_set()
    assert answer.status_code in (502, 503)
    assert code(answer) in ("services_interrupted", "services_unavailable")
    down = breakable.upload(b"x", fresh_name())
    assert (down.status_code, code(down)) == (503, "services_unavailable")
    health = Client(stack.document["web_url"]).get("/health")
    assert (health.status_code, health.json()["services"]) == (503, "unreachable")

    with restarted(stack):
        services = internal(stack)
        events = tracked(services, cohort="VACS")
        assert [event["outcome"] for event in events] == ["intent"], "the crash is visible as an open intent"
        assert breakable.get("/files", params={"cohort": "VACS"}).json()["files"] == []
        again = breakable.upload(b"x", name)
        assert (again.status_code, code(again)) == (409, "upload_in_progress"), "its lease has not run out yet"
        assert breakable.upload(b"x", fresh_name()).status_code == 201
        assert breakable.get("/health").status_code == 200


def restarted(stack: RunningStack):
    """The services tier again, with the environment that the ready file gives to other `depot` commands."""
    port = stack.document["services_url"].rsplit(":", 1)[1]
    command = [sys.executable, "-m", "chalicelib.cli", "serve", "--role", "services", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", port],
        env={**os.environ, **stack.document["env"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    class Running:
        def __enter__(self) -> None:
            def healthy() -> bool:
                try:
                    return internal(stack).get("/internal/storage/health").status_code == 200
                except OSError:
                    return False

            wait_until(healthy, 30, "the services tier")

        def __exit__(self, *_: object) -> None:
            process.terminate()
            process.wait(30)

    return Running()


def test_the_web_tier_killed_in_the_middle(stack, breakable):
    services, cohort, before = internal(stack), fresh_name(""), files_on(stack)
    with RawUpload(breakable, query(fresh_name(), cohort), 64 * MIB) as upload:
        for _ in range(24):
            upload.send(BLOCK)
        os.kill(stack.pids["web"], signal.SIGKILL)
        failed = ended(services, cohort)
    assert (failed["outcome"], failed["error_code"]) == ("failed", "client_disconnected")
    assert wait_until(lambda: files_on(stack) == before, 10, "the NAS to be as before")


def test_no_ledger_no_bytes(stack, breakable):
    services = internal(stack)
    assert services.get("/internal/storage/health").status_code == 200
    os.kill(stack.pids["aws"], signal.SIGKILL)
    before = files_on(stack)
    asked = {"disk": "workspace", "path": "upload_prechecks/1/p.csv"}
    answer = services.post("/internal/storage/upload", params=asked, data=b"x" * MIB)
    assert (answer.status_code, code(answer)) == (503, "ledger_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    through = breakable.upload(b"x")
    assert (through.status_code, code(through)) == (503, "ledger_unavailable")
    assert services.get("/internal/storage/health").status_code == 503
    assert files_on(stack) == before


def test_a_body_that_stalls_is_ended(tmp_path):
    with running_stack(tmp_path, env={"DEPOT_BODY_STALL_SECONDS": "1"}) as stack:
        web, before = signed_in(stack, "admin", stack.document["password"]), files_on(stack)
        with RawUpload(web, query(fresh_name(), "STALL"), 10 * MIB) as upload:
            upload.send(BLOCK)
            told = upload.answer()
        assert b"408 " in told.split(b"\r\n", 1)[0]
        assert b"body_stalled" in told
        assert ended(internal(stack), "STALL")["outcome"] == "failed"
        assert files_on(stack) == before


def test_a_graceful_stop_finishes_the_upload_under_way(stack, breakable):
    """SIGTERM to both tiers in the middle of an upload: it is finished, answered, and only then do they end."""
    body = [BLOCK] * 24

    def source():
        for number, block in enumerate(body):
            if number == 8:
                os.kill(stack.pids["web"], signal.SIGTERM)
                os.kill(stack.pids["services"], signal.SIGTERM)
            yield block

    answer = breakable.upload(source())
    assert answer.status_code == 201, answer.text
    assert answer.json()["size"] == len(body) * MIB
