"""Direct sessions on the services tier: what is signed, what the ledger hears of it, and what counts as complete.

moto's S3 stands in for the store, and its client for whoever holds a presigned URL; what a store refuses is tested against
a real one in tests/integration.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest

from chalicelib.errors import (
    DigestMismatch,
    Forbidden,
    IdempotencyMismatch,
    InvalidRequest,
    LedgerUnavailable,
    LengthMismatch,
    PresigningOff,
    UploadEnded,
    UploadMissing,
    UploadStateConflict,
)
from chalicelib.limits import MAX_PARTS, MIB
from chalicelib.storage.uploads import NewUpload, StoredPart
from nas_gateway.api.guard import Gateway
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.files.access import Call
from nas_gateway.files.tables import State
from nas_gateway.ledger import queries
from nas_gateway.ledger.tables import PHIFileTracking
from nas_gateway.uploads import direct, rows
from tests.support.gateway import AWS, ENV, made_gateway, outcomes, user

ANA, BO = user("uploader", "VACS"), user("uploader", "VACS", "MACS")
S3 = {"driver": "s3", "bucket": "nas", "public_endpoint": "https://nas.example"}
DISKS = {
    "submissions": {**S3, "prefix": "sub"},
    "workspace": {**S3, "prefix": "work", "public_endpoint": ""},
    "scratch": {**S3, "prefix": "scratch"},
}
SIZE = 11 * MIB + 5  # in parts of 5 MiB: 5, 5, and 1 MiB + 5


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """One for all tests of this file; each has paths of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_S3", "S3_ENDPOINT"):
            patch.delenv(name, raising=False)
        for name, value in AWS.items():
            patch.setenv(name, value)
        with made_gateway({**ENV, "STORAGE_CONFIG": json.dumps({"disks": DISKS})}) as made:
            boto3.client("s3").create_bucket(Bucket="nas")
            yield made


@pytest.fixture
def path() -> str:
    return fresh_path()


def fresh_path() -> str:
    return f"submissions/VACS/2024/patient/{uuid.uuid4().hex}.csv"


def opened(gateway: Gateway, call: Call = ANA, **values) -> str:
    wanted = {"disk": "submissions", "size": SIZE, "part_bytes": 5 * MIB, "direct": True, **values}
    new = NewUpload(**{"path": fresh_path(), **wanted})
    return gateway.uploads.create(call, gateway.direct.check(new)).upload_id


def sign(gateway: Gateway, upload_id: str, number: int, call: Call = ANA, size=None, sha256=None):
    return gateway.direct.sign_part(call, upload_id, number, size=size, sha256=sha256)


def put(signed, body: bytes | None = None) -> None:
    """What the holder of a URL sends; by default as many bytes as were signed."""
    url = urlsplit(signed.url)
    query = parse_qs(url.query)
    with closing(boto3.client("s3")) as store:
        store.upload_part(
            Bucket="nas",
            Key=url.path.removeprefix("/nas/"),
            UploadId=query["uploadId"][0],
            PartNumber=int(query["partNumber"][0]),
            Body=b"." * int(signed.headers["Content-Length"]) if body is None else body,
        )


def urls(**selected: str) -> list[dict[str, str]]:
    """What the ledger's events about issued URLs say."""
    found = queries.query(action="presigned_url_issued", limit=1000).events
    events = [event for event in found if all(getattr(event, name) == value for name, value in selected.items())]
    assert {event.outcome for event in events} <= {"completed"}
    return [dict(event.metadata) for event in events]


# --- what is signed ---------------------------------------------------------------------------------------------------


def test_each_part_is_signed_with_the_length_that_the_part_size_gives_it(gateway):
    upload_id = opened(gateway)
    signed = [sign(gateway, upload_id, number) for number in (1, 2, 3)]
    assert [item.headers["Content-Length"] for item in signed] == [str(5 * MIB), str(5 * MIB), str(MIB + 5)]
    for number, item in enumerate(signed, start=1):
        query = parse_qs(urlsplit(item.url).query)
        assert (item.method, item.expires_in, query["X-Amz-Expires"]) == ("PUT", 900, ["900"])
        assert query["partNumber"] == [str(number)]
        assert query["X-Amz-SignedHeaders"] == ["content-length;host"]
        assert item.url.startswith("https://nas.example/nas/sub/submissions/VACS/")
        assert upload_id not in item.url


