"""`depot up`: the whole system on one machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chalicelib.cli.options import port, state_dir
from chalicelib.errors import SettingsError

if TYPE_CHECKING:
    from infra.local.environment import S3Store
    from infra.local.stack import Options

ABOUT = """Start an embedded AWS (loopback only), the services tier and the web tier as separate processes, create the
tables and the first superuser, and run until Ctrl-C. State is kept: the next 'depot up' finds it.

Environment: DEPOT_NAS_DIR moves the NAS folder. NAS=s3 is --nas s3. S3_ENDPOINT names a real S3 store (with
S3_ACCESS_KEY, S3_SECRET_KEY, S3_REGION, and S3_BUCKET, default 'depot', made if missing) and implies --nas s3."""


def register(commands: Any) -> None:
    command = commands.add_parser(
        "up",
        help="start everything on this machine",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--host", default="127.0.0.1", help="where both tiers listen (default 127.0.0.1)")
    command.add_argument("--web-port", type=port, default=8000, metavar="PORT", help="default 8000; 0: any free one")
    command.add_argument(
        "--services-port", type=port, default=8001, metavar="PORT", help="default 8001; 0: any free one"
    )
    command.add_argument("--aws-port", type=port, default=4566, metavar="PORT", help="default 4566; 0: any free one")
    state_dir(command)
    command.add_argument(
        "--nas",
        choices=("local", "s3"),
        help="local: a folder (default). s3: the embedded S3, which holds files in memory, or the store of S3_ENDPOINT",
    )
    command.add_argument(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help="JSON with addresses, credentials, pids and environment, written when all three answer, removed at the end",
    )
    command.add_argument("--username", default="admin", help="the first superuser (default admin)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from infra.local.stack import Stack

    def report(line: str) -> None:
        print(line, flush=True)

    report("Starting the embedded AWS, the services tier and the web tier ...")
    options = stack_options(arguments, os.environ)
    with Stack(options, os.environ, report) as stack:
        document = stack.start()
        report(welcome(document, options))
        stack.watch()
        report("\nStopping: web tier, services tier, embedded AWS ...")
    report("Stopped. The state is kept.")
    return 0


def stack_options(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Options:
    """Options of the stack from the command line and the environment. Raises `SettingsError`."""
    from infra.local.stack import Options

    state = Path(arguments.state_dir).absolute()
    store = _real_store(environ)
    wish = environ.get("NAS", "").strip().lower()
    if wish not in ("", "local", "s3"):
        raise SettingsError(f"NAS must be local or s3, not {wish!r}")
    nas = arguments.nas or wish or ("s3" if store else "local")
    return Options(
        host=arguments.host,
        web_port=arguments.web_port,
        services_port=arguments.services_port,
        aws_port=arguments.aws_port,
        state_dir=state,
        nas_dir=Path(environ.get("DEPOT_NAS_DIR") or state / "nas").expanduser().absolute(),
        nas=nas,
        store=store if nas == "s3" else None,
        ready_file=arguments.ready_file.absolute() if arguments.ready_file else None,
        username=arguments.username,
        table_prefix=environ.get("LEDGER_TABLE_PREFIX") or "depot",
    )


def _real_store(environ: Mapping[str, str]) -> S3Store | None:
    from infra.local.environment import S3Store

    endpoint = environ.get("S3_ENDPOINT", "").strip().rstrip("/")
    if not endpoint:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise SettingsError("S3_ENDPOINT must be a URL such as http://host:port")
    for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY"):
        if not environ.get(name):
            raise SettingsError(f"{name} required with S3_ENDPOINT")
    return S3Store(
        endpoint,
        environ["S3_ACCESS_KEY"],
        environ["S3_SECRET_KEY"],
        environ.get("S3_BUCKET") or "depot",
        environ.get("S3_REGION") or "us-east-1",
        environ.get("NAS_PUBLIC_ENDPOINT", "").strip(),
    )


def welcome(document: Mapping[str, Any], options: Options) -> str:
    """What the operator reads when all is up."""
    nas = str(options.nas_dir) if options.nas == "local" else options.store.endpoint if options.store else "embedded S3"
    lines = [
        "",
        f"  Web tier       {document['web_url']}",
        f"  Services tier  {document['services_url']}",
        f"  Embedded AWS   {document['aws_endpoint']}",
        f"  NAS            {nas}",
        f"  State, logs    {options.state_dir}",
        "",
        f"  User           {document['username']}",
    ]
    if document["password"]:
        lines.append(f"  Password       {document['password']}   (shown this once, kept nowhere: note it down)")
    else:
        lines.append("  Password       as shown on the first run; lost it? See 'depot create-superuser --help'")
    lines += [
        "",
        "Sign in and upload a file (paste the whole line into another terminal):",
        "",
        upload_line(document),
        "",
        "List what is there ($TOKEN comes from the line above):",
        "",
        f'curl -sS -H "Authorization: Bearer $TOKEN" "{document["web_url"]}/files?cohort=VACS"',
        "",
        "Ctrl-C stops everything and keeps the state.",
    ]
    return "\n".join(lines)


def upload_line(document: Mapping[str, Any]) -> str:
    """One line for a POSIX shell that has curl and python3: sign in, then upload a file from standard input."""
    url, username, password = document["web_url"], document["username"], document["password"]
    ask = ""
    if password:
        login = f"""'{{"username":"{username}","password":"{password}"}}'"""
    else:
        ask = """PASSWORD=$(python3 -c 'import getpass; print(getpass.getpass())'); """
        login = f'''"{{\\"username\\":\\"{username}\\",\\"password\\":\\"$PASSWORD\\"}}"'''
    token = (
        f"TOKEN=$(curl -sS {url}/session -H 'Content-Type: application/json' -d {login}"
        """ | python3 -c 'import json,sys; print(json.load(sys.stdin)["token"])')"""
    )
    upload = (
        """printf 'patient_id,age\\nP001,54\\n' | curl -sS -T - -H "Authorization: Bearer $TOKEN" """
        f'"{url}/files?cohort=VACS&protocol_year=2024&file_type=patient&filename=first-$(date +%s).csv"'
    )
    return f"{ask}{token}; {upload}"
