"""The no-write sandbox, tried in processes of their own: it cannot be left again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

ATTEMPTS = {
    "open for writing": "open(folder + '/new', 'w')",
    "open for appending": "open(folder + '/old', 'a')",
    "open read-write": "open(folder + '/old', 'r+')",
    "os.open": "os.open(folder + '/new', os.O_WRONLY | os.O_CREAT)",
    "truncate": "os.truncate(folder + '/old', 0)",
    "mkdir": "os.mkdir(folder + '/new')",
    "rename": "os.rename(folder + '/old', folder + '/new')",
    "remove": "os.remove(folder + '/old')",
    "symlink": "os.symlink('/etc/passwd', folder + '/new')",
    "hard link": "os.link(folder + '/old', folder + '/new')",
    "rmdir": "os.rmdir(folder + '/empty')",
    "a FIFO": "os.mkfifo(folder + '/new')",
    "a temporary file": "tempfile.NamedTemporaryFile(dir=folder)",
    "a temporary folder": "tempfile.mkdtemp(dir=folder)",
    "sqlite": "sqlite3.connect(folder + '/new').execute('create table a (b)')",
    "spooling past its limit": "tempfile.SpooledTemporaryFile(max_size=1, dir=folder).write(b'xx')",
}


def run(code: str, folder: Path) -> Any:
    """What `code` printed as JSON. The pipe matters: a file as stdout could not be written to."""
    script = "\n".join(
        (
            "import errno, json, os, sqlite3, sys, tempfile, threading",
            "from chalicelib.hosting import sandbox",
            f"folder = {str(folder)!r}",
            code,
        )
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One folder an attempt, all alike, and one above them."""
    for number in range(len(ATTEMPTS)):
        (tmp_path / str(number) / "empty").mkdir(parents=True)
        (tmp_path / str(number) / "old").write_bytes(b"kept")
    return tmp_path


def try_each(folder: Path, before: str) -> dict[str, str]:
    lines = "\n".join(
        f"folder = {str(folder / str(number))!r}\n"
        f"try:\n    {code}\n"
        f"except OSError as error: result[{name!r}] = errno.errorcode.get(error.errno, type(error).__name__)\n"
        f"except sqlite3.Error: result[{name!r}] = 'sqlite'\n"
        f"else: result[{name!r}] = 'done'"
        for number, (name, code) in enumerate(ATTEMPTS.items())
    )
    result = run(f"result = {{}}\n{before}\n{lines}\nprint(json.dumps(result))", folder)
    assert isinstance(result, dict)
    return result


def changed(folder: Path) -> int:
    """How many of the attempts left a trace."""
    own = [str(number) for number in range(len(ATTEMPTS))]
    return sum(
        sorted(path.name for path in (folder / name).iterdir()) != ["empty", "old"]
        or (folder / name / "old").read_bytes() != b"kept"
        for name in own
    ) + sum(path.name not in own for path in folder.iterdir())


def test_nothing_can_be_written_and_attempts_are_counted(folder: Path) -> None:
    result = try_each(folder, "sandbox.enter(required=True)")
    assert {name for name, outcome in result.items() if outcome == "done"} == set()
    assert changed(folder) == 0


def test_landlock_alone_refuses_every_attempt(folder: Path) -> None:
    """Without the audit hook and the limit: the kernel's refusal, also for what Python does not see."""
    result = try_each(folder, "from chalicelib.hosting import landlock; landlock.restrict(('/dev/null',))")
    assert {name for name, outcome in result.items() if outcome == "done"} == set()
    assert {result[name] for name in ("open for writing", "truncate", "mkdir", "rename", "remove")} == {"EACCES"}
    assert changed(folder) == 0


def test_without_the_sandbox_the_attempts_succeed(folder: Path) -> None:
    """Or the tests above would prove nothing."""
    result = try_each(folder, "")
    assert {name for name, outcome in result.items() if outcome != "done"} == set()
    # These write nothing, or are gone again by themselves.
    traceless = {"open for appending", "open read-write", "a temporary file", "spooling past its limit"}
    assert changed(folder) == len(ATTEMPTS) - len(traceless)


def test_threads_and_children_started_later_are_bound_too(folder: Path) -> None:
    result = run(
        """
import subprocess
from chalicelib.hosting import landlock
landlock.restrict(('/dev/null',))
seen = []
def attempt():
    try: open(folder + '/new', 'w')
    except PermissionError: seen.append('refused')
thread = threading.Thread(target=attempt); thread.start(); thread.join()
child = subprocess.run([sys.executable, '-c', 'import sys; open(sys.argv[1], "w")', folder + '/new'], stderr=subprocess.DEVNULL)
print(json.dumps([seen, child.returncode]))
""",
        folder,
    )
    assert result == [["refused"], 1]
    assert changed(folder) == 0


def test_the_size_limit_alone_stops_a_memfd_and_does_not_kill(folder: Path) -> None:
    result = run(
        """
before = sandbox.self_test(folder)
sandbox.enter()
print(json.dumps([before, sandbox.self_test(folder)]))
""",
        folder,
    )
    assert result == [
        {"create_refused": False, "memfd_refused": False},
        {"create_refused": True, "memfd_refused": True},
    ]
    assert changed(folder) == 0


def test_the_report_says_what_is_in_force(folder: Path) -> None:
    before, after, nul, byte_code = run(
        """
before = sandbox.report()
sandbox.enter(); sandbox.enter()
for name in ('a', 'b'):
    try: open(folder + '/' + name, 'w')
    except PermissionError: pass
with open('/dev/null', 'wb') as sink: nul = sink.write(b'x')
sandbox.self_test(folder)
print(json.dumps([before, sandbox.report(), nul, sys.dont_write_bytecode]))
""",
        folder,
    )
    assert before == {
        "landlock": {"enforced": False, "reason": "not entered"},
        "rlimit_fsize": None,
        "audit_hook": False,
        "write_attempts": 0,
    }
    assert (after["landlock"]["enforced"], after["rlimit_fsize"], after["audit_hook"]) == (True, 0, True)
    assert after["landlock"]["abi"] >= 3
    assert (after["write_attempts"], nul, byte_code) == (2, 1, True)


MISSING = """
from chalicelib.errors import SecurityError
from chalicelib.hosting import landlock
landlock._CREATE_RULESET = 9999  # a system call that this kernel does not have
try:
    sandbox.enter(required={required})
except SecurityError as error:
    print(json.dumps(error.message))
else:
    print(json.dumps([sandbox.report(), sandbox.self_test(folder)]))
"""


def test_without_landlock_the_report_says_why_and_the_rest_holds(folder: Path) -> None:
    report, tested = run(MISSING.format(required=False), folder)
    assert report["landlock"] == {
        "enforced": False,
        "reason": "the kernel has no Landlock, or it is off (Function not implemented)",
    }
    assert (report["rlimit_fsize"], report["audit_hook"]) == (0, True)
    assert tested == {"create_refused": False, "memfd_refused": True}


def test_without_landlock_production_does_not_start(folder: Path) -> None:
    assert "must not be able to write files" in run(MISSING.format(required=True), folder)
