"""The local stack: embedded AWS, services tier, web tier, started in that order and stopped in the reverse one.

    with Stack(options, environ, report) as stack:   # raises SettingsError with one line
        stack.start()                                # returns when all three answer
        stack.watch()                                # returns on Ctrl-C, SIGTERM, SIGHUP

Used by `depot up` and `depot test-two-server`. Imports the contract's errors and infra.local only.
"""

from __future__ import annotations

import json
import queue
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from chalicelib.errors import SettingsError
from infra.local import environment
from infra.local.child import Child
from infra.local.environment import Addresses, S3Store
from infra.local.ports import free_ports
from infra.local.state import StateDir, write_private

# Seconds. Starting takes 3 to 5 on two cores; a busy machine gets ten times that before we give up.
READY_TIMEOUT = 60.0
# A tier drains its transfers for up to 30 s (Settings.drain_timeout); the embedded AWS writes its state.
TIER_STOP_TIMEOUT, AWS_STOP_TIMEOUT = 35.0, 30.0

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    """What `depot up` was asked for. Port 0 is any free one. `nas_dir` and `store`: see `environment`."""

    host: str
    web_port: int
    services_port: int
    aws_port: int
    state_dir: Path
    nas_dir: Path
    nas: str
    store: S3Store | None = None
    ready_file: Path | None = None
    username: str = "admin"
    table_prefix: str = "depot"


