"""What an upload left behind on the NAS besides finished files: staged files of the local driver, open multipart uploads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.stack import RunningStack


def files_on(stack: RunningStack) -> list[str]:
    """Every file or key on the NAS that a reader could see or that takes room, staged ones and open uploads included."""
    config = json.loads(stack.document["env"]["STORAGE_CONFIG"])["disks"]
    found: set[str] = set()
    for disk in config.values():
        found |= _local(disk) if disk["driver"] == "local" else _s3(disk, stack.document["env"])
    return sorted(found)


def _local(disk: dict[str, Any]) -> set[str]:
    root = Path(disk["root"])
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} if root.exists() else set()


def empty_bucket(stack: RunningStack) -> None:
    """Remove the stack's buckets on a real store, with all that is in them. A folder goes with the test's own."""
    env = stack.document["env"]
    disks = [disk for disk in json.loads(env["STORAGE_CONFIG"])["disks"].values() if disk["driver"] == "s3"]
    for bucket in {disk["bucket"] for disk in disks}:
        client = _client(disks[0], env)
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for upload in page.get("Uploads", ()):
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=item["Key"])
        client.delete_bucket(Bucket=bucket)


def store_client(stack: RunningStack) -> Any:
    """A plain client of a stack's S3 store."""
    env = stack.document["env"]
    disks = json.loads(env["STORAGE_CONFIG"])["disks"].values()
    return _client(next(disk for disk in disks if disk["driver"] == "s3"), env)


def _client(disk: dict[str, Any], env: dict[str, str]) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=disk.get("endpoint") or env["S3_ENDPOINT"],
        aws_access_key_id=disk.get("access_key") or env["S3_ACCESS_KEY"],
        aws_secret_access_key=disk.get("secret_key") or env["S3_SECRET_KEY"],
        region_name=disk.get("region", "us-east-1"),
        config=Config(
            signature_version="s3v4", s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
        ),
    )


def _s3(disk: dict[str, Any], env: dict[str, str]) -> set[str]:
    client = _client(disk, env)
    prefix = f"{disk['prefix']}/" if disk.get("prefix") else ""
    keys: set[str] = set()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=disk["bucket"], Prefix=prefix):
        keys |= {item["Key"] for item in page.get("Contents", ())}
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=disk["bucket"], Prefix=prefix):
        keys |= {f"multipart:{item['Key']}" for item in page.get("Uploads", ())}
    return keys
