"""Who may do what with the ledger: policies, templates, the unit file, the processes' environments, the settings."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest

from chalicelib.cli import main, serve
from chalicelib.config import Settings
from chalicelib.errors import SecurityError, SettingsError
from chalicelib.limits import LEDGER_RETENTION_DAYS
from infra.local import environment
from infra.template import template
from nas_gateway import wiring
from nas_gateway.ledger.signing import SigningKey
from nas_gateway.ledger.stores import AppendedFile, LockedBucket
from tests.support.ledger_book import KEY

ROOT = Path(__file__).parents[2]
SERVICES = {"SERVER_ROLE": "services", "INTERNAL_API_KEY": "k" * 32, "SESSION_SECRET": "s" * 32}
SEED = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def decided(stage: str, action: str, resource: str) -> bool:
    """What AWS would decide by the stage's policy: an explicit Deny first, then an Allow."""
    document = json.loads((ROOT / ".chalice" / f"policy-{stage}.json").read_text())

    def matches(statement: dict[str, Any]) -> bool:
        resources = statement["Resource"]
        return action in statement["Action"] and any(
            fnmatch.fnmatchcase(resource, each) for each in ([resources] if isinstance(resources, str) else resources)
        )

    effects = {statement["Effect"] for statement in document["Statement"] if matches(statement)}
    return effects == {"Allow"}


PREFIX = {"services": "depot", "dev": "depot-dev"}
PUT_AND_READ = ("PutItem", "Query", "GetItem")
CHANGE = (
    "UpdateItem", "DeleteItem", "BatchWriteItem", "PartiQLUpdate", "PartiQLDelete", "PartiQLInsert", "DeleteTable",
    "UpdateTable", "UpdateTimeToLive", "RestoreTableFromBackup", "Scan",
)  # fmt: skip


@pytest.mark.parametrize("stage", PREFIX)
def test_events_can_be_put_and_queried_and_nothing_else(stage: str) -> None:
    table = f"arn:aws:dynamodb:us-east-1:123456789012:table/{PREFIX[stage]}-phi-file-tracking"
    assert all(decided(stage, f"dynamodb:{action}", table) for action in PUT_AND_READ)
    assert not any(decided(stage, f"dynamodb:{action}", table) for action in CHANGE)
    assert decided(stage, "dynamodb:Query", f"{table}/index/by-day")
    assert not decided(stage, "dynamodb:Scan", f"{table}/index/by-day")


@pytest.mark.parametrize("stage", PREFIX)
def test_checkpoints_can_be_put_and_read_and_nothing_else(stage: str) -> None:
    bucket = f"arn:aws:s3:::{PREFIX[stage]}-ledger-123456789012-us-east-1"
    key = f"{bucket}/checkpoints/000000000001.json"
    for action in ("PutObject", "PutObjectRetention", "GetObjectVersion"):
        assert decided(stage, f"s3:{action}", key)
    assert decided(stage, "s3:ListBucketVersions", bucket)
    for action in (
        "DeleteObject", "DeleteObjectVersion", "BypassGovernanceRetention", "PutObjectLegalHold", "PutObjectAcl",
        "PutObjectVersionAcl", "ReplicateDelete", "ReplicateObject", "RestoreObject", "ObjectOwnerOverrideToBucketOwner",
    ):  # fmt: skip
        assert not decided(stage, f"s3:{action}", key)
    for action in (
        "DeleteBucket",
        "PutBucketObjectLockConfiguration",
        "PutBucketVersioning",
        "PutLifecycleConfiguration",
        "PutBucketPolicy",
        "DeleteBucketPolicy",
        "PutBucketAcl",
        "PutReplicationConfiguration",
        "PutBucketOwnershipControls",
    ):
        assert not decided(stage, f"s3:{action}", bucket)
    # The NAS itself is another matter.
    assert decided(stage, "s3:DeleteObject", f"arn:aws:s3:::{PREFIX[stage]}-nas-123456789012-us-east-1/x")


