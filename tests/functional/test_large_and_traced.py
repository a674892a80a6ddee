"""A 2 GiB file up and down again, and the web tier watched by strace while it happens. Slow; run by CI."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chalicelib.limits import GIB, MIB
from tests.support.canaries import Canaries
from tests.support.client import Client, code, fresh_name, internal, signed_in
from tests.support.stack import RunningStack, gone, running_stack, wait_until

pytestmark = pytest.mark.slow

SIZE = 2 * GIB
CANARY = b"CANARY-7f1d-patient-0000"

# System calls that could leave a byte on a disk.
WRITING = "open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,truncate,mknod,mknodat"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    with running_stack(tmp_path) as running:
        yield running


class Source:
    """2 GiB that cost nothing to make: one random block, its number in front, and a canary in the middle."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.hash = size, hashlib.sha256()
        self._block = random.Random(seed).randbytes(MIB)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.size // MIB):
            head = b"%020d" % number + CANARY
            block = head + self._block[len(head) :]
            self.hash.update(block)
            yield block


def send(web: Client, source: Source) -> dict:
    answer = web.upload(iter(source), fresh_name())
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["size"], told["sha256"]) == (source.size, source.hash.hexdigest())
    return told


def fetched_digest(web: Client, file_id: str) -> str:
    digest = hashlib.sha256()
    with web.content(file_id, stream=True) as answer:
        assert answer.status_code == 200
        for block in answer.iter_content(MIB):
            digest.update(block)
    return digest.hexdigest()


def test_2_gib_come_back_identical_and_neither_tier_holds_them_in_memory(stack):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    web = signed_in(stack, "admin", stack.document["password"])
    web.upload(b"warm-up")
    idle = {name: reset_peak(stack.pids[name]) for name in ("web", "services")}
    source = Source(SIZE, seed)
    told = send(web, source)
    assert fetched_digest(web, told["file_id"]) == source.hash.hexdigest()
    grown = {name: peak_rss(stack.pids[name]) - idle[name] for name in idle}
    print(f"growth of peak RSS over idle: web {grown['web'] / MIB:.0f} MiB, services {grown['services'] / MIB:.0f} MiB")
    # The ceilings: 64 MiB web, 128 MiB services.
    assert grown["web"] <= 64 * MIB
    assert grown["services"] <= 128 * MIB


def reset_peak(pid: int) -> int:
    """Forget the peak so far (a sign-in's password hash took 64 MiB for a moment); the RSS now, in bytes.

    proc(5): writing 5 to clear_refs resets the peak to the current value.
    """
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_rss(pid)


def peak_rss(pid: int) -> int:
    """VmHWM of a process, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found
    return int(found.group(1)) * 1024


def test_strace_sees_no_writing_open_in_the_web_tier(stack, tmp_path):
    os.kill(stack.pids["web"], signal.SIGTERM)
    port = stack.document["web_url"].rsplit(":", 1)[1]
    wait_until(lambda: gone(stack.pids["web"]), 60, "the end of the first web tier")
    trace = tmp_path / "trace"
    serve = [sys.executable, "-m", "chalicelib.cli", "serve", "--role", "web", "--host", "127.0.0.1", "--port", port]
    log = (tmp_path / "web.log").open("wb")
    traced = subprocess.Popen(
        ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={WRITING}", "-o", str(trace), *serve],
        env={**os.environ, **stack.document["env"]},
        stdout=subprocess.PIPE,
        stderr=log,
    )
    pump = subprocess.Popen(["cat"], stdin=traced.stdout, stdout=log)
    try:
        wait_until(lambda: answers(stack), 60, "the traced web tier")
        web = signed_in(stack, "admin", stack.document["password"])
        source = Source(64 * MIB, 1)
        told = send(web, source)
        assert fetched_digest(web, told["file_id"]) == source.hash.hexdigest()
        report = web.get("/health").json()["sandbox"]
        assert report["write_attempts"] == 0
        assert report["rlimit_fsize"] == 0
    finally:
        traced.send_signal(signal.SIGINT)
        # strace passes no signal on: end what it runs, and it ends with it.
        for child in children(traced.pid):
            os.kill(child, signal.SIGTERM)
        traced.wait(30)
        pump.wait(30)
        log.close()
    lines = trace.read_text(errors="replace").splitlines()
    assert any("O_RDONLY" in line for line in lines), "strace saw nothing at all"
    assert [line for line in lines if writes(line)] == []
    assert CANARY not in (tmp_path / "web.log").read_bytes()


def writes(line: str) -> bool:
    """Whether a traced call succeeded in opening or making something for writing, other than /dev/null."""
    if " = -1 " in line or '"/dev/null"' in line:
        return False
    opened = re.search(r"\b(open|openat|openat2)\(", line)
    return bool(re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE", line)) if opened else "(" in line


def answers(stack: RunningStack) -> bool:
    try:
        return Client(stack.document["web_url"]).get("/health").status_code == 200
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_check_itself_would_see_a_write():
    assert writes('12 openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3')
    assert writes('12 mkdir("/tmp/x", 0777) = 0')
    assert not writes('12 openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_CREAT) = -1 EACCES (Permission denied)')
    assert not writes('12 openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3')
    assert not writes('12 openat(AT_FDCWD, "/dev/null", O_RDWR) = 3')


def test_a_canary_is_nowhere_on_the_web_tiers_side(stack, tmp_path):
    web = signed_in(stack, "admin", stack.document["password"])
    before = set(Path("/tmp").rglob("*"))
    told = send(web, Source(16 * MIB, 2))
    fetched_digest(web, told["file_id"])
    new = [path for path in set(Path("/tmp").rglob("*")) - before if path.is_file() and tmp_path not in path.parents]
    for path in [*new, *(stack.state_dir / "logs").iterdir()]:
        if path.is_file():
            assert CANARY not in path.read_bytes(), path
            assert told["path"].rsplit("/", 1)[1].encode() not in path.read_bytes(), "a file name in a log"


def test_a_nas_that_is_really_full(tmp_path):
    """A file system of 48 MiB in a mount namespace of the stack's own: the disk itself says ENOSPC."""
    nas = tmp_path / "nas"
    nas.mkdir()
    mounted = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=48m none {nas} && exec "$@"',
        "sh",
    ]
    with running_stack(tmp_path, nas="local", env={"DEPOT_NAS_DIR": str(nas)}, inside=mounted) as stack:
        web, canaries = signed_in(stack, "admin", stack.document["password"]), Canaries()
        name, block = canaries.word("name"), canaries.body("body", MIB)
        for _ in range(2):  # what the first left behind would be in the way of the second
            full = canaries.check(web.upload((block for _ in range(64)), name))
            assert (full.status_code, code(full)) == (507, "storage_full")
        assert web.get("/files", params={"cohort": "VACS"}).json()["files"] == []
        assert web.upload((b"x" * MIB for _ in range(32)), name).status_code == 201
        events = internal(stack).get("/internal/tracking", params={"cohort": "VACS"}).json()["events"]
        assert [event["outcome"] for event in events] == ["intent", "failed", "intent", "failed", "intent", "completed"]
        assert {event.get("error_code") for event in events if event["outcome"] == "failed"} == {"storage_full"}
        stack.stop()
        for log in (stack.state_dir / "logs").iterdir():
            assert canaries.found_in(log.read_bytes()) == [], log.name
