"""tuspy, as it comes from PyPI, against /uploads through both tiers."""

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed
from tusclient.storage.filestorage import FileStorage
from tusclient.uploader import Uploader

from chalicelib.limits import KIB, MIB
from tests.support.tus_trial import Upload
from tests.support.wire import Link, Wire

pytestmark = pytest.mark.clients

# A dead tier is back within seconds; a client that asks four times a second is patient enough.
RETRIES = {"retries": 240, "retry_delay": 0.25}
ODD = 20 * MIB + 17


def client(upload: Upload, endpoint: str | None = None) -> TusClient:
    return TusClient(endpoint or upload.endpoint, headers=upload.headers)


def uploader(upload: Upload, endpoint: str | None = None, **options) -> Uploader:
    return client(upload, endpoint).uploader(str(upload.source.path), metadata=upload.metadata, **options)


def last_headers(sent: Uploader) -> dict[str, str]:
    """What the answer to the last chunk said."""
    return dict(sent.request.response_headers)


@pytest.mark.parametrize("size", [1, 8 * MIB, ODD])
def test_a_file_in_one_request(tiers, tmp_path, size):
    upload = tiers.begin(tmp_path, size)
    sent = uploader(upload)
    sent.upload()
    upload.arrived(sent.url, last_headers(sent))


def test_an_empty_file_needs_no_chunk(tiers, tmp_path):
    upload = tiers.begin(tmp_path, 0)
    sent = uploader(upload)
    sent.upload()
    upload.arrived(sent.url)


@pytest.mark.parametrize(
    ("size", "chunk"),
    [(ODD, 4 * MIB), (ODD, 5 * MIB - 1), (ODD, 8 * MIB), (ODD, 8 * MIB + 1), (9 * MIB, 100 * KIB)],
    ids=["4 MiB", "5 MiB - 1", "8 MiB", "8 MiB + 1", "100 KiB"],
)
def test_a_file_in_chunks(tiers, tmp_path, size, chunk):
    upload = tiers.begin(tmp_path, size)
    sent = uploader(upload, chunk_size=chunk)
    sent.upload()
    upload.arrived(sent.url, last_headers(sent))


def test_the_asynchronous_uploader(tiers, tmp_path):
    upload = tiers.begin(tmp_path, ODD)
    sent = client(upload).async_uploader(str(upload.source.path), metadata=upload.metadata, chunk_size=4 * MIB)
    asyncio.run(sent.upload())
    upload.arrived(sent.url, last_headers(sent))


class Sha256(Uploader):
    """tuspy's own setting for another algorithm."""

    CHECKSUM_ALGORITHM_PAIR = ("sha256", hashlib.sha256)


class Damaged(Uploader):
    """Announces the digest of other bytes, as if they had changed on the way."""

    CHECKSUM_ALGORITHM_PAIR = ("sha1", lambda chunk: hashlib.sha1(chunk + b"x"))


@pytest.mark.parametrize("kind", [Uploader, Sha256])
def test_chunks_with_a_checksum(tiers, tmp_path, kind):
    upload = tiers.begin(tmp_path, ODD)
    about = {"metadata": upload.metadata, "chunk_size": 4 * MIB, "upload_checksum": True}
    sent = kind(str(upload.source.path), client=client(upload), **about)
    sent.upload()
    upload.arrived(sent.url, last_headers(sent))


def test_a_chunk_that_does_not_match_its_checksum_is_not_kept(tiers, tmp_path):
    upload = tiers.begin(tmp_path, ODD)
    sent = uploader(upload, chunk_size=4 * MIB, upload_checksum=True)
    sent.upload_chunk()
    about = {"chunk_size": 4 * MIB, "upload_checksum": True, "client": client(upload)}
    damaged = Damaged(str(upload.source.path), url=sent.url, **about)
    with pytest.raises(TusUploadFailed) as refusal:
        damaged.upload_chunk()
    assert refusal.value.status_code == 460
    assert upload.head(sent.url).headers["Upload-Offset"] == str(4 * MIB)
    sent.upload()
    upload.arrived(sent.url, last_headers(sent))


def test_a_process_goes_on_from_the_url_that_another_stored(tiers, tmp_path):
    upload = tiers.begin(tmp_path, ODD)
    stored = {"store_url": True, "chunk_size": 3 * MIB}
    first = uploader(upload, url_storage=FileStorage(str(tmp_path / "urls.json")), **stored)
    first.upload(stop_at=7 * MIB)
    second = uploader(upload, url_storage=FileStorage(str(tmp_path / "urls.json")), **stored)
    assert (second.url, second.offset) == (first.url, 7 * MIB)
    second.upload()
    upload.arrived(second.url, last_headers(second))


