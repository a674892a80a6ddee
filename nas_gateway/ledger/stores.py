"""Where checkpoints are kept: a store that can be added to, and of which what is in there cannot be changed.

Both stores keep to one rule: of what was ever put under a number, the *first* counts, whatever came later. So a process
that can only add cannot replace a checkpoint, and of two that write the same number at once one wins. Imported by wiring
and tests; the S3 client is handed in.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.errors import SettingsError, StorageError, StorageFull, StorageRefused, StorageUnavailable
from nas_gateway.ledger.events import utcnow
from nas_gateway.ledger.verify import lines_of


class CheckpointStore(Protocol):
    """Raises `StorageError` (and `SettingsError` where the store is not what it must be)."""

    def last(self) -> bytes | None:
        """The line of the highest number, or None."""
        ...

    def put(self, number: int, line: bytes) -> bool:
        """Keep the line under the number after the last. False when something is there, or this is not the next."""
        ...

    def read(self, after: int = 0) -> Iterator[bytes]:
        """The lines of the numbers above `after`, ascending."""
        ...


# --- a file that can only be appended to ----------------------------------------------------------------------------

_NUMBER: Final = re.compile(rb'\{"checkpoint":\{.*"number":(\d{1,12}),"prev":".*\}\n')


class AppendedFile:
    """One file, `checkpoints.jsonl` in `folder`: a line a checkpoint. `chattr +a` keeps even its owner from changing it.

    What a crash left unfinished, or what somebody appended that is no next checkpoint, is passed over by readers. A lock
    (flock) lets one process append at a time, so the folder should not be shared by hosts.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "checkpoints.jsonl"

    def last(self) -> bytes | None:
        return next(iter(deque(self.read(), maxlen=1)), None)

    def read(self, after: int = 0) -> Iterator[bytes]:
        number = 0
        with _translated():
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                return
            with file:
                for line in lines_of(file):
                    found = _NUMBER.fullmatch(line)
                    if found and int(found.group(1)) == number + 1:
                        number += 1
                        if number > after:
                            yield line

    def put(self, number: int, line: bytes) -> bool:
        with _translated():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if sum(1 for _ in self.read()) != number - 1:
                    return False
                size = os.fstat(file).st_size
                torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
                whole = b"\n" + line if torn else line
                if os.write(file, whole) != len(whole):
                    raise StorageFull
                os.fsync(file)
                if number == 1:
                    _sync_folder(self._path.parent)
            finally:
                os.close(file)
        return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- a bucket with Object Lock --------------------------------------------------------------------------------------

PREFIX: Final = "checkpoints/"
_NO_LOCK: Final = {"InvalidRequest", "ObjectLockConfigurationNotFoundError", "InvalidBucketState"}
_TAKEN: Final = {"PreconditionFailed", "ConditionalRequestConflict"}


class LockedBucket:
    """A bucket with Object Lock: an object a checkpoint, kept in COMPLIANCE mode for `days`, which nobody can shorten.

    Such a bucket keeps versions, and the oldest one counts. `If-None-Match` is sent, but not relied on: Ceph 16 ignores it
    where versions are kept (tried), and so does everyone for a delete marker.
    """

    def __init__(self, client: Any, bucket: str, days: int, clock: Callable[[], datetime] = utcnow) -> None:
        self._client, self._bucket, self._days, self._clock = client, bucket, days, clock
        self._known = 0  # the highest number that was seen to be there

    def last(self) -> bytes | None:
        number = self._highest()
        return self._get(_key(number), self._oldest(number)) if number else None

    def put(self, number: int, line: bytes) -> bool:
        if self._highest() != number - 1:
            return False
        with _translated():
            try:
                answer = self._client.put_object(
                    Bucket=self._bucket,
                    Key=_key(number),
                    Body=line,
                    ContentType="application/json",
                    IfNoneMatch="*",
                    # Object Lock demands a checksum; this is the one that every store takes.
                    ContentMD5=base64.b64encode(hashlib.md5(line, usedforsecurity=False).digest()).decode(),
                    ObjectLockMode="COMPLIANCE",
                    ObjectLockRetainUntilDate=self._clock() + timedelta(days=self._days),
                )
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code in _TAKEN:
                    return False
                if code in _NO_LOCK:
                    raise SettingsError("LEDGER_CHECKPOINT_BUCKET must be a bucket with Object Lock") from None
                raise
        won = self._oldest(number) == str(answer.get("VersionId"))
        self._known = max(self._known, number)
        return won

    def read(self, after: int = 0) -> Iterator[bytes]:
        """One listing of 1,000 and one GET each."""
        number, before = after, None
        # Stores differ in whether a marker's own key is still in the answer.
        for version in self._versions(PREFIX, **({"KeyMarker": _key(after)} if after else {})):
            if version["Key"] <= _key(after):
                continue
            if before is not None and before["Key"] != version["Key"]:
                if before["Key"] != _key(number + 1):
                    return  # not ours; the numbers have no gaps
                yield self._get(before["Key"], before["VersionId"])
                number += 1
            before = version  # newest first: the last of a key is its oldest
        if before is not None and before["Key"] == _key(number + 1):
            yield self._get(before["Key"], before["VersionId"])

    def _highest(self) -> int:
        """Doubling steps up from what is known, then halving: some 2 log2(n) requests from nothing, one when up to date."""
        low, step = self._known, 1
        while self._oldest(low + step) is not None:
            low, step = low + step, 2 * step
        while step > 1:
            step //= 2
            if self._oldest(low + step) is not None:
                low += step
        self._known = low
        return low

    def _oldest(self, number: int) -> str | None:
        found = None
        for version in self._versions(_key(number)):
            found = str(version["VersionId"])
        return found

    def _versions(self, prefix: str, **more: str) -> Iterator[dict[str, Any]]:
        """In order of keys, and of a key the newest first (Amazon S3 API reference, ListObjectVersions)."""
        asked: dict[str, Any] = {"Bucket": self._bucket, "Prefix": prefix, **more}
        while True:
            with _translated():
                page = self._client.list_object_versions(**asked)
            yield from page.get("Versions", ())
            if not page.get("IsTruncated"):
                return
            asked |= {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def _get(self, key: str, version: str | None) -> bytes:
        with _translated():
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=key, VersionId=version)["Body"].read()
            return body


def _key(number: int) -> str:
    return f"{PREFIX}{number:012d}.json"


@contextmanager
def _translated() -> Iterator[None]:
    """Failures of the store as Depot's errors, without their text."""
    what = "The store of the ledger's checkpoints"
    try:
        yield
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) in (403, 404):
            raise StorageRefused(f"{what} refused: check LEDGER_CHECKPOINT_BUCKET, its policy and our keys.") from None
        raise StorageUnavailable(f"{what} failed. Nothing was signed; the next run tries again.") from None
    except BotoCoreError:
        raise StorageUnavailable(f"{what} does not answer. Nothing was signed; the next run tries again.") from None
    except StorageError:
        raise
    except OSError as error:
        raise StorageRefused(f"{what} cannot be used ({error.strerror}): check LEDGER_CHECKPOINT_DIR.") from None
