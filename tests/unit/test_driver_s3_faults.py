"""What only the S3 driver can get wrong: translation, parts in flight, memory, signing. Stores' answers are put in place."""

from __future__ import annotations

import ast
import hashlib
import inspect
import threading
from concurrent.futures import wait as futures_wait
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from chalicelib import errors
from chalicelib.config import DiskConfig, Secret
from chalicelib.limits import GIB, MIB, PART_BYTES
from chalicelib.storage.base import ByteRange, Part
from nas_gateway import drivers
from nas_gateway.drivers import s3_errors, s3_upload
from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.memory import MemoryStorage
from nas_gateway.drivers.s3 import S3Storage, peak_upload_bytes
from nas_gateway.drivers.s3_client import make_client
from nas_gateway.drivers.s3_upload import composite_etag, in_flight
from tests.support.faults import Body, BreakingReader, SourceBroke, s3_error

CONFIG = DiskConfig(
    "s3",
    "s3",
    bucket="nas",
    endpoint="http://127.0.0.1:9",  # nothing gets there: every answer is put in place
    access_key=Secret("an-access-key"),
    secret_key=Secret("a-secret-key"),
)


class Store:
    """Answers by operation, (status, body[, headers]) or a function of the request; keeps what was asked."""

    def __init__(self, client: Any) -> None:
        self.asked: list[str] = []
        self.requests: list[Any] = []
        self.flying, self.most, self.lock = 0, 0, threading.Lock()
        self.answers: dict[str, Any] = {
            "HeadObject": (404, b""),
            "CreateMultipartUpload": (200, b"<R><UploadId>u1</UploadId></R>"),
            "UploadPart": (200, b""),
            "AbortMultipartUpload": (204, b""),
            "ListParts": (404, s3_error("NoSuchUpload")),
            "PutObject": (200, b""),
        }
        client.meta.events.register_first("before-send.s3", self.answer)

    def answer(self, request: Any, event_name: str, **_: Any) -> AWSResponse:
        operation = event_name.rpartition(".")[2]
        with self.lock:
            self.asked.append(operation)
            self.requests.append(request)
            self.flying += operation == "UploadPart"
            self.most = max(self.most, self.flying)
        answer = self.answers[operation]
        try:
            status, body, *headers = answer(request) if callable(answer) else answer
        finally:
            with self.lock:
                self.flying -= operation == "UploadPart"
        return AWSResponse(
            request.url, status, {"ETag": f'"{"0" * 32}"', **(headers[0] if headers else {})}, Body(body)
        )


@pytest.fixture
def client():
    return make_client(CONFIG)


@pytest.fixture
def store(client):
    return Store(client)


@pytest.fixture
def storage(client, store):
    return S3Storage(CONFIG, client)


def client_error(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "canary"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


class TestTranslation:
    @pytest.mark.parametrize(
        ("code", "status", "kind"),
        [
            ("NoSuchKey", 404, errors.FileMissing),
            ("404", 404, errors.FileMissing),
            ("NoSuchBucket", 404, errors.StorageRefused),
            ("NoSuchUpload", 404, errors.UploadLost),
            ("AccessDenied", 403, errors.StorageRefused),
            ("403", 403, errors.StorageRefused),
            ("InvalidAccessKeyId", 403, errors.StorageRefused),
            ("SignatureDoesNotMatch", 403, errors.StorageRefused),
            ("SlowDown", 503, errors.StorageUnavailable),
            ("503", 503, errors.StorageUnavailable),
            ("SomethingNew", 599, errors.StorageUnavailable),
            ("QuotaExceeded", 403, errors.StorageFull),
            ("XMinioStorageFull", 507, errors.StorageFull),
            ("507", 507, errors.StorageFull),
            ("PreconditionFailed", 412, errors.FileExists),
            ("412", 412, errors.FileExists),
            ("InvalidRange", 416, errors.RangeNotSatisfiable),
            ("EntityTooSmall", 400, errors.InvalidRequest),
            ("XAmzContentSHA256Mismatch", 400, errors.DigestMismatch),
            ("InvalidPart", 400, errors.UploadStateConflict),
            ("NotImplemented", 501, errors.Unsupported),
            ("SomethingNew", 400, errors.StorageError),
        ],
    )
    def test_the_stores_codes(self, code, status, kind):
        with pytest.raises(errors.DepotError) as caught, s3_errors.translated():
            raise client_error(code, status)
        assert type(caught.value) is kind
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (EndpointConnectionError(endpoint_url="u"), errors.StorageUnavailable),
            (ConnectTimeoutError(endpoint_url="u"), errors.StorageUnavailable),
            (ReadTimeoutError(endpoint_url="u"), errors.StorageUnavailable),
            (ResponseStreamingError(error="e"), errors.TruncatedBody),
            (IncompleteReadError(actual_bytes=1, expected_bytes=2), errors.TruncatedBody),
            (NoCredentialsError(), errors.StorageRefused),
        ],
    )
    def test_the_connections_errors(self, error, kind):
        assert type(s3_errors.translate(error)) is kind

    def test_a_store_that_is_not_there_is_unavailable(self):
        storage = S3Storage(CONFIG, make_client(CONFIG))
        with pytest.raises(errors.StorageUnavailable):
            storage.get_metadata("f")