def test_who_is_not_signed_in_is_told_so(tiers, tmp_path):
    upload = tiers.begin(tmp_path, 10)
    stranger = TusClient(upload.endpoint).uploader(str(upload.source.path), metadata=upload.metadata)
    with pytest.raises(TusCommunicationError) as refusal:
        stranger.upload()
    assert refusal.value.status_code == 401
    assert upload.events() == []
    upload.nothing_stray(0)


def test_metadata_that_names_no_cohort_is_refused(tiers, tmp_path):
    upload = tiers.begin(tmp_path, 10)
    sent = client(upload).uploader(str(upload.source.path), metadata={"filename": upload.filename})
    with pytest.raises(TusCommunicationError) as refusal:
        sent.upload()
    assert refusal.value.status_code == 400
    assert upload.events() == []
    upload.nothing_stray(0)


def test_another_user_cannot_go_on_with_an_upload(tiers, tmp_path):
    upload, other = tiers.begin(tmp_path, ODD), tiers.begin(tmp_path, 1)
    sent = uploader(upload, chunk_size=4 * MIB)
    sent.upload_chunk()
    with pytest.raises(TusCommunicationError) as refusal:
        Uploader(str(upload.source.path), url=sent.url, client=client(other))
    assert refusal.value.status_code == 404
    sent.upload()
    upload.arrived(sent.url, last_headers(sent))


# --- what goes wrong on the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [64 * MIB, 5 * MIB - 1], ids=["one request", "chunks"])
@pytest.mark.parametrize("tier", ["services", "web"])
def test_a_tier_is_killed_and_comes_back_in_the_middle(breakable, tmp_path, tier, chunk):
    upload = breakable.begin(tmp_path, 24 * MIB + 1)
    killed_at = sorted(upload.random.randrange(MIB, upload.source.size) for _ in range(2))
    print(f"killed at {killed_at}")
    with Wire(breakable.stack.document["web_url"]) as wire:
        for number in killed_at:
            wire.at(number, lambda link: breakable.replace(tier))
        sent = uploader(upload, f"{wire.url}/uploads", chunk_size=chunk, **RETRIES)
        sent.upload()
        assert wire.pending == 0
    breakable.recover()
    upload.arrived(sent.url, last_headers(sent))


@pytest.mark.parametrize("chunk", [64 * MIB, 5 * MIB - 1], ids=["one request", "chunks"])
def test_connections_break(tiers, tmp_path, chunk):
    upload = tiers.begin(tmp_path, ODD)
    with Wire(tiers.stack.document["web_url"]) as wire:
        for number in sorted(upload.random.randrange(MIB, upload.source.size) for _ in range(5)):
            wire.at(number, Link.reset)
        sent = uploader(upload, f"{wire.url}/uploads", chunk_size=chunk, **RETRIES)
        sent.upload()
        assert wire.pending == 0
    upload.arrived(sent.url, last_headers(sent))


@pytest.mark.parametrize("chunk", [64 * MIB, 5 * MIB - 1], ids=["one request", "chunks"])
def test_the_answer_to_the_last_chunk_is_lost(tiers, tmp_path, chunk):
    """tuspy then asks where the upload stands, and sends an empty chunk to a finished upload."""
    upload = tiers.begin(tmp_path, ODD)
    with Wire(tiers.stack.document["web_url"]) as wire:
        wire.at(upload.source.size, Link.swallow_answer)
        sent = uploader(upload, f"{wire.url}/uploads", chunk_size=chunk, **RETRIES)
        sent.upload()
        assert wire.pending == 0
    upload.arrived(sent.url, last_headers(sent))


@pytest.mark.parametrize("attempt", range(5))
def test_asking_while_an_upload_is_being_finished(tiers, tmp_path, attempt):
    """To tus-js-client any refusal but 423 means that the upload is lost, and it begins a new one."""
    upload = tiers.begin(tmp_path, 1)
    sent = uploader(upload)
    sent.set_url(sent.create_url())
    asked: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        patched = pool.submit(sent.upload_chunk)
        while not patched.done():
            asked += pool.map(lambda _: upload.head(sent.url).status_code, range(3))
        patched.result()
    assert set(asked) <= {200, 423}
    upload.arrived(sent.url, last_headers(sent))
