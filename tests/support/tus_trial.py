"""What the tests with other people's tus clients share: two tiers that can be killed, files to send, and what must hold
when one has arrived. Fixtures over it are in tests/integration/conftest.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chalicelib.limits import MIB
from tests.support.client import Client, fresh_name, internal, make_user, signed_in
from tests.support.residue import files_on
from tests.support.stack import RunningStack, gone, wait_until

# The dead writer's lease (seconds) in stacks whose tiers are killed; as short as a busy machine allows.
LEASE = {"DEPOT_LEASE_SECONDS": "1"}
# Seconds for what is no step of a test: a tier that starts, a row that changes after a connection broke.
PATIENCE = 60


@dataclass(frozen=True)
class Source:
    """A file to send."""

    path: Path
    size: int
    sha256: str


@dataclass
class Trial:
    """A running stack, and both tiers' clients (`web` as the superuser). `env` is what the stack was started with."""

    stack: RunningStack
    env: Mapping[str, str]
    web: Client
    services: Client
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, stack: RunningStack, env: Mapping[str, str] | None = None) -> Trial:
        web = signed_in(stack, stack.document["username"], stack.document["password"])
        return cls(stack, env or {}, web, internal(stack))

    def begin(self, folder: Path, size: int) -> Upload:
        """A file of so many random bytes, a user of a new cohort to send it, and what is true before. Prints the seed."""
        seed = random.randrange(2**32)
        print(f"seed {seed}, {size} bytes")
        rng, path = random.Random(seed), folder / f"source-{uuid.uuid4().hex}"
        data = rng.randbytes(size)
        path.write_bytes(data)
        source, cohort = Source(path, size, hashlib.sha256(data).hexdigest()), fresh_name("")
        sender = make_user(self.stack, "uploader", cohort)
        return Upload(self, sender, source, fresh_name(), cohort, files_on(self.stack), rng)

    # --- the tiers' processes ------------------------------------------------------------------------------------

    def kill(self, tier: str) -> None:
        """SIGKILL; returns when the process is gone."""
        process = self._running.pop(tier, None)
        if process is not None:
            process.kill()
            process.wait()
            return
        pid = self.stack.pids[tier]
        os.kill(pid, 9)
        wait_until(lambda: gone(pid), PATIENCE, f"the {tier} tier's end")

    def start(self, tier: str) -> None:
        """The same `depot serve` again, on the same port. Does not wait until it answers."""
        port = self.stack.document[f"{tier}_url"].rsplit(":", 1)[1]
        self._running[tier] = process = subprocess.Popen(
            [sys.executable, "-m", "chalicelib.cli", "serve", "--role", tier, "--port", port],
            env={**os.environ, **self.stack.document["env"], **self.env, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # the web tier may not write to a file
            stderr=subprocess.STDOUT,
            cwd=self.stack.state_dir,
        )
        log = self.stack.state_dir / f"{tier}-again.log"
        threading.Thread(target=_keep, args=(process, log), daemon=True).start()

    def replace(self, tier: str) -> None:
        """Kill and start."""
        self.kill(tier)
        self.start(tier)

    def recover(self) -> None:
        """Both tiers run and answer: what a test finds, whatever the one before left."""
        for tier in ("services", "web"):
            process = self._running.get(tier)
            if gone(self.stack.pids[tier]) and (process is None or process.poll() is not None):
                self.start(tier)
        wait_until(self._healthy, PATIENCE, "both tiers to answer")

    def _healthy(self) -> bool:
        with contextlib.suppress(OSError):
            return self.web.get("/health").status_code == 200
        return False

    def close(self) -> None:
        """Stop what this object started."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(PATIENCE)


def _keep(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.stdout is not None
    with process.stdout as said, log.open("ab") as out:
        for line in said:
            out.write(line)
            out.flush()


@dataclass
class Upload:
    """One file on its way into a cohort of its own. `sender` is the web tier as its user; `before` what was on the NAS."""

    trial: Trial
    sender: Client
    source: Source
    filename: str
    cohort: str
    before: list[str]
    random: random.Random

    @property
    def endpoint(self) -> str:
        return f"{self.trial.stack.document['web_url']}/uploads"

    @property
    def metadata(self) -> dict[str, str]:
        about = {"cohort": self.cohort, "protocol_year": "2024", "file_type": "patient", "purpose": "submission"}
        return {**about, "filename": self.filename, "filetype": "text/csv"}

    @property
    def headers(self) -> dict[str, str]:
        """What a tus client needs to be let in."""
        return {"Authorization": str(self.sender.session.headers["Authorization"])}

    # --- what must hold at the end -------------------------------------------------------------------------------

    def arrived(self, url: str, told: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The file is there once, byte for byte, with a receipt, one outcome in the ledger, and nothing beside it.

        `url` is the upload's address, `told` the headers that the client was given last. The file's description.
        """
        file = self.only_file()
        self._receipt(url, file, told)
        self.one_outcome("completed")
        self.nothing_stray(1)
        return file

    def only_file(self) -> dict[str, Any]:
        """The description of the one file that the cohort has, after comparing its bytes with the source."""
        web = self.trial.web
        (file,) = web.get("/files", params={"cohort": self.cohort}).json()["files"]
        assert (file["filename"], file["size"]) == (self.filename, self.source.size)
        with web.content(file["file_id"], stream=True) as answer:
            assert answer.status_code == 200, answer.text
            digest = hashlib.sha256()
            for block in answer.iter_content(MIB):
                digest.update(block)
        assert digest.hexdigest() == self.source.sha256
        return dict(file)

    def _receipt(self, url: str, file: Mapping[str, Any], told: Mapping[str, str] | None) -> None:
        asked = self.head(url)
        assert asked.status_code == 200
        assert asked.headers["Upload-Offset"] == asked.headers["Upload-Length"] == str(self.source.size)
        (event,) = [e for e in self.events() if e.get("cohort") == self.cohort and e["outcome"] == "completed"]
        for headers in (asked.headers, *([told] if told is not None else [])):
            given = {name.lower(): value for name, value in headers.items()}
            assert given["x-depot-file-id"] == file["file_id"]
            assert given["x-depot-tracking-id"] == event["tracking_id"]
            assert given["x-depot-completed-at"]
            assert given["x-depot-ledger"] == f"{event['shard']}/{event['seq']}"
            if "x-depot-sha256" in given:
                assert given["x-depot-sha256"] == self.source.sha256
            else:
                digest, _, count = given["x-depot-parts-sha256"].partition("-")
                assert len(digest) == 64
                assert int(count) >= 1

    def head(self, url: str) -> Any:
        """Where the upload stands, asked past any wire."""
        path = url[url.index("/uploads/") :]
        return self.sender.call("HEAD", path, headers={"Tus-Resumable": "1.0.0"})

    def events(self) -> list[dict[str, Any]]:
        """The ledger's events of everything the sender did with files, in order of time."""
        username = self.sender.get("/session").json()["username"]
        answer = self.trial.services.get("/internal/tracking", params={"user": username, "limit": "500"})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["cursor"] is None
        return [event for event in told["events"] if event["action"] not in ("signed_in", "signed_out")]

    def operations(self) -> dict[str, tuple[str, ...]]:
        """The outcomes of everything the sender did, by tracking id, each in order of time."""
        found: dict[str, tuple[str, ...]] = {}
        for event in self.events():
            found[event["tracking_id"]] = (*found.get(event["tracking_id"], ()), event["outcome"])
        return found

    def one_outcome(self, expected: str) -> None:
        """The file was one operation, announced once, ended once; so was all else that its sending took."""
        operations = self.operations()
        (file,) = {event["tracking_id"] for event in self.events() if event.get("cohort") == self.cohort}
        assert operations.pop(file) == ("intent", expected)
        assert set(operations.values()) <= {("intent", "completed"), ("intent", "failed")}

    def nothing_stray(self, files: int) -> None:
        """The NAS holds `files` more files than before and nothing else: no tail, no staged file, no open upload."""

        def added() -> bool:
            now = files_on(self.trial.stack)
            return not set(self.before) - set(now) and len(now) == len(self.before) + files

        wait_until(added, PATIENCE, f"{files} more on the NAS than {self.before}, not {files_on(self.trial.stack)}")
