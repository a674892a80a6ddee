"""What an upload costs in DynamoDB, by each way in: requests, events, write units of the ledger's part, other rows written.

Counted where botocore sends them, over the embedded AWS, on the services tier. What the web tier asks to know who is signed in
(one `GetItem` a request, or two) comes on top. `python -m tests.support.upload_cost` prints the table of docs/ledger-format.md.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient

from chalicelib import dynamo
from chalicelib.auth import tables as auth_tables
from chalicelib.config import Settings
from chalicelib.limits import MIB
from chalicelib.storage.manager import StorageManager
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway import wiring
from nas_gateway.api.guard import Gateway
from nas_gateway.files.placement import place
from nas_gateway.ledger.events import SHARDS, shard_of
from nas_gateway.uploads.direct import Direct
from nas_gateway.uploads.tables import UploadSession
from tests.support.gateway import AWS, ENV, user
from tests.support.ledger_env import upload
from tests.support.ministack import ministack

DATA = bytes(16 * MIB)
CHUNK = 4 * MIB
WHO = user("uploader", "VACS")
_KEYS = ("tracking_id", "file_id", "cohort", "user", "action", "day", "failed_day")


@dataclass
class Meter:
    """What was asked of DynamoDB while it ran. Rows count as one KiB a started KiB, twice within a transaction."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def requests(self) -> Counter[str]:
        return Counter(operation for operation, _ in self.calls)

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(kind, item) of all that was written in transactions."""
        for operation, values in self.calls:
            if operation == "TransactWriteItems":
                for item in values["TransactItems"]:
                    yield from item.items()

    @property
    def events(self) -> int:
        return sum(kind == "Put" and _is_event(item) for kind, item in self.items())

    @property
    def ledger_units(self) -> int:
        """Events and the rows of open operations, index entries included (`ledger_cost` has the rules)."""
        total = 0
        for kind, item in self.items():
            if kind == "Put" and _is_event(item):
                kib = -(-_size(item["Item"]) // 1024)
                total += 2 * kib + kib * sum(key in item["Item"] for key in _KEYS)
            elif item["TableName"].endswith("-open-operations"):
                total += 3 * (-(-_size(item["Item"]) // 1024) if kind == "Put" else 1)
        return total

    @property
    def other_rows(self) -> int:
        """Writes of the state of files, paths and sessions."""
        plain = sum(self.requests[operation] for operation in ("PutItem", "UpdateItem", "DeleteItem"))
        ours = ("-open-operations", "-phi-file-tracking")
        return plain + sum(
            kind != "ConditionCheck" and not item["TableName"].endswith(ours) for kind, item in self.items()
        )


def _is_event(item: dict[str, Any]) -> bool:
    return str(item["TableName"]).endswith("-phi-file-tracking")


def _size(item: dict[str, dict[str, Any]]) -> int:
    sizes: dict[str, Callable[[Any], int]] = {
        "S": lambda v: len(v.encode()), "N": lambda v: (len(v) + 1) // 2 + 1, "BOOL": lambda v: 1,
    }  # fmt: skip
    return sum(len(name.encode()) + sizes[kind](v) for name, typed in item.items() for kind, v in typed.items())


@contextmanager
def metering() -> Iterator[Meter]:
    meter, real = Meter(), BaseClient._make_api_call

    def noting(client: Any, operation: str, values: dict[str, Any]) -> Any:
        if client.meta.service_model.service_name == "dynamodb":
            meter.calls.append((operation, values))
        return real(client, operation, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", noting)
        yield meter


class FirstRead(BytesReader):
    """Says at its first byte how many requests had been made by then."""

    def __init__(self, data: bytes, meter: Meter) -> None:
        super().__init__(data)
        self.meter, self.before = meter, -1

    def read(self, size: int = -1, /) -> bytes:
        if self.before < 0:
            self.before = len(self.meter.calls)
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        if self.before < 0:
            self.before = len(self.meter.calls)
        return super().readinto(buffer)


@contextmanager
def gateway_at(url: str) -> Iterator[Gateway]:
    """A services tier over fresh tables and a fresh bucket of the embedded AWS."""
    name = f"cost-{uuid.uuid4().hex[:8]}"
    disk = {"driver": "s3", "bucket": name, "public_endpoint": url, "access_key": "test", "secret_key": "test"}
    disks = {each: {**disk, "endpoint": url, "prefix": each} for each in ("submissions", "workspace", "scratch")}
    with pytest.MonkeyPatch.context() as patch:
        for variable in [each for each in os.environ if each.startswith("S3_")]:
            patch.delenv(variable)
        for variable, value in {**AWS, "AWS_ENDPOINT_URL": url}.items():
            patch.setenv(variable, value)
        env = {**ENV, "LEDGER_TABLE_PREFIX": name, "STORAGE_CONFIG": json.dumps({"disks": disks})}
        gateway = wiring.configure(Settings.from_env(env))
        dynamo.create(*auth_tables.MODELS, *wiring.MODELS)
        boto3.client("s3").create_bucket(Bucket=name)
        try:
            yield gateway
        finally:
            StorageManager.clear_cache()
            wiring.gateway.cache_clear()


# --- the ways in ------------------------------------------------------------------------------------------------------


def new(**more: Any) -> NewUpload:
    path = f"submissions/VACS/2024/patient/{uuid.uuid4().hex}.csv"
    return NewUpload(disk="submissions", path=path, size=len(DATA), **more)


def single(gate: Gateway, meter: Meter) -> int:
    body = FirstRead(DATA, meter)
    gate.transfers.upload(WHO, place("submissions", new().path), body, if_absent=True)
    return body.before


def one_patch(gate: Gateway, meter: Meter) -> int:
    """The requests before the first byte count from the PATCH on."""
    upload_id = gate.uploads.create(WHO, new()).upload_id
    created, body = len(meter.calls), FirstRead(DATA, meter)
    gate.uploads.append(WHO, upload_id, 0, body)
    return body.before - created


def chunks(gate: Gateway, meter: Meter) -> int:
    """The most that comes before the first byte of any chunk."""
    upload_id, most = gate.uploads.create(WHO, new()).upload_id, 0
    for offset in range(0, len(DATA), CHUNK):
        begun, body = len(meter.calls), FirstRead(DATA[offset : offset + CHUNK], meter)
        gate.uploads.append(WHO, upload_id, offset, body)
        most = max(most, body.before - begun)
    return most


def three_phases(gate: Gateway, meter: Meter) -> int:
    upload_id = gate.uploads.create(WHO, new()).upload_id
    begun, body = len(meter.calls), FirstRead(DATA, meter)
    gate.uploads.append(WHO, upload_id, 0, body, finish=False)
    gate.uploads.complete(WHO, upload_id)
    return body.before - begun


def presigned(gate: Gateway, meter: Meter) -> int:
    """Two parts of 8 MiB; their bytes do not come past us."""
    direct, s3 = Direct(gate.uploads, ["submissions"]), boto3.client("s3")
    bucket = gate.settings.disks["submissions"].bucket
    upload_id = gate.uploads.create(WHO, new(direct=True, part_bytes=8 * MIB)).upload_id
    session = UploadSession.get(upload_id)
    meter.calls.pop()  # the client knows no key: it is in the URL
    for number in (1, 2):
        direct.sign_part(WHO, upload_id, number, size=None, sha256=None)
        key = f"submissions/{session.path}"
        s3.upload_part(Bucket=bucket, Key=key, UploadId=str(session.handle), PartNumber=number, Body=DATA[: 8 * MIB])
    gate.uploads.complete(WHO, upload_id)
    return 0


WAYS: dict[str, Callable[[Gateway, Meter], int]] = {
    "single request": single,
    "tus, one PATCH": one_patch,
    "tus, four chunks of 4 MiB": chunks,
    "three phases, one chunk": three_phases,
    "presigned, two parts": presigned,
}


def warm(gate: Gateway) -> None:
    """Until the process knows the head of every shard."""
    for shard in range(SHARDS):
        names = (uuid.uuid4().hex for _ in range(1000))
        upload_id = next(name for name in names if shard_of(upload(upload_id=name), "") == shard)
        gate.transfers.ledger.record(upload(upload_id=upload_id))


def main() -> None:
    with TemporaryDirectory() as folder, ministack(Path(folder), "dynamodb,s3") as url, gateway_at(url) as gate:
        warm(gate)
        for name, way in WAYS.items():
            with metering() as meter:
                first = way(gate, meter)
            told = ", ".join(f"{count} {operation}" for operation, count in sorted(meter.requests.items()))
            cost = f"{len(meter.calls)} ({told}) | {meter.events} | {meter.ledger_units} | {meter.other_rows} | {first}"
            print(f"| {name} | {cost} |")


if __name__ == "__main__":
    main()
