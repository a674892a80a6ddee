"""Makes the bucket of the local stack's S3 store. Imported by the CLI's `init` only."""

from __future__ import annotations

from collections.abc import Mapping

from chalicelib.errors import SettingsError


def ensure_bucket(env: Mapping[str, str]) -> bool:
    """Create S3_BUCKET at S3_ENDPOINT if it is missing; True when it was made. Raises `SettingsError`."""
    import boto3  # not in the web tier's package, which holds no code of this folder anyway
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=env.get("S3_ENDPOINT") or None,
        region_name=env.get("S3_REGION") or "us-east-1",
        aws_access_key_id=env.get("S3_ACCESS_KEY") or None,
        aws_secret_access_key=env.get("S3_SECRET_KEY") or None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            connect_timeout=5,
            read_timeout=20,
            retries={"max_attempts": 2},
        ),
    )
    bucket = env.get("S3_BUCKET") or "depot"
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise SettingsError(
                f"S3_ENDPOINT refuses the bucket {bucket!r}: check S3_ACCESS_KEY and S3_SECRET_KEY"
            ) from None
    except BotoCoreError as error:
        raise SettingsError(f"S3_ENDPOINT does not answer as an S3 store ({type(error).__name__})") from None
    else:
        return False
    try:
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "BucketAlreadyOwnedByYou":
            return False
        raise SettingsError(f"The bucket {bucket!r} cannot be made at S3_ENDPOINT ({code})") from None
    return True
