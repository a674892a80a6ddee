"""CloudFormation that `chalice package --merge-template` adds to a role's template: tables, bucket, parameters.

Tables are made from the PynamoDB models, so that they cannot differ from what the code expects. Used by infra.package.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chalicelib.limits import LEDGER_RETENTION_DAYS

# Seconds-since-epoch attributes that DynamoDB's TTL may expire rows by: table suffix -> attribute.
TTL = {"sessions": "expires_at"}

_WEB, _SERVICES = ("web", "dev"), ("services", "dev")

# Settings that are given at deployment: (variable, parameter, secret, stages, what it is).
PARAMETERS = (
    ("INTERNAL_API_KEY", "InternalApiKey", True, ("web", "services", "dev"), "The tiers' shared key, 64 hex digits"),
    ("SESSION_SECRET", "SessionSecret", True, ("web", "services", "dev"), "Signs sessions, 64 hex digits"),
    ("SERVICES_URL", "ServicesUrl", False, _WEB, "Where the services tier answers, https://"),
    ("LEDGER_SIGNING_KEY", "LedgerSigningKey", True, _SERVICES, "Signs the ledger's checkpoints: base64 of 32 bytes"),
    ("STORAGE_CONFIG", "StorageConfig", False, _SERVICES, "The disks, JSON; S3 keys are better left to the role"),
)


def template(stage: str, prefix: str, models: Iterable[type[Any]], *, bucket: bool) -> dict[str, Any]:
    """What is merged into the template of one stage; `models` are the tables that this stage owns."""
    parameters, variables = dict[str, Any](), dict[str, Any]()
    for variable, name, secret, stages, about in PARAMETERS:
        if stage in stages:
            parameters[name] = {"Type": "String", "Description": about, **({"NoEcho": True} if secret else {})}
            variables[variable] = {"Ref": name}
    resources = {_logical_id(model): table(model, prefix) for model in models}
    if bucket:
        resources["NasBucket"] = nas_bucket(prefix)
        resources["LedgerBucket"] = ledger_bucket(prefix)
        variables["LEDGER_CHECKPOINT_BUCKET"] = {"Ref": "LedgerBucket"}
    return {
        "Parameters": parameters,
        # SAM applies Globals to every function, the scheduled ones too.
        "Globals": {"Function": {"Environment": {"Variables": variables}}},
        "Resources": resources,
    }


def table(model: type[Any], prefix: str) -> dict[str, Any]:
    """One AWS::DynamoDB::Table: on-demand, encrypted, restorable, and kept when the stack is deleted."""
    schema = model._get_schema()
    properties = {
        "TableName": f"{prefix}-{model.Meta.suffix}",
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": sorted(schema["attribute_definitions"], key=lambda each: each["AttributeName"]),
        "KeySchema": _keys(schema["key_schema"]),
        "SSESpecification": {"SSEEnabled": True},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
        "DeletionProtectionEnabled": True,
    }
    indexes = [
        {
            "IndexName": index["index_name"],
            "KeySchema": _keys(index["key_schema"]),
            "Projection": index["projection"],
        }
        for index in schema.get("global_secondary_indexes", ())
    ]
    if indexes:
        properties["GlobalSecondaryIndexes"] = sorted(indexes, key=lambda each: each["IndexName"])
    if attribute := TTL.get(model.Meta.suffix):
        properties["TimeToLiveSpecification"] = {"AttributeName": attribute, "Enabled": True}
    return {
        "Type": "AWS::DynamoDB::Table",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": properties,
    }


def ledger_bucket(prefix: str) -> dict[str, Any]:
    """Where the ledger's checkpoints go: private, encrypted, and what is in it can be neither changed nor removed.

    Depot asks for the lock with every object; the default is for whatever else is put there.
    """
    bucket = nas_bucket(prefix)
    del bucket["Properties"]["LifecycleConfiguration"]
    bucket["Properties"] |= {
        "BucketName": {"Fn::Sub": f"{prefix}-ledger-${{AWS::AccountId}}-${{AWS::Region}}"},
        "ObjectLockEnabled": True,
        "ObjectLockConfiguration": {
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": LEDGER_RETENTION_DAYS}},
        },
        "VersioningConfiguration": {"Status": "Enabled"},
    }
    return bucket


def nas_bucket(prefix: str) -> dict[str, Any]:
    """A bucket for sites whose NAS is S3 itself: private, encrypted; abandoned multipart uploads end after 7 days.

    Depot's sweeper ends them sooner; the rule is for the day it does not run.
    """
    return {
        "Type": "AWS::S3::Bucket",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "BucketName": {"Fn::Sub": f"{prefix}-nas-${{AWS::AccountId}}-${{AWS::Region}}"},
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "LifecycleConfiguration": {
                "Rules": [
                    {"Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
                ]
            },
        },
    }


def _keys(schema: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    # CloudFormation wants HASH before RANGE; the model gives them by attribute name.
    return sorted(schema, key=lambda each: each["KeyType"])


def _logical_id(model: type[Any]) -> str:
    return "".join(word.capitalize() for word in str(model.Meta.suffix).split("-")) + "Table"
