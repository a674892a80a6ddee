"""Quotas: exact through every way in which a file comes and goes, and among many uploads at once. Rates of what is costly."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.client import BaseClient

from chalicelib.auth.policy import Permission
from chalicelib.auth.rates import Rates
from chalicelib.errors import (
    DepotError,
    FileExists,
    FileMissing,
    Forbidden,
    QuotaExceeded,
    TooManyRequests,
    TooManyUploads,
)
from chalicelib.storage.base import Reader
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.api.guard import Gateway
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.quotas import Quota, Quotas, Throttle, usage
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.ledger import queries
from tests.support.gateway import AWS, ENV, made_gateway, user

QUOTAS = {"QUOTA_COHORT_BYTES": "1000", "QUOTA_COHORT_FILES": "12", "QUOTA_USER_UPLOADS": "10"}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bounded(aws: None) -> Iterator[Gateway]:
    with made_gateway({**ENV, **QUOTAS}) as made:
        yield made


def put(gateway: Gateway, call: Call, cohort: str, name: str, content: Reader, *, if_absent: bool = False) -> Any:
    where = place("submissions", f"submissions/{cohort}/2024/patient/{name}")
    return gateway.transfers.upload(call, where, content, if_absent=if_absent)


class Broken(BytesReader):
    """A source that fails in the middle."""

    def read(self, size: int = -1, /) -> bytes:
        raise OSError("the connection broke")


def bytes_of(cohort: str) -> tuple[int, int, int]:
    used = usage(f"cohort:{cohort}")
    return used["stored"], used["files"], used["uploads"]


def test_a_cohort_has_no_more_bytes_than_its_quota_and_what_is_deleted_is_free_again(bounded: Gateway) -> None:
    manager = user("cohort_manager", "A", "B")
    saved = put(bounded, manager, "A", "a.csv", BytesReader(b"x" * 600))
    with pytest.raises(QuotaExceeded):
        put(bounded, manager, "A", "b.csv", BytesReader(b"x" * 401))
    put(bounded, manager, "B", "b.csv", BytesReader(b"x" * 401))  # each cohort has its own
    put(bounded, manager, "A", "b.csv", BytesReader(b"x" * 400))
    assert bytes_of("A") == (1000, 2, 0)
    bounded.transfers.delete(manager, "submissions", str(saved))
    assert bytes_of("A") == (400, 1, 0)
    put(bounded, manager, "A", "c.csv", BytesReader(b"x" * 600))
    assert usage(f"user:{manager.principal.username}") == {"stored": 1401, "files": 3, "uploads": 0}
    refused = queries.query(cohort="A", outcome="failed", limit=10).events  # type: ignore[arg-type]
    assert refused == []  # nothing began


def test_what_is_refused_for_another_reason_is_not_taken_for_a_quota(bounded: Gateway) -> None:
    manager = user("cohort_manager", "A")
    put(bounded, manager, "A", "a.csv", BytesReader(b"x" * 1000))
    with pytest.raises(FileExists):
        put(bounded, manager, "A", "a.csv", BytesReader(b""), if_absent=True)


def test_a_session_counts_from_its_creation_and_lets_go_when_it_is_aborted(bounded: Gateway) -> None:
    manager = user("cohort_manager", "A")

    def new(number: int, size: int | None) -> NewUpload:
        return NewUpload(disk="submissions", path=f"submissions/A/2024/patient/{number}.csv", size=size)

    opened = [bounded.uploads.create(manager, new(number, 50)).upload_id for number in range(10)]
    assert bytes_of("A") == (500, 10, 10)
    with pytest.raises(TooManyUploads) as caught:
        bounded.uploads.create(manager, new(11, 50))
    assert caught.value.status == 429
    bounded.uploads.append(manager, opened[0], 0, BytesReader(b"x" * 50))
    assert bytes_of("A") == (500, 10, 9)
    bounded.uploads.abort(manager, opened[1])
    assert bytes_of("A") == (450, 9, 8)
    later = bounded.uploads.create(manager, new(12, None)).upload_id  # its size is not known yet
    assert bytes_of("A") == (450, 10, 9)
    bounded.uploads.append(manager, later, 0, BytesReader(b"x" * 30))
    bounded.uploads.complete(manager, later)
    assert bytes_of("A") == (480, 10, 8)


def test_counts_agree_with_what_is_there_after_any_history(bounded: Gateway) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    people = [user("superuser"), user("cohort_manager", "A", "B"), Call()]
    ids: set[str] = set()
    for _ in range(40):
        call, cohort, name = dice.choice(people), dice.choice("AB"), f"{dice.randrange(6)}.csv"
        size, what = dice.randrange(200), dice.random()
        try:
            if what < 0.6:
                ids.add(put(bounded, call, cohort, name, BytesReader(b"x" * size)).file_id)
            elif what < 0.75:
                put(bounded, call, cohort, name, Broken(b"x" * size))
            else:
                bounded.transfers.delete(call, "submissions", f"submissions/{cohort}/2024/patient/{name}")
        except (DepotError, OSError):
            continue
    rows = [TrackedFile.get(each) for each in ids]
    there = [row for row in rows if row.state == State.AVAILABLE]
    assert there
    for cohort in "AB":
        mine = [row for row in there if row.cohort == cohort]
        assert bytes_of(cohort) == (sum(int(row.size or 0) for row in mine), len(mine), 0)
        assert bytes_of(cohort)[0] <= 1000
    for call in people[:2]:
        mine = [row for row in there if row.owner == call.principal.username]
        assert usage(f"user:{call.principal.username}")["files"] == len(mine)
    assert usage("user:service") == {"stored": 0, "files": 0, "uploads": 0}


def test_of_a_hundred_uploads_at_once_as_many_begin_as_the_quota_says(bounded: Gateway) -> None:
    manager = user("cohort_manager", "A")
    outcomes: list[str] = []
    lock, real = threading.RLock(), BaseClient._make_api_call

    def locked(client: Any, operation: str, values: dict[str, Any]) -> Any:  # moto races with itself otherwise
        with lock:
            return real(client, operation, values)

    def create(number: int) -> None:
        new = NewUpload(disk="submissions", path=f"submissions/A/2024/patient/{number}.csv", size=50)
        try:
            bounded.uploads.create(manager, new)
            outcomes.append("created")
        except DepotError as error:
            outcomes.append(error.code)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", locked)
        threads = [threading.Thread(target=create, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (outcomes.count("created"), outcomes.count("too_many_uploads")) == (10, 90)
    assert bytes_of("A") == (500, 10, 10)


def test_without_a_quota_nothing_is_counted_and_files_from_before_take_nothing_off(aws: None) -> None:
    manager = user("cohort_manager", "A")
    with made_gateway(ENV) as gateway:
        saved = put(gateway, manager, "A", "a.csv", BytesReader(b"x" * 10))
        assert bytes_of("A") == (0, 0, 0)
        gateway.transfers.registry._quotas = Quotas(Quota(stored=100))
        put(gateway, manager, "A", "b.csv", BytesReader(b"x" * 20))
        gateway.transfers.delete(manager, "submissions", str(saved))
        assert bytes_of("A") == (20, 1, 0)


def test_uploads_and_denials_of_one_user_have_a_rate(aws: None) -> None:
    with made_gateway(ENV) as gateway:
        stopped = Rates(gateway.settings, lambda: 1_800_000_000.0)  # so that no minute begins in the middle
        gateway.transfers.access.throttle = Throttle(stopped, uploads_per_minute=3, denials_per_minute=4)
        manager = user("cohort_manager", "A")
        for number in range(3):
            put(gateway, manager, "A", f"{number}.csv", BytesReader(b"x"))
        with pytest.raises(TooManyRequests) as caught:
            put(gateway, manager, "A", "3.csv", BytesReader(b"x"))
        assert 0 < (caught.value.retry_after or 0) <= 60
        put(gateway, Call(), "A", "3.csv", BytesReader(b"x"))
        reader = user("reader", "B")
        for _ in range(4):
            with pytest.raises(Forbidden):
                gateway.transfers.access.deny(reader, Permission.DELETE, "", "", "A")
        with pytest.raises(TooManyRequests):
            gateway.transfers.access.deny(reader, Permission.DELETE, "", "", "A")
        theirs = gateway.transfers.registry.at("submissions", "submissions/A/2024/patient/0.csv")
        assert theirs is not None
        for hidden in (theirs.file_id, "0" * 32):  # past the limit, too, what is hidden is not there
            with pytest.raises(FileMissing):
                gateway.transfers.file(reader, hidden)
        events = queries.query(user=reader.principal.username, limit=10).events
        assert [dict(event.metadata or {}).get("more") for event in events] == [None] * 3 + [
            "not recorded in this minute"
        ]
