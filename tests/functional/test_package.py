"""What the packages hold, and what they therefore cannot do.

The laid-out projects are looked at in every run; the zips, which need wheels from PyPI, in the slow one.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import package

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"

# Modules that could reach the NAS, its bucket, or the code that does.
NAS_MODULES = {"nas_gateway", "boto3", "s3transfer", "s3fs", "smbclient", "paramiko"}

# Calls that create or change files, whatever they are called on.
WRITING_NAMES = {
    "write_bytes", "write_text", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "mkstemp", "mkdtemp",
    "TemporaryDirectory", "mkdir", "makedirs", "copyfile", "copytree", "truncate", "touch", "symlink_to", "hardlink_to",
}  # fmt: skip


def own_code(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def writes(tree: ast.Module) -> Iterator[str]:
    """Calls of our own code that open a file for writing, or could: a mode that is no constant counts as one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in WRITING_NAMES:
            yield f"{name} in line {node.lineno}"
        if name != "open" or (isinstance(node.func, ast.Attribute) and _is_storage(node.func.value)):
            continue
        if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "os":
            yield f"os.open in line {node.lineno}"
            continue
        at = 0 if isinstance(node.func, ast.Attribute) else 1
        modes = [*node.args[at : at + 1], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        for mode in modes:
            if not isinstance(mode, ast.Constant) or set(str(mode.value)) & set("wax+"):
                yield f"open for writing in line {node.lineno}"


def _is_storage(value: ast.expr) -> bool:
    """`storage.open(path, range)` and the like are the storage contract's, not the file system's."""
    text = ast.unparse(value).lower()
    return any(word in text for word in ("storage", "catalog", "sessions", "driver", "disk", "self"))


def test_the_scanner_itself_finds_what_it_is_for() -> None:
    bad = "import boto3\nopen(p, 'wb')\nopen(p, mode)\nPath(p).open('a')\nos.open(p, 1)\ntempfile.mkstemp()\n"
    tree = ast.parse(bad)
    assert list(imported(tree)) == ["boto3"]
    assert len(list(writes(tree))) == 5
    assert not list(writes(ast.parse("open(p)\nopen(p, 'rb')\nself.storage.open(path, range)\n")))


@pytest.fixture(scope="module")
def web_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "web"
    package.lay_out("web", folder)
    return folder


def test_the_web_project_holds_no_code_of_the_services_tier(web_project: Path) -> None:
    assert not (web_project / "vendor").exists()
    assert not list(web_project.rglob("nas_gateway*"))
    assert (web_project / "chalicelib" / "web").is_dir()


def test_nothing_in_the_web_tier_imports_what_could_reach_the_nas(web_project: Path) -> None:
    found = {
        f"{path}: {name}"
        for path, tree in own_code(web_project)
        for name in imported(tree)
        # app.py names the services tier's modules inside `if role in (services, testing)`, which are not in the package.
        if name in NAS_MODULES and path.name != "app.py"
    }
    assert not found


def test_nothing_in_the_web_tier_opens_a_file_for_writing(web_project: Path) -> None:
    found = [f"{path}: {what}" for path, tree in own_code(web_project) for what in writes(tree)]
    # The sandbox opens folders to name them to Landlock (O_PATH), and tries to create a file to see that it cannot.
    allowed = tuple(f"chalicelib/hosting/{name}.py: os.open" for name in ("landlock", "sandbox"))
    assert [line for line in found if not line.startswith(allowed)] == []


def test_no_requirement_of_the_web_package_is_an_s3_client() -> None:
    names = {line.split("==")[0] for line in (package.ROOT / "requirements-web.txt").read_text().splitlines()}
    assert "pynamodb" in names
    assert not names & {"boto3", "s3transfer", "s3fs", "minio"}


@pytest.mark.parametrize("bad", ["nas_gateway/wiring.py", "boto3/__init__.py", "botocore/data/s3/2006/service-2.json"])
def test_a_web_package_with_a_way_to_the_nas_is_not_built(bad: str) -> None:
    needed = [*package.NEEDED["web"]]
    package.check_names("web", needed)
    with pytest.raises(package.BuildError, match="must not hold"):
        package.check_names("web", [*needed, bad])


@pytest.mark.parametrize("name", ["chalicelib/web/templates/base.html", "chalicelib/web/static/depot.css", "jinja2/"])
def test_a_web_package_that_could_show_no_page_is_not_built(name: str) -> None:
    with pytest.raises(package.BuildError, match=f"lacks {name}"):
        package.check_names("web", [needed for needed in package.NEEDED["web"] if needed != name])


def test_a_dropped_requirement_fails_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Chalice only warns when it finds no wheel; it exits 0.
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setattr(package, "fetch_wheels", lambda *_: wheels)
    monkeypatch.setattr(package, "_CHALICE", 'print("Could not install dependencies:\\ncffi==1")')
    with pytest.raises(package.BuildError, match="cffi==1"):
        package.run_chalice("web", HERE, tmp_path, tmp_path / "resources.json", tmp_path / "out")


# --- the zips ------------------------------------------------------------------------------------------------------

EVENT = {
    "resource": "/health",
    "path": "/health",
    "httpMethod": "GET",
    "headers": {"Host": "depot.example.org"},
    "multiValueHeaders": {"Host": ["depot.example.org"]},
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "pathParameters": None,
    "stageVariables": None,
    "requestContext": {
        "resourcePath": "/health",
        "httpMethod": "GET",
        "path": "/api/health",
        "requestId": "00000000-0000-4000-8000-000000000001",
        "identity": {"sourceIp": "192.0.2.1"},
    },
    "body": None,
    "isBase64Encoded": False,
}

# Runs with `python -I -S`: no site-packages, no PYTHONPATH, no current folder. Only the package and the standard library.
INVOKE = """
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import app
answer = app.app(json.loads(sys.argv[2]), None)
loaded = sorted({name.split(".")[0] for name in sys.modules})
foreign = sorted(
    str(module.__file__) for module in sys.modules.values()
    if getattr(module, "__file__", None) and "site-packages" in str(module.__file__)
)
print(json.dumps({"answer": answer, "loaded": loaded, "foreign": foreign}))
"""


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both packages, built for the Python that runs the tests so that it can import them."""
    out = tmp_path_factory.mktemp("dist")
    return {role: package.build(role, HERE, out) for role in package.ROLES}


def invoke(zipped: Path, folder: Path, event: dict[str, object], env: dict[str, str]) -> dict[str, object]:
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(folder)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", INVOKE, str(folder), json.dumps(event)],
        env={"AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", **env},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_the_web_zip_holds_nothing_that_can_reach_the_nas(zips: dict[str, Path]) -> None:
    with zipfile.ZipFile(zips["web"]) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert not tops & NAS_MODULES
    services = {name.split("/")[2] for name in names if name.startswith("botocore/data/") and name.count("/") > 2}
    assert services == {"dynamodb", "sts"}
    assert zips["web"].stat().st_size < package.MAX_ZIP_BYTES


@pytest.mark.slow
def test_the_web_zip_answers_under_lambda_with_nothing_else_installed(zips: dict[str, Path], tmp_path: Path) -> None:
    env = {"SERVER_ROLE": "web", "INTERNAL_API_KEY": "k" * 64, "SERVICES_URL": "http://127.0.0.1:9"}
    result = invoke(zips["web"], tmp_path / "web", EVENT, env)
    assert result["foreign"] == []
    assert not set(result["loaded"]) & NAS_MODULES  # type: ignore[call-overload]
    answer = result["answer"]
    # No services tier at that address: the honest answer is that this tier cannot do its job.
    assert answer["statusCode"] == 503  # type: ignore[index]
    assert json.loads(answer["body"])["server_role"] == "web"  # type: ignore[index]


@pytest.mark.slow
def test_the_services_zip_answers_under_lambda_with_nothing_else_installed(
    zips: dict[str, Path], tmp_path: Path
) -> None:
    path = "/internal/storage/exists"
    event = {**EVENT, "resource": path, "path": path, "headers": {"X-API-Key": "wrong"}}
    event["multiValueHeaders"] = {"X-API-Key": ["wrong"]}
    event["requestContext"] = {**EVENT["requestContext"], "resourcePath": path}  # type: ignore[dict-item]
    env = {"SERVER_ROLE": "services", "INTERNAL_API_KEY": "k" * 64, "NAS_WORKSPACE_PATH": str(tmp_path / "nas")}
    result = invoke(zips["services"], tmp_path / "services", event, env)
    assert result["foreign"] == []
    # 401, not 500: everything that a request needs was imported, and the key was looked at.
    assert result["answer"]["statusCode"] == 401  # type: ignore[index]


@pytest.mark.slow
def test_each_job_is_a_function_with_a_rule_time_to_work_and_the_tiers_own_rights(zips: dict[str, Path]) -> None:
    from nas_gateway.jobs.standard import PLANS

    def resources(role: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = json.loads(zips[role].with_name(f"{role}.template.json").read_text())
        return found["Resources"]

    services = resources("services")
    fired = {
        resource["Properties"]["Handler"].removeprefix("app.job_"): resource["Properties"]
        for resource in services.values()
        if resource["Type"] == "AWS::Serverless::Function" and "Schedule" in json.dumps(resource["Properties"])
    }
    assert set(fired) == {plan.name for plan in PLANS}
    policy = json.loads((package.ROOT / ".chalice" / "policy-services.json").read_text())
    for plan in PLANS:
        function = fired[plan.name]
        (rule,) = function["Events"].values()
        assert rule["Type"] == "Schedule"
        assert re.fullmatch(r"cron\(\d+(/5)? \* \* \* \? \*\)", rule["Properties"]["Schedule"])
        assert (function["Timeout"], function["MemorySize"]) == (900, 1024)
        assert function["Environment"]["Variables"]["SERVER_ROLE"] == "services"
        role = services[function["Role"]["Fn::GetAtt"][0]]["Properties"]
        assert [given["PolicyDocument"] for given in role["Policies"]] == [policy]
    assert services["APIHandler"]["Properties"]["Timeout"] == 29
    assert not [name for name, resource in resources("web").items() if "Schedule" in json.dumps(resource)]


@pytest.mark.slow
def test_the_same_sources_give_the_same_bytes(zips: dict[str, Path], tmp_path: Path) -> None:
    again = package.build("web", HERE, tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(zips["web"].read_bytes()).digest()