class Stack:
    """See the module's docstring. `report(line)` shows a line to the operator; it may be called from other threads.

    `api_key` replaces the kept INTERNAL_API_KEY for this run.
    """

    def __init__(
        self,
        options: Options,
        environ: Mapping[str, str],
        report: Callable[[str], None],
        *,
        api_key: str | None = None,
    ) -> None:
        self.options, self._report, self._api_key = options, report, api_key
        self._inherited = environment.inherited(environ)
        self._state = StateDir(options.state_dir)
        try:
            self.where = Addresses(
                options.host, *free_ports(options.host, options.web_port, options.services_port, options.aws_port)
            )
        except SettingsError:
            self._state.close()
            raise
        self._events: queue.SimpleQueue[Child | int] = queue.SimpleQueue()
        self._children: dict[str, Child] = {}
        # In this order: who waits for the file it named finds the other one there.
        self._ready_files = [self._state.path / "ready.json", *filter(None, [options.ready_file])]
        self.document: dict[str, Any] = {}

    # --- starting --------------------------------------------------------------------------------------------

    def start(self) -> dict[str, Any]:
        """Start everything; the ready document, which is also in the ready file. Raises `SettingsError`."""
        for path in self._ready_files:  # a stale one would name processes that are gone
            path.unlink(missing_ok=True)
        options, where = self.options, self.where
        kept = self._state.secrets()
        if self._api_key:
            kept["INTERNAL_API_KEY"] = self._api_key
        store = self._embedded_store() if options.nas == "s3" and options.store is None else options.store
        if options.nas == "local":
            store = None
            self._make_nas_folders()
        services_env = environment.services(where, kept, options.table_prefix, options.nas_dir, store)

        services_env |= environment.ledger(self._state.path / "ledger")
        self._spawn(
            "aws", [sys.executable, "-m", "ministack"], environment.embedded_aws(where, self._state.path / "aws")
        )
        self._await("aws", f"{where.aws_endpoint}/_ministack/health")
        password = self._init(services_env, store)
        self._spawn("services", self._serve("services"), services_env)
        self._spawn("web", self._serve("web"), environment.web(where, kept, options.table_prefix))
        self._await("services", f"{where.services_url}/internal/storage/health", kept["INTERNAL_API_KEY"])
        self._await("web", f"{where.web_url}/health")
        self.document = {
            "web_url": where.web_url,
            "services_url": where.services_url,
            "aws_endpoint": where.aws_endpoint,
            "username": options.username,
            "password": password,
            "api_key": kept["INTERNAL_API_KEY"].split(",")[0].strip(),
            "pids": {name: self._children[name].pid for name in ("web", "services", "aws")},
            "env": environment.exported(services_env, where),
        }
        for path in self._ready_files:
            write_private(path, self.document)
        return self.document

    def _embedded_store(self) -> S3Store:
        endpoint = self.where.aws_endpoint
        return S3Store(endpoint, "test", "test", public_endpoint=endpoint)  # clients here are on this machine

    def _make_nas_folders(self) -> None:
        try:
            for name in environment.DISKS:
                (self.options.nas_dir / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SettingsError(f"DEPOT_NAS_DIR cannot be used: {error.strerror}") from None

    def _init(self, env: Mapping[str, str], store: S3Store | None) -> str | None:
        """Tables, bucket, superuser, in a process of its own: the one place where this stack's settings apply."""
        command = [sys.executable, "-m", "chalicelib.cli", "init", "--superuser", self.options.username, "--json"]
        if store is not None:
            command.append("--bucket")
        done = subprocess.run(
            command,
            env={**self._inherited, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SettingsError(f"The tables, the bucket or the first user could not be made: {last}")
        password: str | None = json.loads(done.stdout)["password"]
        return password

    def _serve(self, role: str) -> list[str]:
        port = self.where.web_port if role == "web" else self.where.services_port
        command = [sys.executable, "-m", "chalicelib.cli", "serve", "--role", role]
        return [*command, "--host", self.options.host, "--port", str(port)]

    def _spawn(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        temporary = self._state.path / "tmp" / name
        self._children[name] = Child(
            name,
            command,
            # No bytecode: the web tier may not write, and the others need not.
            {
                **self._inherited,
                **env,
                "TMPDIR": str(temporary),
                "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            self._state.log(name),
            cwd=temporary,
            on_line=lambda line: self._on_alarm(name, line),
            on_exit=self._events.put,
        )

    def _on_alarm(self, name: str, line: str) -> None:
        # While starting, a tier that is asked too early complains; what matters then is in its last words and its log.
        if self.document:
            self._report(f"[{name}] {line}")

    def _await(self, name: str, url: str, api_key: str | None = None) -> None:
        """Wait until `url` answers 200. Raises `SettingsError` when the child ends or the time is up."""
        child, deadline = self._children[name], time.monotonic() + READY_TIMEOUT
        request = urllib.request.Request(url, headers={"X-API-Key": api_key} if api_key else {})  # noqa: S310 - ours
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        answer = "no answer"
        while True:
            self._raise_if_ending()
            if child.returncode is not None:
                raise SettingsError(f"The {name} process ended at its start: {self._last_words(child)}")
            try:
                with opener.open(request, timeout=10):
                    return
            except urllib.error.HTTPError as error:
                answer = f"answers {error.code}"
                error.close()
            except OSError:
                answer = "no answer"
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"The {name} process is not ready after {READY_TIMEOUT:.0f} s ({answer}): {self._last_words(child)}"
                )
            time.sleep(0.1)

    def _last_words(self, child: Child) -> str:
        said = next((line for line in reversed(child.tail) if line.strip()), "it said nothing")
        return f"{said.strip()} (log: {self._state.log(child.name)})"

    # --- running ---------------------------------------------------------------------------------------------

    def _raise_if_ending(self) -> None:
        """While starting: KeyboardInterrupt after a stop signal, `SettingsError` after the death of any child."""
        try:
            event = self._events.get_nowait()
        except queue.Empty:
            return
        if isinstance(event, int):
            raise KeyboardInterrupt
        raise SettingsError(f"The {event.name} process ended at its start: {self._last_words(event)}")

    def watch(self) -> int:
        """Wait for a stop signal, and return it. A tier that dies is reported; the others stay up."""
        while True:
            event = self._events.get()
            if isinstance(event, int):
                return event
            if not event.stopping:
                self._report_death(event)

    def _report_death(self, child: Child) -> None:
        code = child.returncode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._report(f"The {child.name} process {how}. Last line: {self._last_words(child)}")
        if child.name == "aws":
            self._report("What it had not saved is lost (it saves when stopped). Press Ctrl-C, then start again.")
            return
        depot = str(Path(sys.executable).with_name("depot"))
        settings = shlex.join([depot, "env", "--state-dir", str(self._state.path)])
        again = shlex.join([depot, *self._serve(child.name)[3:]])
        self._report(f'The rest stays up. To restart it:  eval "$({settings})" && {again}')

    # --- stopping --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Web, then services, then the embedded AWS, so that each can still reach what it needs; idempotent."""
        for path in self._ready_files:
            path.unlink(missing_ok=True)
        for name, timeout in (("web", TIER_STOP_TIMEOUT), ("services", TIER_STOP_TIMEOUT), ("aws", AWS_STOP_TIMEOUT)):
            child = self._children.pop(name, None)
            if child is not None and not child.stop(timeout):
                self._report(f"The {name} process did not stop within {timeout:.0f} s and was killed.")
        self._state.close()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._events.put(int(number))  # SimpleQueue.put is reentrant: safe in a signal handler
