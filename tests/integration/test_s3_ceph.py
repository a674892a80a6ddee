"""The S3 driver against a real store (Ceph RGW): the whole contract, and what moto does not check."""

from __future__ import annotations

import hashlib
import random
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from chalicelib.config import Secret
from chalicelib.errors import (
    DepotError,
    DigestMismatch,
    FileExists,
    FileMissing,
    InvalidPath,
    InvalidRequest,
    ObjectCorrupt,
    StorageRefused,
    StorageUnavailable,
    TruncatedBody,
    UploadLost,
)
from chalicelib.limits import MIB
from nas_gateway.drivers.s3 import S3Storage
from nas_gateway.drivers.s3_client import make_client
from tests.support.conformance import RaceConformance, StorageConformance, pieces
from tests.support.copy_conformance import CopyConformance
from tests.support.faults import BreakingReader, SourceBroke, StoreAnswers, s3_error
from tests.support.part_conformance import LostPartConformance
from tests.support.tail_conformance import ExactTailConformance

pytestmark = pytest.mark.nas


class TestConformance(StorageConformance, RaceConformance, LostPartConformance, CopyConformance, ExactTailConformance):
    @pytest.fixture
    def storage(self, nas_disk):
        self.disk = replace(nas_disk, prefix="")
        return S3Storage(self.disk)

    def reopen(self, storage):
        return S3Storage(self.disk)


@pytest.fixture
def client(nas_disk):
    return make_client(nas_disk)


@pytest.fixture
def storage(nas_disk, client):
    return S3Storage(nas_disk, client)


def uploads(client, nas_disk) -> list[str]:
    """What is open on this disk; the conformance suite's is another, without a prefix."""
    found = client.list_multipart_uploads(Bucket=nas_disk.bucket, Prefix=f"{nas_disk.prefix}/")
    return [item["UploadId"] for item in found.get("Uploads", [])]


