"""CloudFormation that `chalice package --merge-template` adds to a role's template: tables, bucket, parameters.

Tables are made from the PynamoDB models, so that they cannot differ from what the code expects. Used by infra.package.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chalicelib.hosting.emf import NAMESPACE, service_of
from chalicelib.limits import LEDGER_RETENTION_DAYS
from chalicelib.metrics import TABLE, Kind, Metric, Watch

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
    if stage == "services":
        resources |= alarms()
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


def alarms() -> dict[str, Any]:
    """An alarm for each metric that can be watched, and the SNS topic that they go to, which somebody should subscribe to."""
    resources: dict[str, Any] = {"AlarmTopic": {"Type": "AWS::SNS::Topic"}}
    for metric in TABLE.values():
        if metric.watch is None:
            continue
        statistic = "Sum" if metric.kind is Kind.COUNTER else "Maximum"
        name = "".join(word.capitalize() for word in metric.name.split("_"))
        resources[f"{name}Alarm"] = {
            "Type": "AWS::CloudWatch::Alarm",
            "Properties": {
                "AlarmDescription": f"{metric.about}. {metric.act}.",
                "Metrics": [_measured(metric, metric.watch, statistic)],
                "ComparisonOperator": "GreaterThanThreshold",
                "Threshold": metric.watch.over,
                "EvaluationPeriods": metric.watch.periods,
                # Where nothing was counted nothing is told.
                "TreatMissingData": "notBreaching",
                "AlarmActions": [{"Ref": "AlarmTopic"}],
            },
        }
    return resources


def _measured(metric: Metric, watch: Watch, statistic: str) -> dict[str, Any]:
    """A plain metric, or with labels a query of CloudWatch Metrics Insights over all their values."""
    service = service_of("services")
    if not metric.labels:
        dimensions = [{"Name": "service", "Value": service}]
        plain = {"Namespace": NAMESPACE, "MetricName": metric.name, "Dimensions": dimensions}
        return {
            "Id": "m",
            "ReturnData": True,
            "MetricStat": {"Metric": plain, "Period": watch.seconds, "Stat": statistic},
        }
    function = {"Sum": "SUM", "Maximum": "MAX"}[statistic]
    where = f"service = '{service}'" + (f" AND {watch.where[0]} = '{watch.where[1]}'" if watch.where else "")
    query = f'SELECT {function}("{metric.name}") FROM "{NAMESPACE}" WHERE {where}'  # noqa: S608 -- of constants alone
    return {"Id": "m", "ReturnData": True, "Expression": query, "Period": watch.seconds}


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
    if attribute := getattr(model.Meta, "ttl", None):
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
