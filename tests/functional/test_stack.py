"""`depot up` and `depot test-two-server`: start, use, kill, stop, start again. Real processes on loopback."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chalicelib.cli import checks
from tests.support.stack import RunningStack, gone, launch, running_stack, wait_until

DEPOT = [sys.executable, "-m", "chalicelib.cli"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def get(url: str, headers: dict[str, str] | None = None) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers or {}), timeout=30) as answer:
        return json.load(answer)


def sign_in(url: str, username: str, password: str) -> str:
    body = json.dumps({"username": username, "password": password}).encode()
    request = urllib.request.Request(f"{url}/session", body, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        token: str = json.load(answer)["token"]
    return token


def shell(script: str, **env: str) -> str:
    """What a POSIX shell prints for a pasted script; fails the test when the script fails."""
    done = subprocess.run(
        ["sh", "-c", script], env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_line(stack: RunningStack, start: str) -> str:
    # The ready file is there a moment before the last line is printed.
    printed = stack.wait_for_output("Ctrl-C stops everything")
    return next(line for line in printed.splitlines() if line.startswith(start))


def depot(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEPOT, *arguments], env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_ready_file_tells_everything_to_its_owner_alone(stack: RunningStack) -> None:
    document = stack.document
    assert set(document) == {
        "web_url", "services_url", "aws_endpoint", "username", "password", "api_key", "pids", "env",
    }  # fmt: skip
    assert set(document["pids"]) == {"web", "services", "aws"}
    assert not any(gone(pid) for pid in stack.pids.values())
    for path in (stack.state_dir.with_suffix(".ready.json"), stack.state_dir / "ready.json"):
        assert json.loads(path.read_text()) == document
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_all_three_answer(stack: RunningStack) -> None:
    document = stack.document
    health = get(f"{document['web_url']}/health")
    assert (health["server_role"], health["status"]) == ("web", "healthy")
    get(f"{document['services_url']}/internal/storage/health", {"X-API-Key": document["api_key"]})
    get(f"{document['aws_endpoint']}/_ministack/health")


def test_the_web_process_was_told_nothing_of_the_nas(stack: RunningStack) -> None:
    told = Path(f"/proc/{stack.pids['web']}/environ").read_bytes().split(b"\0")
    names = {entry.split(b"=")[0].decode() for entry in told}
    assert {"SERVER_ROLE", "SERVICES_URL", "INTERNAL_API_KEY"} <= names
    assert not [name for name in names if name.startswith(("S3_", "NAS")) or name == "STORAGE_CONFIG"]


def test_the_web_process_holds_no_file_open_for_writing(stack: RunningStack) -> None:
    assert list(checks._writable_files(stack.pids["web"])) == []
    with (stack.state_dir / "tmp" / "services" / "seen").open("w") as file:
        assert file.name in list(checks._writable_files(os.getpid()))  # the check itself can fail


def test_the_printed_line_signs_in_and_uploads(stack: RunningStack) -> None:
    line = printed_line(stack, "TOKEN=")
    listing = printed_line(stack, "curl ")
    uploaded, listed = shell(f"{line}; echo; {listing}").splitlines()
    assert json.loads(uploaded)["size"] == len("patient_id,age\nP001,54\n")
    assert json.loads(uploaded)["file_id"] in {file["file_id"] for file in json.loads(listed)["files"]}


def test_other_commands_reach_the_stack_through_its_environment(stack: RunningStack) -> None:
    here = Path(__file__).resolve().parents[2]
    command = f'cd "{here}" && eval "$({sys.executable} -m chalicelib.cli env --state-dir {stack.state_dir})"'
    out = shell(f"{command} && {sys.executable} -m chalicelib.cli init")
    assert out == "Tables created: 0\n"
    out = shell(f"{command} && {sys.executable} -m chalicelib.cli create-superuser second")
    password = out.strip().rsplit(" ", 1)[1]
    assert sign_in(stack.document["web_url"], "second", password)


def test_the_password_is_kept_nowhere_in_clear(stack: RunningStack) -> None:
    password = stack.document["password"].encode()
    files = [path for path in stack.state_dir.rglob("*") if path.is_file() and path.name != "ready.json"]
    assert len(files) > 3
    assert [path.name for path in files if password in path.read_bytes()] == []


def test_a_second_stack_on_the_same_state_is_refused_in_one_line(stack: RunningStack) -> None:
    done = depot(
        "up", "--web-port", "0", "--services-port", "0", "--aws-port", "0", "--state-dir", str(stack.state_dir)
    )
    assert done.returncode == 2
    assert done.stderr == "depot: --state-dir is in use by another 'depot up': stop that one, or name another folder\n"
    assert not gone(stack.pids["web"])
    assert (stack.state_dir / "ready.json").exists()


def test_a_port_in_use_is_named_in_one_line(stack: RunningStack, tmp_path: Path) -> None:
    port = stack.document["services_url"].rsplit(":", 1)[1]
    done = depot(
        "up", "--services-port", port, "--web-port", "0", "--aws-port", "0", "--state-dir", str(tmp_path / "s")
    )
    assert done.returncode == 2
    assert f"Port {port} for the services process cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1


def test_serve_on_a_port_in_use_ends_with_one_line(stack: RunningStack) -> None:
    port = stack.document["services_url"].rsplit(":", 1)[1]
    done = depot("serve", "--role", "services", "--port", port, **stack.document["env"])
    assert done.returncode == 2
    assert f"port {port}" in done.stderr.splitlines()[-1]


def test_a_tier_that_dies_is_reported_and_the_printed_command_restarts_it(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        document = stack.document
        os.kill(stack.pids["web"], signal.SIGKILL)
        said = stack.wait_for_output("To restart it:")
        assert "The web process was killed by signal 9." in said
        assert not gone(stack.pids["services"])
        assert not gone(stack.pids["aws"])
        command = said.split("To restart it:", 1)[1].strip().splitlines()[0]
        again = subprocess.Popen(["sh", "-c", command.replace("&& ", "&& exec ")], stdout=subprocess.PIPE, text=True)
        try:
            assert again.stdout is not None
            wait_until(lambda: "listens on" in again.stdout.readline(), 60, "the web tier's line")
            assert get(f"{document['web_url']}/health")["status"] == "healthy"
        finally:
            again.terminate()
            again.communicate(timeout=60)


def test_stopping_is_clean_and_the_state_is_found_again(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        first = stack.document
        uploaded = json.loads(shell(printed_line(stack, "TOKEN=")))
        assert stack.stop(signal.SIGINT) == 0
        assert all(gone(pid) for pid in stack.pids.values())
        assert not list(tmp_path.rglob("*ready.json"))
        assert "Stopped. The state is kept." in stack.output()
    with running_stack(tmp_path) as stack:
        again = stack.document
        assert again["password"] is None
        assert again["api_key"] == first["api_key"]
        token = sign_in(again["web_url"], "admin", first["password"])
        signed = {"Authorization": f"Bearer {token}"}
        assert get(f"{again['web_url']}/files/{uploaded['file_id']}", signed)["sha256"] == uploaded["sha256"]
        tracking = f"{again['services_url']}/internal/tracking?file_id={uploaded['file_id']}"
        assert get(tracking, {"X-API-Key": again["api_key"]})["events"]
        # SIGTERM, as a service manager or `make` sends it.
        assert stack.stop(signal.SIGTERM) == 0


def test_kill_9_leaves_no_process_behind_and_the_state_whole(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        first = stack.document
        uploaded = json.loads(shell(printed_line(stack, "TOKEN=")))
        stack.process.kill()
        stack.process.wait()
        for name, pid in stack.pids.items():
            wait_until(lambda pid=pid: gone(pid), 60, f"the end of {name}")
    with running_stack(tmp_path) as stack:
        token = sign_in(stack.document["web_url"], "admin", first["password"])
        url = f"{stack.document['web_url']}/files/{uploaded['file_id']}"
        assert get(url, {"Authorization": f"Bearer {token}"})["size"] == uploaded["size"]


def test_ctrl_c_while_starting_ends_it(tmp_path: Path) -> None:
    process, ready, log = launch(tmp_path / "state")
    wait_until(
        lambda: log.read_text().startswith("Starting") and (tmp_path / "state" / "lock").exists(), 60, "the start"
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (0, 130)
    assert not ready.exists()
    # Nobody holds the folder any more.
    with running_stack(tmp_path) as stack:
        assert get(f"{stack.document['web_url']}/health")["status"] == "healthy"


@pytest.mark.parametrize("nas", ["local", "s3"])
def test_the_two_server_check_passes_on_a_fresh_stack(nas: str) -> None:
    done = depot("test-two-server", "--web-port", "0", "--services-port", "0", "--run-tests", NAS=nas)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "All checks passed."
    assert all(line.startswith("ok    ") for line in lines[:-1])
    assert len(lines) > 10


def test_the_two_server_check_fails_when_a_tier_is_not_there(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    lines: list[str] = []
    document = {"web_url": nobody, "services_url": nobody, "api_key": "k", "username": "u", "password": "p"}
    assert checks.run({**document, "pids": {"web": os.getpid()}}, web_folder=tmp_path, report=lines.append) == 1
    assert sum(line.startswith("FAIL") for line in lines) > 8


def test_a_short_api_key_is_refused_before_anything_starts() -> None:
    done = depot("test-two-server", "--api-key", "short")
    assert (done.returncode, done.stderr) == (2, "depot: --api-key should be at least 32 characters\n")
