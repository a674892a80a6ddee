"""`depot upload` and `depot download`: options, results and exit codes. What they do is in `cli.client`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chalicelib.cli.options import DEFAULT_STATE_DIR
from chalicelib.limits import MIN_PART_BYTES

if TYPE_CHECKING:
    from chalicelib.cli.client.run import Run

PURPOSES = ("submission", "precheck", "scratch")

_ENVIRONMENT = """Environment: DEPOT_URL is --url. DEPOT_TOKEN is a token to sign in with; else DEPOT_USERNAME and DEPOT_PASSWORD;
else both are asked for on the terminal. There is no option for a password: others could read it.

Exit codes: 0 all done. 1 one or more files failed; each is named. 2 wrong use or settings. 3 not signed in, or not
allowed. 130 interrupted (Ctrl-C): the same command goes on from where it stopped."""

_UPLOAD = f"""Upload files. A broken connection, a restarted server or Ctrl-C lose nothing: what the server has acknowledged
stays there (for a day), and the same command goes on from there. Receipts go to stdout in the order of the
files, progress to stderr.

{_ENVIRONMENT}"""

_DOWNLOAD = f"""Download files by their ids. Bytes go to NAME.part; once size and SHA-256 are right, the file gets its name.
After a break the same command goes on from there.

{_ENVIRONMENT}"""


def register(commands: Any) -> None:
    upload = _command(commands, "upload", "upload files, resumable", _UPLOAD)
    upload.add_argument("files", nargs="+", type=Path, metavar="FILE")
    upload.add_argument("--cohort", required=True, help="the cohort that the files belong to")
    upload.add_argument("--protocol-year", default="", metavar="YEAR", help="needed for submissions, such as 2024")
    upload.add_argument("--file-type", default="", metavar="TYPE", help="needed for submissions, such as patient")
    upload.add_argument("--purpose", choices=PURPOSES, default=PURPOSES[0], help="default submission")
    upload.add_argument("--name", help="the name on the server, for one FILE (default: the file's own)")
    upload.add_argument(
        "--chunk-bytes", type=_chunk, metavar="N", help="most bytes a request (default: the server's limit)"
    )
    upload.add_argument(
        "--verify",
        action="store_true",
        help="read each file once more before, so that the server compares its SHA-256 before the file counts as there",
    )
    _common(upload, "files at a time; with a single FILE, pieces of it at a time (default 1)")
    upload.set_defaults(run=run_upload)

    download = _command(commands, "download", "download files by their ids, resumable", _DOWNLOAD)
    download.add_argument("file_ids", nargs="+", metavar="FILE_ID")
    download.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="a folder, or for one FILE_ID a file (default: this folder)"
    )
    download.add_argument("--force", action="store_true", help="replace what is there")
    _common(download, "files at a time (default 1)")
    download.set_defaults(run=run_download)


def _command(commands: Any, name: str, about: str, description: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return command


def _common(command: argparse.ArgumentParser, parallel: str) -> None:
    from chalicelib.cli.client.retry import DEFAULT_RETRIES

    command.add_argument("--parallel", type=_parallel, default=1, metavar="N", help=parallel)
    command.add_argument("--url", help="the web tier (default: DEPOT_URL, else that of the running 'depot up')")
    command.add_argument(
        "--retries",
        type=_whole,
        default=DEFAULT_RETRIES,
        metavar="N",
        help=f"tries in a row that may bring no progress (default {DEFAULT_RETRIES}, about a minute and a half)",
    )
    command.add_argument("--no-progress", action="store_true", help="no bars, no lines on progress")
    command.add_argument("--json", action="store_true", help="print one JSON object a file, also for those that failed")
    command.add_argument(
        "--insecure-http",
        action="store_true",
        help="allow http:// beyond this machine (passwords and PHI in plain text)",
    )
    command.add_argument(
        "--state-dir",
        type=Path,
        default=Path(DEFAULT_STATE_DIR),
        metavar="DIR",
        help=f"the folder of the running 'depot up' (default {DEFAULT_STATE_DIR})",
    )


def run_upload(arguments: argparse.Namespace) -> int:
    from chalicelib.cli.client import run

    run.check_upload(arguments)
    return _run(arguments, run.upload)


def run_download(arguments: argparse.Namespace) -> int:
    from chalicelib.cli.client import run

    run.check_download(arguments)
    return _run(arguments, run.download)


def _run(arguments: argparse.Namespace, command: Callable[[Run], int]) -> int:
    from chalicelib.cli import INTERRUPTED
    from chalicelib.cli.client import run, signin
    from chalicelib.cli.client.failures import Failure

    url = signin.server_url(arguments.url, os.environ, arguments.state_dir, insecure=arguments.insecure_http)
    credentials = signin.credentials(os.environ, signin.Terminal())
    try:
        with run.Run(arguments, url, credentials, os.environ) as prepared:
            return command(prepared)
    except Failure as failure:
        print(f"depot: {failure.message}", file=sys.stderr)
        return run.exit_code([failure])
    except KeyboardInterrupt:
        print("depot: interrupted; the same command goes on from where it stopped", file=sys.stderr)
        return INTERRUPTED


def _parallel(text: str) -> int:
    # 32: half of the streaming host's handler threads; more would only wait there.
    if not text.isdigit() or not 1 <= int(text) <= 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 32")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdigit() or len(text) > 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 9999")
    return int(text)


def _chunk(text: str) -> int:
    # Smaller ones cost a request each and gain nothing; on S3 they wait until they make a part.
    if not text.isdigit() or not 64 * 1024 <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of bytes from 65536 (a good one is {MIN_PART_BYTES})"
        )
    return int(text)