class TestParts:
    def test_a_small_part_in_the_middle_is_refused_and_shows_nothing(self, storage):
        handle = storage.create_parts("small/f")
        parts = [storage.write_part("small/f", handle, n, (n - 1) * 100, bytes(100)) for n in (1, 2)]
        with pytest.raises(InvalidRequest, match="5 MiB"):
            storage.complete_parts("small/f", handle, parts)
        assert not storage.exists("small/f")
        storage.abort_parts("small/f", handle)

    def test_the_store_refuses_a_part_whose_digest_is_another(self, storage, client, nas_disk):
        """Proves that signing with a digest of our own still has the store compare it with what arrives."""
        where = {"Bucket": nas_disk.bucket, "Key": "disk/digest/f"}
        wrong = hashlib.sha256(b"something else").hexdigest()
        upload = client.create_multipart_upload(**where)["UploadId"]
        for call, fields in (
            (client.put_object, {}),
            (client.upload_part, {"UploadId": upload, "PartNumber": 1}),
        ):
            with storage._digests.use(wrong), pytest.raises(ClientError) as caught:
                call(**where, **fields, Body=b"what is sent")
            assert caught.value.response["Error"]["Code"] == "XAmzContentSHA256Mismatch"
        assert client.list_parts(**where, UploadId=upload).get("Parts", []) == []
        client.abort_multipart_upload(**where, UploadId=upload)
        assert not storage.exists("digest/f")

    def test_bytes_that_change_on_the_way_are_refused(self, storage, client, nas_disk):
        def flip(request):
            body = bytearray(request.body)
            body[len(body) // 2] ^= 1
            request.body = body

        StoreAnswers(client, "UploadPart", flip)
        with pytest.raises(DigestMismatch):
            storage.save("flipped/f", pieces(bytes(17 * MIB)))
        StoreAnswers(client, "PutObject", flip)
        with pytest.raises(DigestMismatch):
            storage.save("flipped/f", b"small")
        assert not storage.exists("flipped/f")
        assert uploads(client, nas_disk) == []

    def test_botocore_signs_by_itself_where_checksums_are_its_business(self, nas_disk):
        """(Ceph 16 itself does not take the new checksums with chunked signing; over HTTP boto3 sends them as a header.)"""
        storage = S3Storage(replace(nas_disk, checksums="when_supported"))
        storage.save("checksums/f", pieces(bytes(9 * MIB)))
        assert storage.get_metadata("checksums/f").size == 9 * MIB
        storage.delete("checksums/f")


class TestCopy:
    """Which way bytes take that become a part of another file: `CopyConformance` has what comes of it."""

    SOURCE = "copy/a b+c é?&=.csv"

    @pytest.fixture
    def source(self, storage):
        data = random.Random(5).randbytes(5 * MIB + 99)
        handle = storage.create_parts(self.SOURCE)
        parts = [
            storage.write_part(self.SOURCE, handle, 1, 0, data[: 5 * MIB]),
            storage.write_part(self.SOURCE, handle, 2, 5 * MIB, data[5 * MIB :]),
        ]
        storage.complete_parts(self.SOURCE, handle, parts)
        return parts

    def copy(self, client, storage, source, parts):
        """What was asked of the store by copying; the copy is compared."""
        counts = {name: StoreAnswers(client, name) for name in ("UploadPartCopy", "UploadPart", "GetObject")}
        handle = storage.create_parts("copy/f")
        made = [
            storage.copy_part(
                "copy/f", handle, part.number, part.offset, source, self.SOURCE, part.offset, part.size,
                sha256=part.sha256, etag=part.etag,
            )
            for part in parts
        ]  # fmt: skip
        seen = {name: answers.seen for name, answers in counts.items()}
        assert made == parts
        info = storage.complete_parts("copy/f", handle, made)
        assert info.etag == source.get_metadata(self.SOURCE).etag
        return seen

    def test_the_store_copies_by_itself_within_one_account(self, storage, client, nas_disk, source):
        for disk in (storage, S3Storage(replace(nas_disk, name="another disk"))):
            seen = self.copy(client, storage, disk, source)
            assert seen == {"UploadPartCopy": 2, "UploadPart": 0, "GetObject": 0}

    @pytest.mark.parametrize(
        "change", [{"access_key": Secret("other")}, {"endpoint": "http://localhost:1"}, {"region": "x"}]
    )
    def test_another_account_or_endpoint_is_read_through(self, storage, client, nas_disk, source, change):
        other = S3Storage(replace(nas_disk, **change), client)  # the same store, so that it can be read at all
        seen = self.copy(client, storage, other, source)
        assert seen == {"UploadPartCopy": 0, "UploadPart": 2, "GetObject": 2}

    @pytest.mark.parametrize("code", ["NotImplemented", "MethodNotAllowed"])
    def test_a_store_that_cannot_copy_is_read_through(self, storage, client, source, code):
        StoreAnswers(client, "UploadPartCopy", (501, s3_error(code)), (501, s3_error(code)))
        assert self.copy(client, storage, storage, source)["GetObject"] == 2

    def test_a_part_that_the_store_copied_wrongly_is_read_through(self, storage, client, source):
        wrong = b"<CopyPartResult><ETag>&quot;00000000000000000000000000000000&quot;</ETag></CopyPartResult>"
        StoreAnswers(client, "UploadPartCopy", (200, wrong))
        seen = self.copy(client, storage, storage, source)
        assert (seen["UploadPart"], seen["GetObject"]) == (1, 1)

    def test_a_busy_store_stays_an_error(self, storage, client, source):
        StoreAnswers(client, "UploadPartCopy", *[(503, s3_error("SlowDown"))] * 3)
        handle = storage.create_parts("copy/f")
        with pytest.raises(StorageUnavailable):
            storage.copy_part(
                "copy/f", handle, 1, 0, storage, self.SOURCE, 0, 5 * MIB, sha256=source[0].sha256, etag=source[0].etag
            )
        storage.abort_parts("copy/f", handle)

    @pytest.mark.parametrize("told", [True, False])
    def test_a_lost_upload_is_lost(self, storage, source, told):
        known = {"sha256": source[0].sha256, "etag": source[0].etag} if told else {}
        aborted = storage.create_parts("copy/f")
        storage.abort_parts("copy/f", aborted)
        for handle in (aborted, "2~nonsense", ""):
            with pytest.raises(UploadLost):
                storage.copy_part("copy/f", handle, 1, 0, storage, self.SOURCE, 0, 5 * MIB, **known)


class TestTails:
    NAME = f"{'ab' * 16}/0-{hashlib.sha256(b'tail').hexdigest()}"

    def test_bytes_that_change_on_the_way_are_refused(self, storage, client):
        StoreAnswers(client, "PutObject", lambda request: setattr(request, "body", b"tale"))
        with pytest.raises(DigestMismatch):
            storage.put_tail(self.NAME, b"tail")
        assert list(storage.list_tails()) == []

    def test_a_tail_that_the_store_holds_otherwise_is_corrupt(self, storage, client, nas_disk):
        key = {"Bucket": nas_disk.bucket, "Key": f"{nas_disk.prefix}/.depot-stage/{self.NAME}"}
        storage.put_tail(self.NAME, b"tail")
        assert client.get_object(**key)["Body"].read() == b"tail"
        client.put_object(**key, Body=b"tale")
        with pytest.raises(ObjectCorrupt):
            storage.get_tail(self.NAME)
        storage.delete_tail(self.NAME)

    def test_foreign_objects_among_them_are_passed_over(self, storage, client, nas_disk):
        where = f"{nas_disk.prefix}/.depot-stage/"
        for name in ("x", "tails/y", f"{self.NAME}/z"):
            client.put_object(Bucket=nas_disk.bucket, Key=where + name, Body=b"")
        storage.put_tail(self.NAME, b"tail")
        assert [tail.name for tail in storage.list_tails()] == [self.NAME]
        storage.delete_tail(self.NAME)

    def test_1001_tails_page(self, storage):
        names = {self.NAME.replace("ab", f"{n:02x}", 1).replace("/0-", f"/{m}-") for n in range(7) for m in range(143)}
        assert len(names) == 1001
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: storage.put_tail(name, b"tail"), names))
            assert {tail.name for tail in storage.list_tails()} == names
            list(pool.map(storage.delete_tail, names))
        assert list(storage.list_tails()) == []

    def test_disks_in_one_bucket_keep_their_tails_apart(self, storage, nas_disk):
        other = S3Storage(replace(nas_disk, prefix="other"))
        storage.put_tail(self.NAME, b"tail")
        assert list(other.list_tails()) == []
        with pytest.raises(FileMissing):
            other.get_tail(self.NAME)
        storage.delete_tail(self.NAME)