def test_a_client_may_cut_the_file_otherwise_by_saying_each_length(gateway):
    upload_id = opened(gateway)
    assert sign(gateway, upload_id, 1, size=SIZE).headers["Content-Length"] == str(SIZE)
    assert sign(gateway, upload_id, MAX_PARTS, size=1).headers["Content-Length"] == "1"
    digest = "ab" * 32
    signed = sign(gateway, upload_id, 1, sha256=digest)
    assert signed.headers["x-amz-content-sha256"] == digest
    assert "x-amz-content-sha256" in parse_qs(urlsplit(signed.url).query)["X-Amz-SignedHeaders"][0].split(";")


def test_parts_that_the_file_cannot_have_are_not_signed(gateway):
    upload_id = opened(gateway)
    for number, size in [(0, None), (4, None), (-1, 1), (0, 1), (MAX_PARTS + 1, 1), (1, SIZE + 1)]:
        with pytest.raises(InvalidRequest):
            sign(gateway, upload_id, number, size=size)
    assert urls(upload_id=upload_id) == []


@pytest.mark.parametrize(
    ("size", "part_bytes", "expected"),
    [
        (1, None, 8 * MIB),
        (300 * MIB, None, 16 * MIB),
        (3, 1, None),
        (5 * MIB, 5 * MIB - 1, None),
        (4 * MIB, 4 * MIB, 4 * MIB),
        (5 * MIB * MAX_PARTS, 5 * MIB, 5 * MIB),
        (5 * MIB * MAX_PARTS + 1, 5 * MIB, None),
        (None, None, None),
        (None, 5 * MIB, None),
        (0, None, None),
    ],
)
def test_the_part_size_of_a_new_session(size, part_bytes, expected):
    new = NewUpload(disk="submissions", path="x", size=size, part_bytes=part_bytes, direct=True)
    if expected is None:
        with pytest.raises(InvalidRequest):
            direct.part_bytes(new)
    else:
        assert direct.part_bytes(new) == expected


def test_a_disk_that_clients_cannot_reach_opens_no_direct_session(gateway):
    nobody_else = user("uploader", "VACS", "NEW")
    with pytest.raises(PresigningOff):
        opened(gateway, nobody_else, disk="workspace", path="upload_prechecks/1/a.csv")
    assert outcomes(user=nobody_else.principal.username) == []


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_every_url_is_an_event_that_names_part_length_and_end_but_not_the_url(gateway):
    upload_id = opened(gateway)
    for number in (1, 1, 3):
        sign(gateway, upload_id, number)
    told = urls(upload_id=upload_id, user=ANA.principal.username, cohort="VACS", request_id="request-0001")
    assert [(item["part"], item["size"]) for item in told] == [
        ("1", str(5 * MIB)),
        ("1", str(5 * MIB)),
        ("3", str(MIB + 5)),
    ]
    assert all(set(item) == {"method", "expires_at", "part", "size"} for item in told)
    assert "nas.example" not in json.dumps(told)


def test_no_url_is_given_out_that_the_ledger_cannot_be_told_of(gateway, monkeypatch):
    upload_id, file_id = opened(gateway), finished(gateway).receipt.file_id
    monkeypatch.setattr(PHIFileTracking.Meta, "table_name", "gone")
    PHIFileTracking._connection = None
    try:
        with pytest.raises(LedgerUnavailable):
            sign(gateway, upload_id, 1)
        with pytest.raises(LedgerUnavailable):
            gateway.direct.file_url(Call(), file_id, 60)
    finally:
        monkeypatch.undo()
        PHIFileTracking._connection = None


# --- whose session ----------------------------------------------------------------------------------------------------


def test_another_users_session_is_not_there(gateway):
    upload_id = opened(gateway)
    for call in (
        lambda: sign(gateway, upload_id, 1, call=BO),
        lambda: gateway.direct.stored_parts(BO, upload_id),
        lambda: gateway.uploads.complete(BO, upload_id),
        lambda: gateway.uploads.abort(BO, upload_id),
    ):
        with pytest.raises(UploadMissing):
            call()
    assert urls(upload_id=upload_id) == []
    assert gateway.uploads.status(ANA, upload_id).state == State.OPEN


def test_who_may_no_longer_upload_gets_no_more_urls(gateway):
    upload_id = opened(gateway)
    now_a_reader = user("reader", "VACS")
    now_a_reader = Call(
        type(now_a_reader.principal)(ANA.principal.username, "reader", frozenset({"VACS"})), "request-0002"
    )
    with pytest.raises(UploadMissing):  # to who may not upload any more, there are no uploads of theirs
        sign(gateway, upload_id, 1, call=now_a_reader)
    assert urls(upload_id=upload_id) == []


def test_a_session_whose_bytes_pass_through_us_is_not_signed_for(gateway):
    upload_id = opened(gateway, direct=False)
    with pytest.raises(UploadMissing):
        sign(gateway, upload_id, 1)
    with pytest.raises(UploadMissing):
        gateway.direct.stored_parts(ANA, upload_id)


