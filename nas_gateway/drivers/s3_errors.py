"""S3's errors as Depot's: the one place that reads botocore exceptions. For `nas_gateway.drivers` only.

Messages never repeat what the store said: its text can hold keys, and keys are file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as StoreConnectionError

from chalicelib.errors import (
    DepotError,
    DigestMismatch,
    FileExists,
    FileMissing,
    InvalidPath,
    InvalidRequest,
    PayloadTooLarge,
    RangeNotSatisfiable,
    StorageError,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
    TruncatedBody,
    Unsupported,
    UploadInProgress,
    UploadLost,
    UploadStateConflict,
)
from nas_gateway.drivers.common import SMALL_PART, WRONG_PARTS

KEYS = "The storage refused our keys. The operator should check S3_ACCESS_KEY, S3_SECRET_KEY and the bucket's policy."
_BUCKET = "The storage has no such bucket. The operator should check the disk's bucket in STORAGE_CONFIG, or create it."
_CLOCK = "The storage says our clock is wrong. The operator should set the time (NTP) of this host."

# Amazon S3 API reference, "Error responses"; QuotaExceeded is Ceph's, XMinio… MinIO's and its descendants'.
_BY_CODE: dict[str, tuple[type[DepotError], str | None]] = {
    "NoSuchKey": (FileMissing, None),
    "NoSuchUpload": (UploadLost, None),
    "NoSuchBucket": (StorageRefused, _BUCKET),
    "AccessDenied": (StorageRefused, KEYS),
    "AllAccessDisabled": (StorageRefused, KEYS),
    "InvalidAccessKeyId": (StorageRefused, KEYS),
    "SignatureDoesNotMatch": (StorageRefused, KEYS),
    "ExpiredToken": (StorageRefused, KEYS),
    "InvalidToken": (StorageRefused, KEYS),
    "RequestTimeTooSkewed": (StorageRefused, _CLOCK),
    "SlowDown": (StorageUnavailable, None),
    "ServiceUnavailable": (StorageUnavailable, None),
    "RequestTimeout": (StorageUnavailable, None),
    "InternalError": (StorageUnavailable, None),
    "OperationAborted": (StorageUnavailable, None),
    "QuotaExceeded": (StorageFull, None),
    "InsufficientCapacity": (StorageFull, None),
    "XMinioStorageFull": (StorageFull, None),
    "XMinioAdminBucketQuotaExceeded": (StorageFull, None),
    "PreconditionFailed": (FileExists, None),
    # Two conditional writes of one key at the same moment: which of them wins is not known yet.
    "ConditionalRequestConflict": (UploadInProgress, None),
    "InvalidRange": (RangeNotSatisfiable, None),
    "EntityTooSmall": (InvalidRequest, SMALL_PART),
    "EntityTooLarge": (PayloadTooLarge, None),
    "KeyTooLongError": (InvalidPath, None),
    "InvalidPart": (UploadStateConflict, WRONG_PARTS),
    "InvalidPartOrder": (UploadStateConflict, WRONG_PARTS),
    "BadDigest": (DigestMismatch, None),
    "XAmzContentSHA256Mismatch": (DigestMismatch, None),
    "IncompleteBody": (StorageUnavailable, None),
    "NotImplemented": (Unsupported, None),
    "MethodNotAllowed": (Unsupported, None),
}
# HEAD answers have no body, so botocore puts the status where the code would be; a proxy's page has none either.
_BY_STATUS: dict[int, tuple[type[DepotError], str | None]] = {
    403: (StorageRefused, KEYS),
    401: (StorageRefused, KEYS),
    404: (FileMissing, None),
    408: (StorageUnavailable, None),
    412: (FileExists, None),
    413: (PayloadTooLarge, None),
    416: (RangeNotSatisfiable, None),
    429: (StorageUnavailable, None),
    501: (Unsupported, None),
    507: (StorageFull, None),
}


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def translate(error: ClientError | BotoCoreError) -> DepotError:
    """The Depot error for one of botocore's."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        known = _BY_CODE.get(code_of(error)) or _BY_STATUS.get(status)
        if known:
            return known[0](known[1])
        return StorageUnavailable() if status >= 500 else StorageError()
    if isinstance(error, (IncompleteReadError, ResponseStreamingError)):
        return TruncatedBody("The storage broke off in the middle of the file. Ask for the rest with Range.")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return StorageRefused(KEYS)
    if isinstance(error, (StoreConnectionError, HTTPClientError)):
        return StorageUnavailable()
    return StorageError()


@contextmanager
def translated(*, upload: bool = False) -> Iterator[None]:
    """Raise Depot's errors instead of botocore's. `upload`: what is missing is the upload, not the file.

    (Ceph answers ListParts of an upload that ended with NoSuchKey.)
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        translated_error = translate(error)
        if upload and isinstance(translated_error, FileMissing):
            translated_error = UploadLost()
        # The cause stays out of the chain: its text holds the key, and tracebacks reach logs.
        raise translated_error from None
