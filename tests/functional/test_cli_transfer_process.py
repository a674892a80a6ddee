"""`depot upload` and `download` as processes: killed, interrupted, on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import TARGET, Depot
from tests.support.tus_server import Hold, TusServer

# More than fits into the buffers of a loopback connection: the client is still sending when the server stops reading.
SIZE, HELD_AT = 24 * 1024 * 1024, 3_000_000
PATIENCE = 60


@pytest.fixture
def server() -> Iterator[TusServer]:
    with TusServer() as running:
        yield running


@pytest.fixture
def depot(
    server: TusServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Depot:
    env = {"DEPOT_URL": server.url, "DEPOT_USERNAME": server.username, "DEPOT_PASSWORD": server.password}
    return Depot(tmp_path, env, capsys, monkeypatch)


def held_upload(depot: Depot, server: TusServer, *arguments: str) -> tuple[bytes, Hold, subprocess.Popen[str]]:
    """An upload in the middle of its body: the server has taken HELD_AT bytes and takes no more."""
    content = os.urandom(SIZE)
    depot.file("a.bin", content)
    hold = Hold(HELD_AT)
    server.plan("PATCH", hold)
    process = depot.start("upload", "a.bin", *TARGET, *arguments)
    assert hold.reached.wait(PATIENCE)
    return content, hold, process


@pytest.mark.parametrize("first", [(), ("--parallel", "2")])
def test_a_killed_upload_goes_on_from_the_acknowledged_byte(
    first: tuple[str, ...], depot: Depot, server: TusServer
) -> None:
    content, hold, process = held_upload(depot, server, *first)
    process.kill()
    process.communicate()
    hold.release.set()
    taken = server.received
    assert HELD_AT <= taken < SIZE
    again = depot.start("upload", "a.bin", *TARGET)
    _, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, err
    assert "going on" in err
    assert server.stored() == [content]
    assert server.received == SIZE  # not one byte twice


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(depot: Depot, server: TusServer) -> None:
    content, hold, process = held_upload(depot, server)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    hold.release.set()
    assert process.returncode == 130
    assert out == ""
    assert err == "depot: interrupted; the same command goes on from where it stopped\n"
    assert server.tokens == set()  # signed out
    again = depot.start("upload", "a.bin", *TARGET)
    assert again.communicate(timeout=PATIENCE)[1].startswith("a.bin: going on at 2.9 MiB of 24.0 MiB\n")
    assert again.returncode == 0
    assert server.stored() == [content]
    assert server.received == SIZE


def test_bars_on_a_terminal_leave_stdout_to_the_receipts(depot: Depot, server: TusServer) -> None:
    depot.file("a[red].bin", os.urandom(100_000))
    depot.env |= {"TERM": "xterm-256color", "COLUMNS": "120"}
    master, slave = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while block := os.read(master, 65536):
                shown.extend(block)
        except OSError:  # EIO: the other end is closed
            return

    reader = threading.Thread(target=read)
    process = depot.start("upload", "a[red].bin", *TARGET, stderr=slave)
    reader.start()
    os.close(slave)
    out, _ = process.communicate(timeout=PATIENCE)
    reader.join(PATIENCE)
    os.close(master)
    assert process.returncode == 0
    assert out.startswith("a[red].bin: uploaded, 97.7 KiB, file ")
    assert out.count("\n") == 1
    text = shown.decode()
    assert "a[red].bin" in text  # the name as it is, not as rich's markup
    assert "\x1b[" in text
    assert "SHA-256" not in text


def test_no_terminal_no_control_characters(depot: Depot, server: TusServer) -> None:
    depot.file("a.bin", os.urandom(100_000))
    process = depot.start("upload", "a.bin", *TARGET)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert err == ""
    assert "\x1b" not in out


def test_nobody_to_ask_is_2(depot: Depot, server: TusServer) -> None:
    depot.env |= {"DEPOT_USERNAME": "", "DEPOT_PASSWORD": ""}
    depot.file("a.bin", b"1")
    process = depot.start("upload", "a.bin", *TARGET)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err == "depot: DEPOT_TOKEN required, or DEPOT_USERNAME and DEPOT_PASSWORD, where nobody can be asked\n"