class TestSave:
    def test_a_small_file_is_one_request(self, storage, store):
        storage.save("f", b"x" * 1000)
        storage.save("g", iter([b"x" * 1000]))
        assert store.asked == ["PutObject", "PutObject"]

    def test_if_absent_is_looked_at_and_enforced_by_the_store(self, storage, store):
        storage.save("f", b"x", if_absent=True)
        assert store.asked == ["HeadObject", "PutObject"]
        assert store.requests[-1].headers["If-None-Match"] in ("*", b"*")
        store.answers["PutObject"] = (412, s3_error("PreconditionFailed"))
        with pytest.raises(errors.FileExists):
            storage.save("f", b"x", if_absent=True)

    def test_a_wrong_digest_of_a_small_file_is_never_sent(self, storage, store):
        with pytest.raises(errors.DigestMismatch):
            storage.save("f", b"x", sha256="0" * 64)
        assert store.asked == []

    def test_parts_in_flight_are_bounded(self, storage, store):
        """Four parts meet at a barrier, so four are in flight; a fifth would be counted."""
        together = threading.Barrier(4)

        def part(request):
            together.wait(timeout=30)
            return 200, b""

        store.answers["UploadPart"] = part
        store.answers["CompleteMultipartUpload"] = (400, s3_error("InvalidPart"))
        with pytest.raises(errors.UploadStateConflict):
            storage.save("f", iter([bytes(MIB)] * 64))
        assert store.asked.count("UploadPart") == 8
        assert store.most == 4

    def test_no_more_is_read_ahead_than_the_memory_formula_says(self, storage, store, monkeypatch):
        """No part is stored before the driver itself waits for one: what it has read by then is what it holds."""
        done, full, ahead = [], threading.Event(), []

        def part(request):
            full.wait(timeout=30)
            done.append(1)
            return 200, b""

        def source():
            for index in range(12 * 8):
                ahead.append(index * MIB - len(done) * PART_BYTES)
                yield bytes(MIB)

        def waited(*args, **kwargs):
            full.set()
            return futures_wait(*args, **kwargs)

        monkeypatch.setattr(s3_upload, "wait", waited)
        store.answers |= {"UploadPart": part, "CompleteMultipartUpload": (400, s3_error("InvalidPart"))}
        with pytest.raises(errors.UploadStateConflict):
            storage.save("f", source())
        assert max(ahead) < (CONFIG.concurrency + 1) * PART_BYTES <= peak_upload_bytes(CONFIG)

    def test_parts_in_flight_end_before_the_abort(self, storage, store):
        """The abort of an upload that still receives parts can leave some behind."""
        failed, seen = threading.Event(), []

        def part(request):
            if "partNumber=2" in request.url:
                failed.set()
                return 403, s3_error("AccessDenied")
            failed.wait(timeout=30)
            return 200, b""

        def abort(request):
            seen.append(store.flying)
            return 204, b""

        store.answers |= {"UploadPart": part, "AbortMultipartUpload": abort}
        with pytest.raises(errors.StorageRefused):
            storage.save("f", iter([bytes(MIB)] * 64))
        assert seen == [0]
        assert "CompleteMultipartUpload" not in store.asked

    def test_a_broken_source_aborts_until_the_store_knows_nothing(self, storage, store):
        parts_left = [(200, b"<R><Part><PartNumber>1</PartNumber><Size>1</Size></Part></R>")] * 2
        store.answers["ListParts"] = lambda request: parts_left.pop() if parts_left else (404, s3_error("NoSuchUpload"))
        with pytest.raises(SourceBroke):
            storage.save("f", BreakingReader(9 * MIB))
        assert store.asked.count("AbortMultipartUpload") == 3
        assert "CompleteMultipartUpload" not in store.asked

    def test_an_abort_that_fails_does_not_hide_the_reason(self, storage, store, caplog):
        store.answers["AbortMultipartUpload"] = (403, s3_error("AccessDenied"))
        with pytest.raises(SourceBroke):
            storage.save("canary/f", BreakingReader(9 * MIB))
        assert "multipart_upload_not_aborted" in caplog.text
        assert "canary" not in caplog.text

    def test_a_store_without_etags_of_md5_is_believed_only_what_it_says(self, storage, store):
        """Completed for certain, but nothing shows it: lost, not a success."""
        store.answers["CompleteMultipartUpload"] = (200, b"<R><ETag></ETag></R>")
        store.answers["HeadObject"] = (200, b"")  # another object's ETag
        with pytest.raises(errors.UploadLost):
            storage.complete_parts("f", "u1", [Part(1, 0, 3, "not-a-digest", "")])


