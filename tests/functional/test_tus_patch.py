"""tus 1.0.0, PATCH: bytes at an offset, acknowledged when they are durable; checksums; what is refused, and with what truth."""

import base64
import hashlib
import random
import socket
import threading
from urllib.parse import urlsplit

import pytest

from chalicelib.limits import CHECKED_CHUNK_BYTES, MIB
from tests.support.client import code
from tests.support.stack import wait_until
from tests.support.tus_client import CHUNK, Tus


@pytest.fixture(scope="module")
def tus(web) -> Tus:
    return Tus(web)


def checksum(body: bytes, algorithm: str = "sha1") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, body).digest()).decode()}"


def test_a_chunk_is_acknowledged_with_the_new_offset(tus):
    path = tus.opened(11)
    answer = tus.patch(path, 0, b"hello")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (answer.headers["Upload-Offset"], answer.headers["Tus-Resumable"]) == ("5", "1.0.0")
    assert answer.headers["Upload-Expires"].endswith(" GMT")
    assert tus.head(path).headers["Upload-Offset"] == "5"


def test_the_last_chunk_is_answered_with_the_receipt(tus, events):
    path = tus.opened(11)
    tus.patch(path, 0, b"hello")
    done = tus.patch(path, 5, b" world")
    assert (done.status_code, done.headers["Upload-Offset"]) == (204, "11")
    assert "Upload-Expires" not in done.headers
    assert tus.content(done) == b"hello world"
    digest = done.headers.get("X-Depot-SHA256") or done.headers["X-Depot-Parts-SHA256"]
    assert digest.startswith(hashlib.sha256(b"hello world").hexdigest()) or "-" in digest
    tracked = events(tracking_id=done.headers["X-Depot-Tracking-Id"])
    assert [event["outcome"] for event in tracked] == ["intent", "completed"]
    assert {event["file_id"] for event in tracked} == {done.headers["X-Depot-File-Id"]}


def test_any_split_gives_the_same_file(tus):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    body = rng.randbytes(12 * MIB + rng.randrange(MIB))
    path, at = tus.opened(len(body)), 0
    while at < len(body):
        step = rng.choice((1, 1000, 65536, 3 * MIB, 5 * MIB + 1, 8 * MIB))
        block = body[at : at + step]
        answer = tus.patch(path, at, iter([block]) if rng.random() < 0.3 else block)
        at += len(block)
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(at))
    assert tus.content(answer) == body


def test_an_empty_chunk_changes_nothing(tus):
    path = tus.opened(11)
    answer = tus.patch(path, 0, b"")
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, "0")


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "text/csv", "application/offset+octet-stream; a=b"])
def test_another_content_type_is_415(tus, kind):
    path = tus.opened(11)
    answer = tus.patch(path, 0, b"hello", content_type=kind)
    assert (answer.status_code, code(answer)) == (415, "unsupported_media_type")
    assert tus.head(path).headers["Upload-Offset"] == "0"


@pytest.mark.parametrize("offset", [None, "", "-1", "+0", "0.0", "0x0", "zero", "0, 0", "9" * 25])
def test_an_offset_that_is_no_plain_number_is_400(tus, offset):
    path = tus.opened(11)
    answer = tus.patch(path, 0, b"hello", upload_offset=offset)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")
    assert "Upload-Offset" in answer.json()["error"]["message"]


@pytest.mark.parametrize("offset", [0, 4, 6, 11, 10**12])
def test_another_offset_than_the_uploads_is_409_with_the_truth_and_stores_nothing(tus, offset):
    path = tus.opened(11)
    tus.patch(path, 0, b"hello")
    answer = tus.patch(path, offset, b"hello")
    assert (answer.status_code, code(answer)) == (409, "offset_conflict")
    assert answer.headers["Upload-Offset"] == "5"
    assert tus.content(tus.patch(path, 5, b" world")) == b"hello world"


def test_a_chunk_repeated_after_the_end_is_409_with_the_truth(tus):
    path = tus.opened(5)
    assert tus.patch(path, 0, b"hello").status_code == 204
    answer = tus.patch(path, 0, b"hello")
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (409, "5")


def test_more_bytes_than_the_length_are_refused(tus):
    path = tus.opened(5)
    answer = tus.patch(path, 0, b"hello!")
    assert (answer.status_code, code(answer)) == (400, "length_mismatch")
    assert tus.head(path).headers["Upload-Offset"] == "0"


