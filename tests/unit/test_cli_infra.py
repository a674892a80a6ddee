"""What is deployed besides code: tables, policies, locks, service units, containers. Compared with what the code needs."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto import mock_aws

from chalicelib import dynamo
from chalicelib.auth import tables as auth
from infra import package
from infra.template import table, template
from nas_gateway import wiring

ROOT = Path(__file__).resolve().parents[2]
CONFIG = json.loads((ROOT / ".chalice" / "config.json").read_text())
STAGES = ("web", "services", "dev")
CHANGING = ("UpdateItem", "DeleteItem", "BatchWriteItem", "PartiQLUpdate", "PartiQLDelete", "*")


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [*auth.MODELS, *wiring.MODELS], ids=lambda model: model.Meta.suffix)
def test_cloudformation_makes_the_same_table_as_the_code(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        dynamo.bind("template", "us-east-1", model)
        dynamo.create(model)
        made = model.describe_table()
    planned = table(model, "template")["Properties"]
    assert planned["TableName"] == made["TableName"]
    # CloudFormation refuses a RANGE key before the HASH key; DynamoDB reports them in that order.
    assert planned["KeySchema"] == sorted(made["KeySchema"], key=lambda key: key["KeyType"])

    def by_name(items: Any) -> dict[str, Any]:
        return {item["AttributeName"]: item["AttributeType"] for item in items}

    def indexes(items: Any) -> dict[str, Any]:
        return {
            item["IndexName"]: (
                sorted((key["KeyType"], key["AttributeName"]) for key in item["KeySchema"]),
                item["Projection"]["ProjectionType"],
            )
            for item in items
        }

    assert by_name(planned["AttributeDefinitions"]) == by_name(made["AttributeDefinitions"])
    assert indexes(planned.get("GlobalSecondaryIndexes", [])) == indexes(made.get("GlobalSecondaryIndexes", []))


def test_tables_survive_the_stack_and_can_be_restored() -> None:
    resources = template("services", "depot", wiring.MODELS, bucket=True)["Resources"]
    kept = [resource for resource in resources.values() if resource["Type"].startswith(("AWS::DynamoDB", "AWS::S3"))]
    assert len(kept) == len(wiring.MODELS) + 2
    for resource in kept:
        assert resource["DeletionPolicy"] == "Retain"
        if resource["Type"] == "AWS::DynamoDB::Table":
            assert resource["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
            assert resource["Properties"]["DeletionProtectionEnabled"]
    public = resources["NasBucket"]["Properties"]["PublicAccessBlockConfiguration"]
    assert set(public.values()) == {True}


def test_every_table_is_made_by_exactly_one_stack() -> None:
    owned = [*package.owned_models("web"), *package.owned_models("services")]
    assert sorted(model.Meta.suffix for model in owned) == sorted(  # type: ignore[attr-defined]
        model.Meta.suffix  # type: ignore[attr-defined]
        for model in [*auth.MODELS, *wiring.MODELS]
    )


def test_secrets_are_parameters_that_are_not_shown() -> None:
    made = template("web", "depot", [], bucket=False)
    assert made["Parameters"]["InternalApiKey"]["NoEcho"]
    assert made["Parameters"]["SessionSecret"]["NoEcho"]
    assert "StorageConfig" not in made["Parameters"]
    variables = made["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["INTERNAL_API_KEY"] == {"Ref": "InternalApiKey"}


# --- stages and policies -------------------------------------------------------------------------------------------


def statements(stage: str) -> list[dict[str, Any]]:
    policy = json.loads((ROOT / ".chalice" / CONFIG["stages"][stage]["iam_policy_file"]).read_text())
    return list(policy["Statement"])


def granted(stage: str, effect: str = "Allow") -> Iterator[tuple[str, str]]:
    """(action, resource) pairs of a stage's policy."""
    for statement in statements(stage):
        if statement["Effect"] == effect:
            resources = statement["Resource"]
            for resource in [resources] if isinstance(resources, str) else resources:
                yield from ((action, resource) for action in statement["Action"])