def test_an_aborted_session_leaves_nothing_and_signs_nothing(gateway, path):
    upload_id = opened(gateway, path=path)
    put(sign(gateway, upload_id, 1))
    gateway.uploads.abort(ANA, upload_id)
    with pytest.raises(UploadEnded):
        sign(gateway, upload_id, 2)
    left = boto3.client("s3").list_multipart_uploads(Bucket="nas", Prefix=f"sub/{path}")
    assert "Uploads" not in left
    opened(gateway, path=path)  # it is free


def test_a_session_that_is_being_signed_for_keeps_its_path(gateway, path):
    upload_id = opened(gateway, path=path)
    sign(gateway, upload_id, 1)
    session = rows.get(upload_id, ANA.principal)
    held = gateway.transfers.registry.claim("submissions", path)
    # A URL lives for 900 seconds: nobody else may have taken the path when the last of them is used.
    assert held.pending == session.file_id
    assert held.pending_until - session.created_at >= 1700
    assert session.hold_until - session.created_at >= 1700


def test_the_same_creation_under_the_same_key_is_the_same_session(gateway, path):
    first = opened(gateway, path=path, idempotency_key="k1")
    assert opened(gateway, path=path, idempotency_key="k1") == first
    with pytest.raises(IdempotencyMismatch):
        opened(gateway, path=path, idempotency_key="k1", part_bytes=6 * MIB)


# --- completing -------------------------------------------------------------------------------------------------------


def finished(gateway: Gateway, **values):
    upload_id = opened(gateway, size=3, part_bytes=None, **values)
    put(sign(gateway, upload_id, 1), b"abc")
    return gateway.uploads.complete(ANA, upload_id)


def test_what_the_store_lists_is_the_file(gateway, path):
    upload_id = opened(gateway, path=path)
    for number in (3, 1, 2):
        put(sign(gateway, upload_id, number))
    listed = gateway.direct.stored_parts(ANA, upload_id)
    assert [(part.number, part.size) for part in listed] == [(1, 5 * MIB), (2, 5 * MIB), (3, MIB + 5)]
    done = gateway.uploads.complete(ANA, upload_id)
    assert (done.state, done.receipt.size, done.receipt.path) == (State.AVAILABLE, SIZE, path)
    # Nobody saw the bytes, so nobody can say their digest yet.
    assert (done.receipt.sha256, done.receipt.parts_sha256) == (None, None)
    assert gateway.uploads.complete(ANA, upload_id).receipt == done.receipt
    info = gateway.transfers.disk("submissions").get_metadata(path)
    assert (info.size, info.etag) == (SIZE, done.receipt.etag)
    ended = [pair for pair in outcomes(file_id=done.receipt.file_id) if pair[0] != "presigned_url_issued"]
    assert ended == [("file_uploaded_chunked", "intent"), ("file_uploaded_chunked", "completed")]
    with pytest.raises(UploadStateConflict):
        sign(gateway, upload_id, 1)


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        ({}, "0 bytes"),
        ({2: 5 * MIB, 3: MIB + 5}, "Part 1 is missing"),
        ({1: 5 * MIB, 3: MIB + 5}, "Part 2 is missing"),
        ({1: 5 * MIB, 2: 5 * MIB}, "2 parts"),
        ({1: 5 * MIB, 2: 5 * MIB, 3: MIB + 4}, "3 parts"),
        ({1: 5 * MIB, 2: 5 * MIB, 3: MIB + 5, 4: 1}, "below"),
        ({1: 5 * MIB, 2: 5 * MIB, 3: 5 * MIB, 4: 1}, "4 parts"),
        ({1: 5 * MIB - 1, 2: 5 * MIB, 3: MIB + 6}, "Part 1 is below"),
    ],
)
def test_what_is_not_the_whole_file_is_not_completed_and_can_be_mended(gateway, path, sent, complaint):
    upload_id = opened(gateway, path=path)
    for number, size in sent.items():
        put(sign(gateway, upload_id, number, size=size))
    with pytest.raises(LengthMismatch, match=complaint):
        gateway.uploads.complete(ANA, upload_id)
    assert gateway.uploads.status(ANA, upload_id).state == State.OPEN
    assert not gateway.transfers.disk("submissions").exists(path)
    if max(sent, default=0) < 4:
        for number in (1, 2, 3):
            put(sign(gateway, upload_id, number))
        assert gateway.uploads.complete(ANA, upload_id).receipt.size == SIZE


