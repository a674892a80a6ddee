"""The other side of every ratio: boto3 straight to the same store. Run as a process of its own, so that it shares nothing.

python -m bench.store upload FILE KEY | download KEY      prints the seconds of the call alone
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

MIB = 1024 * 1024


def client() -> Any:
    """As the services tier configures its own: the same signature, addressing and checksums."""
    return boto3.client(
        "s3",
        endpoint_url=os.environ["S3_ENDPOINT"],
        aws_access_key_id=os.environ["S3_ACCESS_KEY"],
        aws_secret_access_key=os.environ["S3_SECRET_KEY"],
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def empty(bucket: str) -> None:
    """Delete a bucket's objects (the first 1,000) and abort the uploads that were left open in it."""
    store = client()
    for found in store.list_objects_v2(Bucket=bucket).get("Contents", []):
        store.delete_object(Bucket=bucket, Key=found["Key"])
    for left in store.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        store.abort_multipart_upload(Bucket=bucket, Key=left["Key"], UploadId=left["UploadId"])


def discard(bucket: str) -> None:
    """Delete a bucket with what is in it, if it is there."""
    store = client()
    try:
        empty(bucket)
        store.delete_bucket(Bucket=bucket)
    except store.exceptions.NoSuchBucket:
        return


def main() -> None:
    store, bucket = client(), os.environ["S3_BUCKET"]
    store.head_bucket(Bucket=bucket)  # connection and credentials are not what is measured
    begun = time.perf_counter()
    if sys.argv[1] == "upload":
        store.upload_file(sys.argv[2], bucket, sys.argv[3], Config=TransferConfig(max_concurrency=4))
    else:
        body = store.get_object(Bucket=bucket, Key=sys.argv[2])["Body"]
        while body.read(MIB):
            pass
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