# --- checksums ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_chunk_that_matches_its_checksum_is_kept(tus, algorithm):
    path = tus.opened(11)
    tus.patch(path, 0, b"hello ", upload_checksum=checksum(b"hello ", algorithm))
    done = tus.patch(path, 6, b"world", upload_checksum=checksum(b"world", algorithm))
    assert tus.content(done) == b"hello world"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("body", [b"jello", b""], ids=["other bytes", "none"])
def test_a_chunk_that_does_not_is_460_and_discarded(tus, algorithm, body):
    path = tus.opened(11)
    answer = tus.patch(path, 0, body, upload_checksum=checksum(b"hello", algorithm))
    assert (answer.status_code, code(answer)) == (460, "checksum_mismatch")
    assert tus.head(path).headers["Upload-Offset"] == "0"
    assert tus.patch(path, 0, b"hello", upload_checksum=checksum(b"hello", algorithm)).status_code == 204


def test_an_algorithm_that_is_not_offered_is_400_and_nothing_is_kept(tus):
    path = tus.opened(11)
    answer = tus.patch(path, 0, b"hello", upload_checksum="md5 XUFAKrxLKna5cZ2REBfFkg==")
    assert (answer.status_code, code(answer)) == (400, "invalid_request")
    assert "sha1, sha256" in answer.json()["error"]["message"]
    assert tus.head(path).headers["Upload-Offset"] == "0"


def test_a_checked_chunk_over_the_ceiling_is_413_and_nothing_of_it_is_kept(tus):
    body = bytes(CHECKED_CHUNK_BYTES + 1)
    path = tus.opened(len(body))
    answer = tus.patch(path, 0, body, upload_checksum=checksum(body))
    assert (answer.status_code, code(answer)) == (413, "payload_too_large")
    assert tus.head(path).headers["Upload-Offset"] == "0"


# --- a connection that breaks ---------------------------------------------------------------------------------


def test_after_a_broken_connection_the_client_goes_on_from_what_was_kept(tus):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    body, sent = random.Random(seed).randbytes(10 * MIB), 9 * MIB + 5
    path, where = tus.opened(len(body)), urlsplit(tus.client.url)
    head = [
        f"PATCH {path} HTTP/1.1",
        f"Host: {where.netloc}",
        f"Authorization: {tus.client.session.headers['Authorization']}",
        "Tus-Resumable: 1.0.0",
        "Upload-Offset: 0",
        f"Content-Type: {CHUNK}",
        f"Content-Length: {len(body)}",
    ]
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body[:sent])

    def kept() -> int:
        return int(tus.head(path).headers.get("Upload-Offset", 0))

    # Each tier's host drops what it had read ahead of its handler: 1 MiB and one read of the socket. The rest is kept.
    wait_until(lambda: kept() >= sent - 3 * MIB, 30, "most of what was sent to be kept")

    def resumed():
        offset = kept()
        assert offset <= sent
        answer = tus.patch(path, offset, body[offset:])
        assert answer.status_code in (204, 409, 423), answer.text
        return answer if answer.status_code == 204 else None

    assert tus.content(wait_until(resumed, 30, "the rest to be taken")) == body


# --- two at once, and nobody's --------------------------------------------------------------------------------


def test_two_patches_at_once_store_the_bytes_once(web, as_user):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    body = random.Random(seed).randbytes(6 * MIB)
    tus = Tus(web)
    path, answers = tus.opened(len(body)), []

    def send():
        other = Tus(type(web)(web.url, dict(web.session.headers)))
        answers.append(other.patch(path, 0, body))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    won = [answer for answer in answers if answer.status_code == 204]
    lost = [answer for answer in answers if answer.status_code != 204]
    assert len(won) == len(lost) == 1
    assert (lost[0].status_code, code(lost[0])) in (
        (409, "offset_conflict"),
        (423, "upload_locked"),
        (409, "lease_lost"),
    )
    assert lost[0].status_code != 423 or int(lost[0].headers["Retry-After"]) > 0
    assert tus.content(won[0]) == body


@pytest.mark.parametrize("upload_id", ["0" * 32, "nonsense", "a%2Fb", "a;b", "%00", "x" * 100])
def test_an_upload_that_does_not_exist_is_404(tus, upload_id):
    answer = tus.patch(f"/uploads/{upload_id}", 0, b"x")
    assert (answer.status_code, code(answer)) in ((404, "upload_not_found"), (404, "not_found"))


def test_another_users_upload_does_not_exist(tus, as_user):
    path = tus.opened(5)
    other = Tus(as_user("uploader", "VACS"))
    for answer in (other.patch(path, 0, b"hello"), other.head(path), other.delete(path)):
        assert answer.status_code == 404
    assert other.client.get(path).status_code == 404
    assert tus.patch(path, 0, b"hello").status_code == 204