def test_a_promised_digest_is_compared_with_what_the_store_holds(gateway, path):
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, "abc"
    assert finished(gateway, sha256=right).receipt.sha256 == right
    with pytest.raises(DigestMismatch):
        finished(gateway, path=path, sha256=right[::-1])
    assert not gateway.transfers.disk("submissions").exists(path)


@pytest.mark.parametrize("completed", [False, True])
def test_a_completion_that_broke_off_is_finished_by_the_next(gateway, path, completed):
    upload_id = opened(gateway, path=path)
    for number in (1, 2, 3):
        put(sign(gateway, upload_id, number))
    session = gateway.uploads.take(ANA, upload_id, (State.OPEN,))
    storage = gateway.uploads.storage(session)
    direct.gather(gateway.uploads, session, storage)
    if completed:
        storage.complete_parts(path, session.handle, rows.parts(upload_id))
    rows.update(session, rows.letting_go(session), rows.UploadSession.epoch == session.epoch)
    assert gateway.uploads.status(ANA, upload_id).state == State.COMPLETING
    assert gateway.uploads.complete(ANA, upload_id).receipt.size == SIZE


def test_a_part_that_was_sent_again_in_the_middle_of_completing_is_not_passed_over(gateway, path):
    upload_id = opened(gateway, path=path)
    for number in (1, 2, 3):
        put(sign(gateway, upload_id, number))
    late = sign(gateway, upload_id, 2)
    session = gateway.uploads.take(ANA, upload_id, (State.OPEN,))
    direct.gather(gateway.uploads, session, gateway.uploads.storage(session))
    rows.update(session, rows.letting_go(session), rows.UploadSession.epoch == session.epoch)
    put(late, b"!" * 5 * MIB)
    with pytest.raises(UploadStateConflict):
        gateway.uploads.complete(ANA, upload_id)
    assert gateway.uploads.status(ANA, upload_id).state == State.OPEN
    assert gateway.uploads.complete(ANA, upload_id).receipt.size == SIZE
    with gateway.transfers.disk("submissions").open(path) as download:
        body = b"".join(download)
    assert (body[5 * MIB : 10 * MIB], len(body)) == (b"!" * 5 * MIB, SIZE)


class ListedStorage(MemoryStorage):
    """A store that says it holds many parts."""

    listed: list[StoredPart]

    def stored_parts(self, path: str, handle: str) -> list[StoredPart]:
        return self.listed

    def presign_part(self, *_: object, **__: object) -> None: ...

    def presign_download(self, *_: object, **__: object) -> None: ...


def test_more_parts_than_a_transaction_takes_are_all_recorded(gateway):
    count = 205
    upload_id = opened(gateway, size=count * 5 * MIB)
    storage = ListedStorage("submissions")
    storage.listed = [StoredPart(number, 5 * MIB, f"{number:032x}") for number in range(1, count + 1)]
    session = gateway.uploads.take(ANA, upload_id, (State.OPEN,))
    direct.gather(gateway.uploads, session, storage)
    found = rows.parts(upload_id)
    assert [(part.number, part.offset, part.etag) for part in found] == [
        (number, (number - 1) * 5 * MIB, f"{number:032x}") for number in range(1, count + 1)
    ]
    status = gateway.uploads.status(ANA, upload_id)
    assert (status.state, status.offset) == (State.COMPLETING, count * 5 * MIB)


# --- downloads --------------------------------------------------------------------------------------------------------


def test_a_download_url_is_for_who_may_read_the_file_and_is_an_event(gateway):
    file_id = finished(gateway).receipt.file_id
    signed = gateway.direct.file_url(user("reader", "VACS"), file_id, 30)
    assert (signed.method, signed.expires_in) == ("GET", 30)
    assert parse_qs(urlsplit(signed.url).query)["X-Amz-Expires"] == ["30"]
    assert [item["method"] for item in urls(file_id=file_id, user="reader-of-VACS")] == ["GET"]
    with pytest.raises(FileNotFoundError):
        gateway.direct.file_url(user("reader", "MACS"), file_id, 30)
    with pytest.raises(Forbidden):
        gateway.direct.file_url(ANA, file_id, 30)
    assert len([item for item in urls(file_id=file_id) if item["method"] == "GET"]) == 1
    assert ("access_denied", "failed") in outcomes(user=ANA.principal.username)


def test_a_download_url_lives_for_15_minutes_at_most(gateway):
    file_id = finished(gateway).receipt.file_id
    for seconds in (0, -1, 901):
        with pytest.raises(InvalidRequest):
            gateway.direct.file_url(Call(), file_id, seconds)
    assert gateway.direct.file_url(Call(), file_id, 900).expires_in == 900
