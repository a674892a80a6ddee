"""Builds dist/web.zip and dist/services.zip with `chalice package`, one stage a role. Run by `make package`.

    python -m infra.package [--role web|services] [--python 3.13] [--out dist]

A package holds app.py, what its role needs of our code, and its own locked requirements. Wheels are fetched with their
hashes checked, then `chalice package` works from those alone. The zip is made anew, sorted and with fixed times, so that
the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / ".build"

ROLES = ("web", "services")

# What of chalicelib stays out: the CLI, the streaming host (but not what handlers use under Lambda too), and from the
# services package the web tier's handlers.
_HOST = tuple(
    f"hosting/{name}.py"
    for name in (
        *("asgi", "bridge", "events", "exchange", "exposition", "framing", "pool", "protocol", "router", "scheduler"),
        "server",
    )
)
WITHOUT = {"web": ("cli", *_HOST), "services": ("cli", "web", *_HOST)}

# botocore carries the models of every AWS service (25 MB): only these stay, and the top-level files they need.
SERVICE_MODELS = {"web": {"dynamodb", "sts"}, "services": {"dynamodb", "sts", "s3"}}

# What must not be in a package whatever a requirement drags in.
FORBIDDEN = {"web": ("nas_gateway/", "boto3/", "s3transfer/", "botocore/data/s3/"), "services": ()}

# What must be in a package, or some request ends in an error. No import would miss the pages' templates and style.
_NEEDED = ("app.py", "chalicelib/config.py", "chalice/app.py", "botocore/data/dynamodb/", "pynamodb/models.py")
NEEDED = {
    "web": (
        *_NEEDED,
        "jinja2/",
        "markupsafe/",
        "chalicelib/web/templates/base.html",
        "chalicelib/web/static/depot.css",
    ),
    "services": (*_NEEDED, "nas_gateway/wiring.py"),
}

# AWS Lambda quotas: 50 MB zipped for a direct upload (250 MB unzipped).
MAX_ZIP_BYTES = 50 * 1000 * 1000

# Amazon Linux 2023, which the python3.12 and later runtimes are built on, has glibc 2.34 (PEP 600 tags).
_PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(17, 35)))

# `chalice package` always targets the Python it runs under; this is its command line with that one property replaced.
_CHALICE = """
import sys
from chalice.config import Config
Config.lambda_python_version = property(lambda self: "python" + sys.argv[1])
from chalice.cli import cli
cli(sys.argv[2:], obj={})
"""


class BuildError(Exception):
    """The package cannot be built; the text says why."""


def build(role: str, python: str, out: Path) -> Path:
    """Build one role's package for Lambda's `python` ("3.13"), x86_64; the zip. Raises `BuildError`."""
    folder = BUILD / f"{role}-{python}"
    lay_out(role, folder)
    merge = folder / "resources.json"
    merge.write_text(json.dumps(resources(role), indent=2, sort_keys=True))
    made = folder / "out"
    run_chalice(role, python, folder, merge, made)
    out.mkdir(parents=True, exist_ok=True)
    package = out / f"{role}.zip"
    repack(role, made / "deployment.zip", package)
    template = (made / "sam.json").read_text().replace("./deployment.zip", f"./{role}.zip")
    (out / f"{role}.template.json").write_text(template + "\n")
    return package


def lay_out(role: str, folder: Path) -> None:
    """A Chalice project that holds one role and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "app.py", folder)
    shutil.copytree(ROOT / ".chalice", folder / ".chalice", ignore=shutil.ignore_patterns("deploy*"))
    shutil.copy(ROOT / f"requirements-{role}.txt", folder / "requirements.txt")
    unwanted = {ROOT / "chalicelib" / each for each in WITHOUT[role]}

    def skip(where: str, names: list[str]) -> set[str]:
        return {name for name in names if name in ("__pycache__", "py.typed") or Path(where) / name in unwanted}

    shutil.copytree(ROOT / "chalicelib", folder / "chalicelib", ignore=skip)
    if role == "services":
        # `vendor/` is Chalice's way to ship code beside app.py and chalicelib.
        shutil.copytree(ROOT / "nas_gateway", folder / "vendor" / "nas_gateway", ignore=skip)


def resources(role: str) -> dict[str, Any]:
    """What CloudFormation is to make besides the functions: each role owns its tables."""
    from infra.template import template

    config = json.loads((ROOT / ".chalice" / "config.json").read_text())
    prefix = config["stages"][role]["environment_variables"]["LEDGER_TABLE_PREFIX"]
    return template(role, prefix, owned_models(role), bucket=role == "services")


