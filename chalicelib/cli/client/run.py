"""One run of `depot upload` or `depot download`: from checked options to printed results and an exit code."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chalicelib.cli.client import tus
from chalicelib.cli.client.download import Description, Downloaded, Downloader
from chalicelib.cli.client.failures import Failure
from chalicelib.cli.client.jobs import Stop, in_order
from chalicelib.cli.client.names import safe_name, shown, size_text
from chalicelib.cli.client.progress import display
from chalicelib.cli.client.retry import Retry
from chalicelib.cli.client.server import Server
from chalicelib.cli.client.signin import Credentials
from chalicelib.cli.client.state import ResumeStore, state_file
from chalicelib.cli.client.upload import Target, Uploaded, Uploader
from chalicelib.errors import SettingsError
from chalicelib.limits import PART_BYTES

DONE, FAILED, REFUSED = 0, 1, 3

# What one file came to: as JSON, as a line, and why it failed, if it did.
Outcome = tuple[dict[str, Any], str, Failure | None]


class Run:
    """What both commands need, signed in. A context: leaving it stops the display and signs out."""

    def __init__(
        self, arguments: argparse.Namespace, url: str, credentials: Credentials, environ: Mapping[str, str]
    ) -> None:
        self.arguments, self.environ = arguments, environ
        self.stop = Stop()
        self.server = Server(url, credentials, parallel=arguments.parallel)
        self.display = display(bars=not arguments.no_progress)
        self.config = tus.ServerConfig(None, PART_BYTES)

    def __enter__(self) -> Self:
        self.display.__enter__()
        try:
            self.again(self.server.sign_in)
            self.config = self.again(lambda: tus.config(self.server, PART_BYTES))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self.display.__exit__(kind, error, trace)
        self.server.close()

    def store(self, name: str) -> ResumeStore:
        return ResumeStore(state_file(self.environ, name), self.display.line)

    def new_retry(self, notice: Callable[[str], None]) -> Retry:
        return Retry(self.arguments.retries, self.stop.wait, notice)

    def again(self, call: Callable[[], Any]) -> Any:
        """A call that is safe to repeat, repeated until it works or trying again is no use."""
        retry = self.new_retry(self.display.line)
        while True:
            try:
                return call()
            except Failure as failure:
                retry.failed(failure)

    def results(self, names: Sequence[str], jobs: Sequence[Callable[[], Outcome]], parallel: int) -> int:
        """Run the jobs, print a result each, and give the exit code."""
        failed: list[Failure] = []
        for name, (told, line, failure) in zip(names, in_order(jobs, parallel, self.stop), strict=True):
            if failure is not None:
                failed.append(failure)
                self.display.line(f"{shown(name)}: FAILED: {failure.message}")
            if self.arguments.json:
                self.display.result(json.dumps({"ok": failure is None, **told}))
            elif failure is None:
                self.display.result(line)
        if failed and len(jobs) > 1:
            self.display.line(f"{len(failed)} of {len(jobs)} files failed")
        return exit_code(failed, len(jobs))


def check_download(arguments: argparse.Namespace) -> None:
    """What argparse cannot see. Raises `SettingsError`."""
    output: Path | None = arguments.output
    if output is None or output.is_dir():
        return
    if len(arguments.file_ids) > 1:
        raise SettingsError("-o must be an existing folder for more than one FILE_ID")
    if not output.parent.is_dir():
        raise SettingsError("-o names a place in a folder that does not exist")


def check_upload(arguments: argparse.Namespace) -> None:
    """What argparse cannot see. Raises `SettingsError`."""
    if arguments.name is not None and len(arguments.files) > 1:
        raise SettingsError("--name is for one FILE")
    if arguments.purpose == "submission":
        for option, value in (("--protocol-year", arguments.protocol_year), ("--file-type", arguments.file_type)):
            if not value:
                raise SettingsError(f"{option} is needed for a submission")
    names = [path.name for path in arguments.files]
    for name in (*names, arguments.name or "-", arguments.cohort, arguments.protocol_year, arguments.file_type):
        if any("\ud800" <= char <= "\udfff" for char in name):
            raise SettingsError("A file name or an option is no valid text: give the file a name in UTF-8 with --name")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SettingsError(
            "Two FILEs have the same name, and would go to the same place: upload one at a time, --name"
        )


def exit_code(failed: Iterable[Failure], total: int = 1) -> int:
    """0 when nothing failed, 3 when everything was refused for who is asking, otherwise 1."""
    failed = list(failed)
    if not failed:
        return DONE
    return REFUSED if len(failed) == total and all(failure.refused for failure in failed) else FAILED


def _attempted(job: Callable[[], tuple[dict[str, Any], str]], about: Mapping[str, Any]) -> Outcome:
    """The outcome of one file; only what is not about a file is raised."""
    try:
        told, line = job()
    except Failure as error:
        failure = error
    except OSError as error:
        # The system's own words, such as "No such file or directory", without the path.
        failure = Failure("local_file", f"{error.strerror or type(error).__name__}.")
    else:
        return {**about, **told}, line, None
    return {**about, "error": {"code": failure.code, "message": failure.message}}, "", failure


# --- upload ------------------------------------------------------------------------------------------------------------


def upload(run: Run) -> int:
    options = run.arguments
    single = len(options.files) == 1
    limits = [limit for limit in (options.chunk_bytes, run.config.max_chunk_bytes) if limit is not None]
    uploader = Uploader(
        run.server,
        run.store("uploads.json"),
        run.display,
        stop=run.stop,
        new_retry=run.new_retry,
        chunk_bytes=min(limits, default=None),
        part_bytes=run.config.part_bytes,
        parallel_pieces=options.parallel if single else 1,
        verify=options.verify,
    )
    names = [str(path) for path in options.files]
    jobs = [
        partial(_attempted, partial(_upload, uploader, path, options), {"file": str(path)}) for path in options.files
    ]
    return run.results(names, jobs, options.parallel)


def _upload(uploader: Uploader, path: Path, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    target = Target(
        options.cohort, options.protocol_year, options.file_type, options.name or path.name, options.purpose
    )
    done = uploader.upload(path, target)
    told = {**done.receipt.to_json(), "sha256": done.sha256, "sha256_compared": done.compared, "already": done.already}
    return told, _receipt_line(path, done)


def _receipt_line(path: Path, done: Uploaded) -> str:
    receipt = done.receipt
    words = "already there" if done.already and receipt.size else "uploaded"
    digest = "SHA-256 " + (done.sha256 or "not known yet")
    if not done.compared:
        digest += " (not yet compared by the server"
        digest += f"; of its parts {receipt.parts_sha256})" if receipt.parts_sha256 else ")"
    pieces = [
        f"{shown(str(path))}: {words}, {size_text(receipt.size)}, file {receipt.file_id}",
        digest,
        f"at {receipt.completed_at}" if receipt.completed_at else "",
        f"ledger {receipt.ledger}" if receipt.ledger else "",
    ]
    return shown(", ".join(filter(None, pieces)))


# --- download ----------------------------------------------------------------------------------------------------------


def download(run: Run) -> int:
    options = run.arguments
    downloader = Downloader(
        run.server,
        run.store("downloads.json"),
        run.display,
        stop=run.stop,
        new_retry=run.new_retry,
        piece_bytes=run.config.max_chunk_bytes,
        force=options.force,
    )
    places = _Places(options.output)
    jobs = [
        partial(_attempted, partial(_download, run, downloader, file_id, places), {"file_id": file_id})
        for file_id in options.file_ids
    ]
    return run.results(options.file_ids, jobs, options.parallel)


class _Places:
    """Where each file goes; two files of one run never go to one place."""

    def __init__(self, output: Path | None) -> None:
        self._output, self._taken = output, dict[str, str]()

    def of(self, file: Description) -> Path:
        """Raises `Failure`."""
        if self._output is not None and not self._output.is_dir():
            path = self._output
        else:
            path = (self._output or Path()) / safe_name(file.filename, file.file_id)
        # Some file systems do not tell upper from lower case.
        if self._taken.setdefault(os.path.abspath(path).casefold(), file.file_id) != file.file_id:
            raise Failure("target_exists", "Another of these files has the same name: download it by itself, with -o.")
        return path


def _download(run: Run, downloader: Downloader, file_id: str, places: _Places) -> tuple[dict[str, Any], str]:
    file = downloader.describe(file_id, run.new_retry(run.display.line))
    done: Downloaded = downloader.download(file, places.of(file))
    told = {
        "path": str(done.path),
        "size": done.size,
        "sha256": done.sha256,
        "sha256_compared": done.compared,
        "already": done.already,
    }
    words = "already there" if done.already else "downloaded"
    compared = "as the server's" if done.compared else "the server has none yet to compare"
    line = f"{done.path}: {words}, {size_text(done.size)}, file {done.file_id}, SHA-256 {done.sha256} ({compared})"
    return told, shown(line)