def arn(stage: str, suffix: str) -> str:
    prefix = CONFIG["stages"][stage]["environment_variables"]["LEDGER_TABLE_PREFIX"]
    return f"arn:aws:dynamodb:us-east-1:123456789012:table/{prefix}-{suffix}"


def allowed(stage: str, suffix: str) -> set[str]:
    """What a stage may do with a table, by itself (indexes aside)."""
    target = arn(stage, suffix)
    return {
        action.removeprefix("dynamodb:") for action, resource in granted(stage) if fnmatch.fnmatchcase(target, resource)
    }


def test_no_stage_leaves_its_policy_to_a_generator_or_shows_a_secret() -> None:
    assert CONFIG["autogen_policy"] is False
    assert set(CONFIG["stages"]) == set(STAGES)
    for name, stage in CONFIG["stages"].items():
        assert "autogen_policy" not in stage
        variables = stage["environment_variables"]
        assert variables["SERVER_ROLE"] == {"web": "web", "services": "services", "dev": "testing"}[name]
        assert not [key for key in variables if "KEY" in key or "SECRET" in key]


@pytest.mark.parametrize("stage", STAGES)
def test_no_policy_grants_by_wildcard(stage: str) -> None:
    for action, resource in granted(stage):
        assert not action.endswith("*"), action
        assert resource != "*", action
        assert "Scan" not in action


@pytest.mark.parametrize("stage", ["services", "dev"])
def test_the_ledger_can_be_appended_to_and_read_but_never_changed(stage: str) -> None:
    rights = allowed(stage, "phi-file-tracking")
    assert {"PutItem", "Query", "GetItem"} <= rights
    assert not rights & set(CHANGING)
    denied = {action.removeprefix("dynamodb:") for action, _ in granted(stage, "Deny")}
    assert {"UpdateItem", "DeleteItem", "BatchWriteItem", "DeleteTable"} <= denied


def test_the_web_tier_reaches_only_what_signing_in_needs() -> None:
    reached = {resource.partition("table/")[2] for action, resource in granted("web") if action.startswith("dynamodb:")}
    assert {name.partition("/")[0] for name in reached} == {
        "depot-users",
        "depot-sessions",
        "depot-tokens",
        "depot-rates",
    }
    assert not [action for action, _ in granted("web") if action.startswith("s3:")]
    assert not allowed("web", "users") & {"PutItem", "DeleteItem"}
    for model in wiring.MODELS:
        assert not allowed("web", model.Meta.suffix)  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", wiring.MODELS, ids=lambda model: model.Meta.suffix)
def test_the_services_tier_reaches_each_of_its_tables_and_their_indexes(model: Any) -> None:
    # Receipts are written once and read by plan.
    needed = {"Query", "PutItem"} if model.Meta.suffix == "cleanup-receipts" else {"GetItem", "PutItem"}
    for stage in ("services", "dev"):
        assert needed <= allowed(stage, model.Meta.suffix)
        if model._indexes:
            index = f"{arn(stage, model.Meta.suffix)}/index/any"
            assert any(
                action == "dynamodb:Query" and fnmatch.fnmatchcase(index, resource)
                for action, resource in granted(stage)
            )


def test_users_are_never_deleted_and_only_the_services_tier_makes_them() -> None:
    assert "PutItem" in allowed("services", "users")
    assert not allowed("web", "users") & {"PutItem", "DeleteItem"}
    assert "DeleteItem" not in allowed("services", "users")
    assert "PutItem" not in allowed("services", "sessions"), "who signs in does so at the web tier"


# --- requirements --------------------------------------------------------------------------------------------------

LOCKS = ("requirements", "requirements-dev", "requirements-web", "requirements-services")
FIXED = {
    "chalice", "boto3", "moto", "pynamodb", "requests", "aws-lambda-powertools", "pytest", "localstack-client",
}  # fmt: skip


def asked(name: str) -> set[str]:
    lines = (ROOT / f"{name}.in").read_text().splitlines()
    return {re.split(r"[\s\[>=<]", line)[0] for line in lines if line and not line.startswith(("#", "-"))}


def pinned(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ \\;]+)", (ROOT / f"{name}.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_with_hashes(name: str) -> None:
    assert asked(name) <= set(pinned(name))
    blocks = re.split(r"^(?=[a-z])", (ROOT / f"{name}.txt").read_text(), flags=re.MULTILINE)
    assert not [block.split()[0] for block in blocks if "==" in block and "--hash=sha256:" not in block]