class TestSigning:
    def test_the_digest_is_computed_once_and_signed(self, storage, store):
        saved = storage.save("f", b"hello")
        headers = store.requests[-1].headers
        text = {name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in headers.items()}
        assert text["x-amz-content-sha256"] == saved.sha256
        assert "x-amz-content-sha256" in text["authorization"].partition("SignedHeaders=")[2]

    def test_our_signature_is_botocores_own(self, storage, store, client):
        """The same request signed by botocore itself, within the same second or not: compared by its own parts."""
        storage.save("f", b"hello", "text/csv", {"a": "b"})
        ours = store.requests[-1]
        client.put_object(
            Bucket="nas", Key="f", Body=b"hello", ContentType="text/csv",
            Metadata={"a": "b", "depot-sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"},
        )  # fmt: skip
        theirs = store.requests[-1]

        def signed(request):
            value = request.headers["Authorization"]
            text = value.decode() if isinstance(value, bytes) else value
            return text.partition("SignedHeaders=")[2].partition(",")[0]

        assert signed(ours) == signed(theirs)
        assert ours.headers["X-Amz-Content-SHA256"] == theirs.headers["X-Amz-Content-SHA256"]

    def test_other_calls_of_the_client_are_signed_as_ever(self, storage, store, client):
        client.put_object(Bucket="nas", Key="f", Body=b"something else")
        assert store.requests[-1].headers["Authorization"]

    def test_deleting_many_sends_the_md5_that_older_stores_demand(self, storage, store):
        store.answers["DeleteObjects"] = (200, b"<R></R>")
        store.answers["ListObjectsV2"] = (
            200,
            b"<R><IsTruncated>false</IsTruncated><Contents><Key>a/f</Key><Size>1</Size><ETag>e</ETag>"
            b"<LastModified>2024-01-01T00:00:00Z</LastModified></Contents></R>",
        )
        with pytest.raises(errors.StorageError, match="1 files could not"):
            storage.delete_prefix("a")
        assert store.requests[-1].headers["Content-MD5"]


class TestDownload:
    @pytest.mark.parametrize("given", ["", "bytes 5-9/10", "bytes */10"])
    def test_a_store_that_answers_another_range_is_not_believed(self, storage, store, given):
        store.answers["GetObject"] = (206, b"abc", {"Content-Length": "3", "Content-Range": given})
        with pytest.raises(errors.StorageError):
            storage.open("f", ByteRange(0, 2))

    def test_a_body_that_ends_early_is_truncated(self, storage, store):
        store.answers["GetObject"] = (200, b"abc", {"Content-Length": "5"})
        with storage.open("f") as download, pytest.raises(errors.TruncatedBody):
            download.read()


class TestFormulas:
    def test_memory_is_six_parts_whatever_the_size(self):
        assert peak_upload_bytes(CONFIG) == 6 * PART_BYTES == 48 * MIB
        assert peak_upload_bytes(CONFIG, 256 * MIB) == 48 * MIB
        assert peak_upload_bytes(CONFIG, 256 * MIB + 1) == peak_upload_bytes(CONFIG, 70 * GIB) == 6 * 16 * MIB
        # 5 TiB needs parts of 525 MiB: one in flight, one being read, one for the tail.
        assert peak_upload_bytes(CONFIG, 5 * 1024 * GIB) == 3 * 525 * MIB

    @pytest.mark.parametrize(("part", "flying"), [(8, 4), (16, 4), (17, 3), (32, 2), (64, 1), (4096, 1)])
    def test_larger_parts_fly_fewer(self, part, flying):
        assert in_flight(part * MIB, 4) == flying

    def test_the_etag_of_parts(self):
        # Ceph's answer for 5 MiB of "z" and one "q".
        def md5(data: bytes) -> str:
            return hashlib.md5(data, usedforsecurity=False).hexdigest()

        parts = [Part(1, 0, 5 * MIB, md5(b"z" * (5 * MIB)), ""), Part(2, 5 * MIB, 1, md5(b"q"), "")]
        assert composite_etag(parts) == "5cacb18ac1b55b4146982afd016f7127-2"
        assert composite_etag([Part(1, 0, 1, "not hex", "")]) is None
        assert composite_etag([Part(1, 0, 1, "abcd", "")]) is None


class TestMake:
    def test_each_driver_by_its_name(self, tmp_path):
        local = drivers.make(DiskConfig("a", "local", root=str(tmp_path / "a")))
        assert isinstance(local, LocalFileSystemStorage)
        assert not (tmp_path / "a").exists()
        assert isinstance(drivers.make(DiskConfig("m", "memory")), MemoryStorage)
        made = drivers.make(CONFIG)
        assert isinstance(made, S3Storage)
        assert made.disk == "s3"
        assert "secret" not in repr(made)

    def test_another_tiers_driver_is_a_wrong_setting(self):
        with pytest.raises(errors.SettingsError, match="remote"):
            drivers.make(DiskConfig("r", "remote"))

    def test_boto3_is_not_loaded_for_other_disks(self):
        tree = ast.parse(inspect.getsource(drivers))
        top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any("s3" in ast.dump(node) or "boto" in ast.dump(node) for node in top)