class TestSave:
    def test_an_upload_aborted_behind_our_back_is_lost(self, storage, client, nas_disk):
        path = "foreign/f"

        def source():
            for index in range(5):
                if index == 3:
                    (upload,) = uploads(client, nas_disk)
                    client.abort_multipart_upload(Bucket=nas_disk.bucket, Key="disk/" + path, UploadId=upload)
                yield bytes(8 * MIB)

        with pytest.raises(UploadLost):
            storage.save(path, source())
        assert not storage.exists(path)
        assert uploads(client, nas_disk) == []

    @pytest.mark.parametrize("after", [8 * MIB, 8 * MIB + 1, 41 * MIB])
    def test_a_broken_source_leaves_no_open_upload(self, storage, client, nas_disk, after):
        with pytest.raises(SourceBroke):
            storage.save("broken/f", BreakingReader(after))
        assert not storage.exists("broken/f")
        assert uploads(client, nas_disk) == []

    @pytest.mark.parametrize("failing", [0, 2, 4])
    def test_a_part_that_fails_leaves_no_open_upload(self, storage, client, nas_disk, failing):
        StoreAnswers(client, "UploadPart", *[None] * failing, (403, s3_error("AccessDenied")))
        with pytest.raises(StorageRefused) as caught:
            storage.save("failing/f", pieces(bytes(41 * MIB), 3 * MIB))
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert not storage.exists("failing/f")
        assert uploads(client, nas_disk) == []

    def test_a_busy_store_is_asked_again(self, storage, client):
        answers = StoreAnswers(client, "UploadPart", (503, s3_error("SlowDown")))
        data = random.Random(1).randbytes(17 * MIB)
        storage.save("busy/f", pieces(data))
        assert answers.seen == 4
        assert storage.get_file("busy/f") == data

    def test_two_parts_and_many_threads_at_once(self, storage):
        data = random.Random(2).randbytes(17 * MIB)
        with ThreadPoolExecutor(4) as pool:
            saved = list(pool.map(lambda n: storage.save(f"many/{n}", pieces(data)), range(4)))
        assert {item.sha256 for item in saved} == {hashlib.sha256(data).hexdigest()}
        assert len(storage.delete_prefix("many")) == 4