@pytest.mark.parametrize("name", LOCKS[1:])
def test_all_locks_agree_on_versions(name: str) -> None:
    base, other = pinned("requirements"), pinned(name)
    assert {key: other[key] for key in base.keys() & other.keys()} == {
        key: base[key] for key in base.keys() & other.keys()
    }


def test_the_fixed_packages_are_all_there() -> None:
    assert asked("requirements") | asked("requirements-dev") >= FIXED


@pytest.mark.parametrize("name", LOCKS[:2])
def test_every_requirement_says_why_it_is_there(name: str) -> None:
    lines = [
        line for line in (ROOT / f"{name}.in").read_text().splitlines() if line and not line.startswith(("#", "-"))
    ]
    assert not [line for line in lines if "#" not in line]


def test_everything_that_our_code_imports_is_required() -> None:
    """And installed by requirements.txt, not by accident through a tool of the developers' environment."""
    own = {"app", "chalicelib", "nas_gateway", "infra"}
    distributions = {
        "aws_lambda_powertools": "aws-lambda-powertools",
        "argon2": "argon2-cffi",
        "prometheus_client": "prometheus-client",
    }
    found = set[str]()
    for path in [ROOT / "app.py", *(file for name in own - {"app"} for file in (ROOT / name).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    foreign = {distributions.get(name, name) for name in found - own - sys.stdlib_module_names}
    assert foreign <= set(pinned("requirements"))
    assert {"chalice", "uvicorn", "argon2-cffi"} <= foreign


def test_app_py_only_chooses_a_role() -> None:
    tree = ast.parse((ROOT / "app.py").read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} <= {
        "__future__",
        "functools",
        "typing",
        "chalicelib",
        "nas_gateway",
    }
    # At the top level nothing of the services tier: the web package does not have it.
    top = {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not [module for module in top if module.startswith("nas_gateway")]


# --- service units, containers, proxy ------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """Settings of a systemd unit; a name may occur several times."""
    settings: dict[str, list[str]] = {}
    for line in (ROOT / "infra" / "server" / f"{name}.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


@pytest.mark.parametrize("name", ["depot-web", "depot-services"])
def test_both_units_are_locked_down(name: str) -> None:
    settings = unit(name)
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["NoNewPrivileges"] == settings["PrivateTmp"] == settings["PrivateDevices"] == ["yes"]
    assert settings["CapabilityBoundingSet"] == [""]
    assert settings["User"][0] not in ("", "root")
    assert int(settings["TimeoutStopSec"][0]) > 33  # Settings.drain_timeout and what follows it


def test_only_the_services_unit_may_write_anywhere() -> None:
    assert "ReadWritePaths" not in unit("depot-web")
    assert unit("depot-web")["LimitFSIZE"] == ["0"]
    assert unit("depot-services")["ReadWritePaths"] == ["/mnt/nas/depot"]


def test_the_web_container_is_read_only_and_shares_no_network_with_the_nas() -> None:
    compose = yaml.safe_load((ROOT / "localstack-compose.yml").read_text())
    services = compose["services"]
    web = services["web"]
    assert web["read_only"]
    assert web["cap_drop"] == ["ALL"]
    assert "tmpfs" not in web
    assert "volumes" not in web
    assert not set(web["networks"]) & set(services["nas"]["networks"])
    assert not [name for name in web["environment"] if name.startswith(("S3_", "NAS", "STORAGE"))]
    assert not [name for name, service in services.items() if name != "web" and "ports" in service]


def test_the_sample_proxy_keeps_no_body_and_logs_no_query() -> None:
    text = (ROOT / "infra" / "server" / "nginx.conf").read_text()
    for directive in ("proxy_request_buffering off;", "proxy_buffering off;", "proxy_max_temp_file_size 0;"):
        assert directive in text
    log_format = text.split("log_format", 1)[1].split(";", 1)[0]
    assert not re.search(r"\$request\b(?!_)|\$request_uri|\$args|\$query_string|\$http_referer", log_format)
