"""Faults at every external call: a process that dies before or after the k-th, a reply that gets lost, a call sent twice.

A `World` is what outlives a process: the tables, the NAS, the clock. `World.process()` is a services tier with nothing in
memory. Calls to the store go through `Proxied`, calls to DynamoDB are caught at botocore's client, where both are counted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ReadTimeoutError
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.model_instances import reset_model_data

from chalicelib.errors import StorageUnavailable
from nas_gateway.files.registry import Registry
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger.append import Appender, connect
from nas_gateway.ledger.ledger import Ledger
from nas_gateway.uploads.service import Uploads
from tests.support.gateway import AWS, ENV, made_gateway

LEASE = 60.0

# Every call of the contract that reaches the NAS while a session is written, completed or ended.
STORE_CALLS = frozenset(
    {
        *("create_parts", "write_part", "copy_part", "list_parts", "complete_parts", "abort_parts"),
        *("put_tail", "get_tail", "delete_tail", "open", "get_metadata", "delete", "exists", "erase", "remains"),
    }
)


class Crash(BaseException):
    """The process is gone. No handler of ours may do anything any more: every later call raises it too."""


class Way(StrEnum):
    BEFORE = "before the call"
    AFTER = "after the call"
    LOST = "in place of the reply"  # the call had its effect, and our code sees a time-out
    TWICE = "sent twice"  # botocore did not get the first reply and repeated the request (DynamoDB)


class Faults:
    """Counts the external calls of the process under trial, and does something to the one it is armed for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.ledger_table = connect()  # botocore takes 0.1 s to make a client: one for all processes of a test
        self.hit = ""
        self.revive()

    def revive(self) -> None:
        """A new process: nothing armed, the count begins at 0."""
        self.count, self._at, self._only, self._way, self._token = 0, 0, "", Way.BEFORE, ""
        self.dead, self.seen = False, list[str]()
        self.paused = False
        self._sleep: Callable[[], None] | None = None

    def arm(self, at: int, way: Way, only: str = "") -> None:
        """For the call number `at`, of those of the name `only` where one is given."""
        self.revive()
        self.hit = ""
        self._at, self._way, self._only = at, way, only  # 0 is none

    def arm_sleep(self, at: int, sleep: Callable[[], None], only: str = "") -> None:
        """The thread that makes this call (`at` 0: each thread that makes one) does `sleep` first."""
        self.arm(at, Way.BEFORE, only)
        self._sleep = sleep

    def call(self, name: str, effect: Callable[[], Any], timeout: Callable[[], Exception], token: str = "") -> Any:
        if self.paused:
            return effect()
        with self._lock:
            if self.dead:
                raise Crash
            counts = self._only in ("", name)
            self.count += counts
            self.seen.append(name)
            mine = counts and (self.count == self._at or bool(self._at == 0 and self._sleep))
            if mine:
                self.hit, self._token = name, token
                self.dead = self._sleep is None and self._way is Way.BEFORE
            elif token and token == self._token and self._way is Way.LOST:
                mine = True  # the ledger sends the same transaction again: nobody hears of that either
        if mine and self._sleep is not None:
            self._sleep()
        elif mine and self._way is Way.BEFORE:
            raise Crash
        elif mine and self._way is Way.TWICE and name.startswith("dynamodb"):
            with contextlib.suppress(Exception):
                effect()
        result = effect()
        if mine and self._sleep is None and self._way in (Way.AFTER, Way.LOST):
            if self._way is Way.LOST:
                raise timeout()
            self.dead = True
        if self.dead:
            raise Crash
        return result


class Proxied:
    """A store whose calls are counted, and may fail."""

    def __init__(self, store: Any, faults: Faults) -> None:
        self._store, self._faults = store, faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in STORE_CALLS:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            args = tuple(arg._store if isinstance(arg, Proxied) else arg for arg in args)
            return self._faults.call(f"store {name}", lambda: found(*args, **kwargs), StorageUnavailable)

        return call


class World:
    """What outlives a process; the tables are empty when it begins. `clock()` stands still until it is moved."""

    def __init__(self, stores: Mapping[str, Any], faults: Faults) -> None:
        self.stores, self.faults, self.now = dict(stores), faults, time.time()
        faults.revive()
        empty_tables()

    def clock(self) -> float:
        return self.now

    def later(self, seconds: float = LEASE + 1) -> None:
        self.now += seconds

    def process(self) -> Uploads:
        """A services tier that has just been started."""
        disks = {name: Proxied(store, self.faults) for name, store in self.stores.items()}
        ledger = Ledger(server_role="services", appender=Appender(table=self.faults.ledger_table, pause=lambda _: None))
        transfers = Transfers(disks.__getitem__, ledger, Registry(self.clock), disks=list(disks), clock=self.clock)
        uploads = Uploads(transfers, lease=LEASE)
        uploads.wait = 0
        return uploads


@contextlib.contextmanager
def counted_dynamodb(faults: Faults | None = None) -> Iterator[None]:
    """DynamoDB's calls go through `faults`. One at a time: moto races on conditional writes (notes-reliability)."""
    real, lock = BaseClient._make_api_call, threading.RLock()

    def call(client: Any, operation: str, values: dict[str, Any]) -> Any:
        def effect() -> Any:
            with lock:
                return real(client, operation, values)

        if client.meta.service_model.service_name != "dynamodb" or faults is None:
            return effect()
        return faults.call(f"dynamodb {operation}", effect, _timed_out, values.get("ClientRequestToken", ""))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call)
        yield


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    """Tables for a module's tests (making them takes a while), whose calls go through what this gives."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in AWS.items():
            patch.setenv(name, value)
        with made_gateway(ENV):
            faults = Faults()
            with counted_dynamodb(faults):
                yield faults


def empty_tables() -> None:
    """Forget every row in moto's tables, and the copies that it keeps.

    (A transaction in moto copies every table that it touches, and all copies are kept: 11 GB after a few hundred uploads.)
    """
    for table in get_backend("dynamodb")[DEFAULT_ACCOUNT_ID][AWS["AWS_DEFAULT_REGION"]].tables.values():
        table.items.clear()
    reset_model_data()


def _timed_out() -> Exception:
    return ReadTimeoutError(endpoint_url="dynamodb")


def tally(hits: list[str]) -> str:
    """What was hit how often, for the test's output."""
    return ", ".join(f"{name} x{count}" for name, count in sorted(Counter(hits).items()))