def owned_models(role: str) -> list[type[Any]]:
    """The tables that a role's stack makes."""
    if role == "web":
        from chalicelib.auth.tables import MODELS as auth

        return list(auth)
    from nas_gateway.wiring import MODELS as gateway

    return list(gateway)


def run_chalice(role: str, python: str, folder: Path, merge: Path, out: Path) -> None:
    wheels = fetch_wheels(folder / "requirements.txt", python)
    command = [sys.executable, "-c", _CHALICE, python, "--project-dir", str(folder), "package"]
    command += ["--stage", role, "--merge-template", str(merge), str(out)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "AWS_", "S3_"))}
    # Chalice asks pip for this Python's wheels first; these make that the target's, from what was fetched, offline.
    env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    env |= {"PIP_PYTHON_VERSION": python, "PIP_IMPLEMENTATION": "cp", "PIP_PLATFORM": " ".join(_PLATFORMS)}
    env |= {"PIP_ONLY_BINARY": ":all:"}
    env |= {"AWS_DEFAULT_REGION": "us-east-1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    # Chalice drops a requirement without a matching wheel, warns, and goes on: such a package fails only when it runs.
    if done.returncode != 0 or "Could not install dependencies" in said:
        raise BuildError(f"chalice package failed for {role}:\n{said.strip()}")


def fetch_wheels(requirements: Path, python: str) -> Path:
    """Every wheel of a lock for the target, hashes checked; kept under .build for the next time."""
    key = hashlib.sha256(requirements.read_bytes() + python.encode()).hexdigest()[:16]
    folder = BUILD / "wheels" / key
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{key}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--require-hashes"]
    command += ["--only-binary", ":all:", "--no-deps", "-r", str(requirements), "-d", str(partial)]
    command += ["--implementation", "cp", "--python-version", python]
    command += [part for platform in _PLATFORMS for part in ("--platform", platform)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise BuildError(f"A wheel for Python {python} cannot be had:\n{done.stderr.strip()}")
    if not folder.is_dir():  # another build may have been faster
        partial.replace(folder)
    return folder


def repack(role: str, made: Path, package: Path) -> None:
    """Copy what is needed, sorted, with fixed times and modes. Raises `BuildError` on forbidden or missing content."""
    with zipfile.ZipFile(made) as source:
        names = sorted(name for name in source.namelist() if _wanted(role, name))
        check_names(role, names)
        with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
            for name in names:
                entry = zipfile.ZipInfo(name)  # 1 January 1980
                entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                target.writestr(entry, source.read(name))
    if package.stat().st_size > MAX_ZIP_BYTES:
        raise BuildError(f"{package.name} is {package.stat().st_size} bytes: over Lambda's {MAX_ZIP_BYTES}")


def _wanted(role: str, name: str) -> bool:
    parts = name.split("/")
    if "__pycache__" in parts or name.endswith("/") or parts[0].endswith(".data"):
        return False
    if parts[0].endswith(".dist-info"):
        # Licences stay with the code they cover; the other records describe an installation that this is not.
        return parts[-1] == "METADATA" or "licen" in name.lower()
    if parts[:2] == ["botocore", "data"] and len(parts) > 3:
        return parts[2] in SERVICE_MODELS[role]
    return not (parts[0] == "boto3" and "examples" in parts)


def check_names(role: str, names: Iterable[str]) -> None:
    names = list(names)
    for forbidden in FORBIDDEN[role]:
        if found := [name for name in names if name.startswith(forbidden)]:
            raise BuildError(f"The {role} package must not hold {found[0]}")
    for needed in NEEDED[role]:
        if not any(name.startswith(needed) for name in names):
            raise BuildError(f"The {role} package lacks {needed}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.package", description="Build the Lambda packages.")
    parser.add_argument("--role", choices=ROLES, action="append", help="default: both")
    parser.add_argument("--python", default="3.13", metavar="X.Y", help="Lambda's Python (default 3.13)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist/")
    options = parser.parse_args(arguments)
    for role in options.role or ROLES:
        try:
            package = build(role, options.python, options.out)
        except BuildError as error:
            print(error, file=sys.stderr)
            return 1
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        print(os.path.relpath(package))
        print(f"  {package.stat().st_size / 1e6:.1f} MB, Python {options.python}, sha256 {digest}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