def test_no_action_of_a_policy_is_a_pattern() -> None:
    """`decided` compares names: `s3:*` or `dynamodb:Put*` would allow what it does not see."""
    for file in (ROOT / ".chalice").glob("policy-*.json"):
        for statement in json.loads(file.read_text())["Statement"]:
            if statement["Effect"] == "Allow":
                assert not [action for action in statement["Action"] if set("*?") & set(action)], file.name
                assert "NotAction" not in statement
                assert "NotResource" not in statement


def test_the_web_tier_has_no_right_to_the_ledger() -> None:
    table = "arn:aws:dynamodb:us-east-1:123456789012:table/depot-phi-file-tracking"
    assert not any(decided("web", f"dynamodb:{action}", table) for action in (*PUT_AND_READ, *CHANGE))


@pytest.mark.parametrize(("stage", "prefix"), [("services", "depot"), ("dev", "depot-dev")])
def test_cloudformation_makes_a_bucket_that_the_policy_means_and_that_locks(stage: str, prefix: str) -> None:
    made = template(stage, prefix, [], bucket=True)
    bucket = made["Resources"]["LedgerBucket"]
    assert bucket["DeletionPolicy"] == "Retain"
    properties = bucket["Properties"]
    assert properties["BucketName"]["Fn::Sub"].startswith(f"{prefix}-ledger-")
    assert properties["ObjectLockEnabled"] is True
    rule = properties["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
    assert rule == {"Mode": "COMPLIANCE", "Days": LEDGER_RETENTION_DAYS}
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    variables = made["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["LEDGER_CHECKPOINT_BUCKET"] == {"Ref": "LedgerBucket"}
    assert made["Parameters"]["LedgerSigningKey"]["NoEcho"]


def test_the_web_stack_has_neither_key_nor_bucket() -> None:
    assert "Ledger" not in json.dumps(template("web", "depot", [], bucket=False))


def test_the_unit_makes_the_file_of_checkpoints_append_only_before_the_service_starts() -> None:
    unit = (ROOT / "infra" / "server" / "depot-services.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStartPre=")]
    assert line.startswith("ExecStartPre=+/bin/sh -c")
    assert line.rstrip("'").endswith("chattr +a $f")
    assert "/var/lib/depot-ledger/checkpoints.jsonl" in line
    assert "LEDGER_CHECKPOINT_DIR=/var/lib/depot-ledger " in unit
    assert "\nStateDirectory=depot-ledger " in unit
    assert "\nCapabilityBoundingSet=\n" in unit  # so not CAP_LINUX_IMMUTABLE


# --- processes ------------------------------------------------------------------------------------------------------


def test_the_web_tiers_process_forgets_the_key_and_the_store() -> None:
    environ = {
        "LEDGER_SIGNING_KEY": "x", "LEDGER_SIGNING_KEY_FILE": "/k", "LEDGER_CHECKPOINT_DIR": "/c",
        "LEDGER_CHECKPOINT_BUCKET": "b", "LEDGER_TABLE_PREFIX": "depot",
    }  # fmt: skip
    serve.prepare("web", environ)
    assert environ == {"SERVER_ROLE": "web", "LEDGER_TABLE_PREFIX": "depot"}


def test_the_local_stack_passes_nothing_of_the_ledger_on() -> None:
    assert environment.inherited({"LEDGER_SIGNING_KEY": "x", "LEDGER_CHECKPOINT_DIR": "/c", "HOME": "/"}) == {
        "HOME": "/"
    }


def settings(**more: str) -> Settings:
    return Settings.from_env({**SERVICES, "NAS_WORKSPACE_PATH": "/mnt/nas", **more})


def test_a_production_without_key_or_store_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    (warning,) = settings(DEPOT_ENV="production").warnings
    assert warning.startswith("The ledger gets no signed checkpoints: set LEDGER_SIGNING_KEY_FILE")
    assert settings().warnings == ()
    good = {"LEDGER_SIGNING_KEY": SEED, "LEDGER_CHECKPOINT_DIR": "/var/lib/depot-ledger"}
    assert settings(DEPOT_ENV="production", **good).warnings == ()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "LEDGER_CHECKPOINT_BUCKET or LEDGER_CHECKPOINT_DIR required"),
        ({"LEDGER_CHECKPOINT_DIR": "{}/c"}, "LEDGER_SIGNING_KEY_FILE or LEDGER_SIGNING_KEY required"),
        ({"LEDGER_CHECKPOINT_DIR": "{}/c", "LEDGER_SIGNING_KEY": "x"}, "LEDGER_SIGNING_KEY must be an Ed25519"),
        ({"LEDGER_CHECKPOINT_DIR": "{}/c", "LEDGER_SIGNING_KEY_FILE": "{}/none"}, "names a file that is not there"),
        ({"LEDGER_CHECKPOINT_DIR": "c"}, "LEDGER_CHECKPOINT_DIR must be an absolute path"),
        ({"LEDGER_CHECKPOINT_DIR": "/c", "LEDGER_CHECKPOINT_BUCKET": "b"}, "exclude each other"),
        ({"LEDGER_SIGNING_KEY": SEED, "LEDGER_SIGNING_KEY_FILE": "/k"}, "exclude each other"),
        ({"LEDGER_CHECKPOINT_DAYS": "0"}, "LEDGER_CHECKPOINT_DAYS must be a number above 0"),
    ],
)
def test_depot_ledger_checkpoint_names_what_is_missing(
    environ: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("LEDGER_CHECKPOINT_BUCKET", "LEDGER_CHECKPOINT_DIR", "LEDGER_SIGNING_KEY", "LEDGER_SIGNING_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**SERVICES, "DEPOT_ENV": "production", "NAS_WORKSPACE_PATH": "/mnt", **environ}.items():
        monkeypatch.setenv(name, value.replace("{}", str(tmp_path)))
    assert main(["ledger", "checkpoint"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("depot: ")
    assert told.count("\n") == 1
    assert said in told


def test_development_makes_the_key_that_its_setting_names(tmp_path: Path) -> None:
    named = {"LEDGER_SIGNING_KEY_FILE": str(tmp_path / "new" / "key.pem")}
    with pytest.raises(SettingsError):
        wiring.signing_key(settings(DEPOT_ENV="production", **named))
    made = wiring.signing_key(settings(**named))
    assert wiring.signing_key(settings(DEPOT_ENV="production", **named)).public == made.public
    assert wiring.signing_key(settings(LEDGER_SIGNING_KEY=SEED)).public == KEY.public
    assert SEED not in repr(settings(LEDGER_SIGNING_KEY=SEED))
    assert isinstance(made, SigningKey)


def test_the_store_is_the_one_that_the_settings_name(tmp_path: Path) -> None:
    assert isinstance(wiring.checkpoint_store(settings(LEDGER_CHECKPOINT_DIR=str(tmp_path))), AppendedFile)
    bucket = settings(LEDGER_CHECKPOINT_BUCKET="depot-ledger", S3_ENDPOINT="http://127.0.0.1:1", AWS_ACCESS_KEY_ID="x")
    assert isinstance(wiring.checkpoint_store(bucket), LockedBucket)


def test_the_web_role_gets_nothing_of_it() -> None:
    web = {"SERVER_ROLE": "web", "SERVICES_URL": "http://127.0.0.1:1", "LEDGER_SIGNING_KEY": SEED}
    made = Settings.from_env({**SERVICES, **web, "LEDGER_CHECKPOINT_DIR": "/c"})
    assert not made.ledger_signing_key
    assert made.ledger_checkpoints is None
    with pytest.raises(SecurityError):
        wiring.bind_ledger(made)