class TestComplete:
    """Complete: reply lost, error inside a 200, duplicated, and a store that says yes without having it."""

    def prepared(self, storage, path):
        handle = storage.create_parts(path)
        return handle, [storage.write_part(path, handle, 1, 0, b"the only part")]

    def send_and_lose_the_reply(self, client, nas_disk, path, parts):
        """What a retry finds: the upload was completed by a request whose reply never came."""
        other = make_client(nas_disk)

        def complete(request):
            upload = re.search(r"uploadId=([^&]+)", request.url).group(1)
            listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
            other.complete_multipart_upload(
                Bucket=nas_disk.bucket, Key="disk/" + path, UploadId=upload, MultipartUpload={"Parts": listed}
            )

        return complete

    def test_a_lost_reply_is_no_failure(self, storage, client, nas_disk):
        path = "lost/reply"
        handle, parts = self.prepared(storage, path)
        really = self.send_and_lose_the_reply(client, nas_disk, path, parts)
        # Amazon's answer to the repetition; Ceph is kinder and says yes again.
        StoreAnswers(client, "CompleteMultipartUpload", lambda r: really(r) or (404, s3_error("NoSuchUpload")))
        assert storage.complete_parts(path, handle, parts).size == 13
        assert storage.get_file(path) == b"the only part"

    def test_replies_that_never_come_are_settled_by_looking(self, storage, client, nas_disk):
        path = "lost/all"
        handle, parts = self.prepared(storage, path)
        really = self.send_and_lose_the_reply(client, nas_disk, path, parts)
        StoreAnswers(
            client, "CompleteMultipartUpload", lambda r: really(r) or (500, b""), (500, b""), (500, b""), (500, b"")
        )
        assert storage.complete_parts(path, handle, parts).size == 13

    def test_an_error_inside_a_200_is_an_error(self, storage, client):
        handle, parts = self.prepared(storage, "inside/f")
        answers = StoreAnswers(client, "CompleteMultipartUpload", *[(200, s3_error("InternalError"))] * 3)
        with pytest.raises(StorageUnavailable):
            storage.complete_parts("inside/f", handle, parts)
        assert answers.seen == 3
        assert not storage.exists("inside/f")
        assert storage.complete_parts("inside/f", handle, parts).size == 13

    def test_a_yes_without_an_object_is_lost(self, storage, client):
        handle, parts = self.prepared(storage, "yes/f")
        yes = b'<CompleteMultipartUploadResult><Key>k</Key><ETag>""</ETag></CompleteMultipartUploadResult>'
        StoreAnswers(client, "CompleteMultipartUpload", (200, yes))
        with pytest.raises(UploadLost):
            storage.complete_parts("yes/f", handle, parts)
        storage.abort_parts("yes/f", handle)

    def test_a_save_whose_complete_fails_leaves_nothing(self, storage, client, nas_disk):
        StoreAnswers(client, "CompleteMultipartUpload", *[(503, s3_error("SlowDown"))] * 3)
        with pytest.raises(StorageUnavailable):
            storage.save("failed/complete", pieces(bytes(9 * MIB)))
        assert not storage.exists("failed/complete")
        assert uploads(client, nas_disk) == []

    def test_a_large_file_is_not_replaced_when_it_must_be_absent(self, storage, client, nas_disk):
        def source():
            yield bytes(9 * MIB)
            storage.save("absent/f", b"came first")

        with pytest.raises(FileExists):
            storage.save("absent/f", source(), if_absent=True)
        assert storage.get_file("absent/f") == b"came first"
        assert uploads(client, nas_disk) == []


