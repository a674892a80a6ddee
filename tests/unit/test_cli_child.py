"""Child processes of the local stack: on a leash, read through a pipe, stopped in bounded time."""

from __future__ import annotations

import os
import queue
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local import child as child_module
from infra.local.child import LEASH, Child
from tests.support.stack import gone, wait_until

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
POLITE = "import time; print('up', flush=True); time.sleep(600)"


def run(code: str, tmp_path: Path, **more: object) -> Child:
    command = [sys.executable, "-u", "-c", code]
    return Child("stub", command, {"PATH": os.environ["PATH"]}, tmp_path / "stub.log", **more)  # type: ignore[arg-type]


def test_output_goes_through_a_pipe_into_a_private_log(tmp_path: Path) -> None:
    ended: queue.SimpleQueue[Child] = queue.SimpleQueue()
    code = "import os, stat; print(stat.S_ISFIFO(os.fstat(1).st_mode), stat.S_ISFIFO(os.fstat(2).st_mode))"
    child = run(code, tmp_path, on_exit=ended.put)
    assert ended.get(timeout=30) is child
    assert child.returncode == 0
    log = tmp_path / "stub.log"
    assert log.read_text() == "True True\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert list(child.tail) == ["True True"]


def test_alarming_lines_are_shown_and_others_are_not(tmp_path: Path) -> None:
    shown: list[str] = []
    ended: queue.SimpleQueue[Child] = queue.SimpleQueue()
    code = """print('{"level": "ERROR", "message": "x"}'); print('{"level":"INFO","note":"no ERROR here"}')
print('Traceback (most recent call last):')"""
    run(code, tmp_path, on_exit=ended.put, on_line=shown.append)
    ended.get(timeout=30)
    assert shown == ['{"level": "ERROR", "message": "x"}', "Traceback (most recent call last):"]


def test_a_log_that_grows_is_put_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "MAX_LOG_BYTES", 1000)
    ended: queue.SimpleQueue[Child] = queue.SimpleQueue()
    run("for n in range(100): print(f'{n:0100}')", tmp_path, on_exit=ended.put)
    ended.get(timeout=30)
    assert (tmp_path / "stub.log").stat().st_size <= 1101
    assert (tmp_path / "stub.log.1").stat().st_size <= 1101
    assert sorted(os.listdir(tmp_path)) == ["stub.log", "stub.log.1"]


def test_stop_ends_a_polite_child_by_sigterm(tmp_path: Path) -> None:
    child = run(POLITE, tmp_path)
    wait_until(lambda: child.tail, 30, "the child")
    assert child.stop(30)
    assert child.returncode == -signal.SIGTERM


def test_stop_kills_a_stubborn_child_after_the_time_is_up(tmp_path: Path) -> None:
    child = run(STUBBORN, tmp_path)
    wait_until(lambda: child.tail, 30, "the child")
    assert not child.stop(0.1)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("code", [POLITE, STUBBORN])
def test_stop_leaves_nothing_of_what_the_child_started(code: str, tmp_path: Path) -> None:
    start = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]).pid, flush=True); "
    child = run(start + code, tmp_path)
    wait_until(lambda: len(child.tail) == 3, 30, "both processes")
    pid = next(int(line) for line in child.tail if line.isdigit())
    assert not gone(pid)
    child.stop(0.1)
    wait_until(lambda: gone(pid), 30, "the grandchild's end")


def test_a_child_leads_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    child = run(POLITE, tmp_path)
    try:
        assert os.getsid(child.pid) == child.pid
    finally:
        child.stop(30)


def test_a_child_on_the_leash_ends_when_its_parent_is_killed() -> None:
    parent = f"""
import os, subprocess, sys
command = [sys.executable, {str(LEASH)!r}, str(os.getpid()), sys.executable, "-c", {POLITE!r}]
child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not gone(pid)
        process.kill()
        process.wait()
        wait_until(lambda: gone(pid), 30, "the child's end")


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    done = subprocess.run([sys.executable, str(LEASH), "1", sys.executable, "-c", "print('ran')"], capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
