"""A sandboxed host serves as any other, and nothing it does writes a file."""

from __future__ import annotations

import hashlib

from chalicelib.limits import MIB
from tests.support.host_client import ask
from tests.support.host_process import Process


def test_a_sandboxed_host_streams_and_reports_from_its_handler_threads() -> None:
    process = Process("sandbox")
    try:
        body = b"x" * (3 * MIB)
        assert ask(process.port, "POST", "/upload", body).json["sha256"] == hashlib.sha256(body).hexdigest()
        assert ask(process.port, "GET", "/download?count=100").complete
        assert ask(process.port, "GET", "/crash").status == 500
        found = ask(process.port, "GET", "/sandbox").json
    finally:
        process.stop()
        assert process.ended() == 0
    # Handlers run in threads: those are started after the sandbox was entered, and are bound by it.
    assert found["test"] == {"create_refused": True, "memfd_refused": True}
    assert found["report"]["landlock"]["enforced"] is True
    assert (found["report"]["rlimit_fsize"], found["report"]["audit_hook"]) == (0, True)
    assert found["report"]["write_attempts"] == 0
    assert b'"bytes_in":3145728' in process.err  # the log goes to a pipe, which has no size limit