class TestListing:
    def test_1001_files_page_and_are_deleted(self, storage):
        names = [f"page/{n:04d}" for n in range(1001)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: storage.save(name, b""), names))
        first = storage.list_with_prefix("page")
        assert [item.path for item in first.items] == names[:1000]
        second = storage.list_with_prefix("page", first.cursor)
        assert ([item.path for item in second.items], second.cursor) == (names[1000:], None)
        assert storage.list_with_prefix("page", None, 1000).cursor == first.cursor
        assert [item.path for item in storage.list_files("page")] == names
        assert storage.delete_prefix("page") == names
        assert list(storage.list_files("page")) == []

    def test_keys_that_are_no_files_of_ours_are_passed_over(self, storage, client, nas_disk):
        for key in ("disk/odd/", "disk/odd/a//b", "disk/odd/m", "disk/odd/x/../y", "other/odd/f"):
            client.put_object(Bucket=nas_disk.bucket, Key=key, Body=b"")
        page = storage.list_with_prefix("odd", None, 1)
        assert [item.path for item in page.items] == ["odd/m"]
        assert storage.list_with_prefix("odd", page.cursor).items == []
        assert [item.path for item in storage.list_files("odd")] == ["odd/m"]


class TestAccess:
    def test_a_presigned_url_fetches_the_file_and_is_sigv4(self, storage):
        storage.save("url/a b+c é.csv", b"body")
        url = storage.url("url/a b+c é.csv", 60)
        assert "X-Amz-Signature=" in url
        assert "X-Amz-Expires=60" in url
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == b"body"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url.replace("url/a", "url/b"), timeout=10)
        assert caught.value.code in (403, 404)

    @pytest.mark.parametrize("change", [{"secret_key": Secret("wrong")}, {"access_key": Secret("nobody")}])
    def test_wrong_keys_are_refused_by_every_call(self, nas_disk, change):
        storage = S3Storage(replace(nas_disk, **change))
        for call in (
            lambda: storage.save("f", b"x"),
            lambda: storage.get_file("f"),
            lambda: storage.exists("f"),
            lambda: storage.list_with_prefix(),
            lambda: storage.create_parts("f"),
        ):
            with pytest.raises(StorageRefused):
                call()
        assert storage.health().error == "storage_refused"

    def test_a_missing_bucket_is_a_setting(self, nas_disk):
        storage = S3Storage(replace(nas_disk, bucket="depot-no-such-bucket"))
        with pytest.raises(StorageRefused, match="bucket"):
            storage.save("f", b"x")
        with pytest.raises(StorageRefused, match="bucket"):
            storage.list_with_prefix()

    def test_the_prefix_counts_towards_the_longest_path(self, storage):
        path = "/".join(["d" * 204] * 5)
        with pytest.raises(InvalidPath, match="1019"):
            storage.save(path, b"x")
        storage.save(path[:-5], b"x")
        assert storage.get_file(path[:-5]) == b"x"

    def test_a_disk_without_prefix_takes_the_whole_bucket(self, storage, nas_disk):
        storage.save("whole/f", b"x")
        assert S3Storage(replace(nas_disk, prefix="")).get_file("disk/whole/f") == b"x"

    def test_a_download_that_breaks_off_is_truncated(self, storage):
        storage.save("cut/f", bytes(4 * MIB))
        download = storage.open("cut/f")
        assert download.read(1000)
        download._body._raw_stream._fp.fp.raw._sock.shutdown(2)
        with pytest.raises((TruncatedBody, DepotError)):
            download.read()
        download.close()
