"""What is signed for clients, without any network. What a store makes of it is in tests/integration/test_presigned_ceph.py."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from chalicelib.config import DiskConfig, Secret, Settings
from chalicelib.errors import InvalidPath, InvalidRequest, PresigningOff, SettingsError, UploadLost
from chalicelib.limits import GIB, PRESIGN_MAX_SECONDS
from chalicelib.storage.base import DirectStorage
from nas_gateway.drivers.local import LocalFileSystemStorage
from nas_gateway.drivers.s3 import S3Storage
from tests.support.conformance import BAD_PATHS

PUBLIC = "https://nas.example.org:8443"
CONFIG = DiskConfig(
    "s3",
    "s3",
    bucket="nas",
    prefix="disk",
    endpoint="http://127.0.0.1:9",  # discard: whoever asks it gets no answer
    public_endpoint=PUBLIC,
    access_key=Secret("an-access-key"),
    secret_key=Secret("a-secret-key"),
)
SHA = "ab" * 32


@pytest.fixture(scope="module")
def storage():
    return S3Storage(CONFIG)


def part(storage, path="a/f", handle="u1", number=3, size=100, sha256=None, expires_in=60):
    return storage.presign_part(path, handle, number, size=size, sha256=sha256, expires_in=expires_in)


def download(storage, path="a/f", filename="f.csv", content_type="text/csv", expires_in=60):
    return storage.presign_download(path, filename=filename, content_type=content_type, expires_in=expires_in)


def query(request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(request.url).query, strict_parsing=True).items()}


class TestPart:
    @pytest.mark.parametrize("sha256", [None, SHA, SHA.upper()])
    def test_what_is_bound(self, storage, sha256):
        request = part(storage, "a/ä b", sha256=sha256)
        assert (request.method, request.expires_in) == ("PUT", 60)
        assert unquote(request.url).startswith(f"{PUBLIC}/nas/disk/a/ä b?")
        asked = query(request)
        assert (asked["partNumber"], asked["uploadId"], asked["X-Amz-Expires"]) == ("3", "u1", "60")
        headers = {"Content-Length": "100"} | ({"x-amz-content-sha256": SHA} if sha256 else {})
        assert dict(request.headers) == headers
        assert asked["X-Amz-SignedHeaders"].split(";") == sorted(["host", *(name.lower() for name in headers)])
        assert "a-secret-key" not in repr(request)

    @pytest.mark.parametrize(
        "other",
        [
            {"path": "a/g"}, {"handle": "u2"}, {"number": 4}, {"size": 101}, {"sha256": SHA}, {"expires_in": 61},
        ],
    )  # fmt: skip
    def test_all_of_it_is_in_the_signature(self, storage, other):
        assert query(part(storage))["X-Amz-Signature"] != query(part(storage, **other))["X-Amz-Signature"]

    @pytest.mark.parametrize("size", [None, 0, -1, 5 * GIB + 1])
    def test_without_a_size_nothing_is_signed(self, storage, size):
        """A PUT of unsigned or no length could have another file copied into the part: see `s3_direct`."""
        with pytest.raises(InvalidRequest, match="size"):
            part(storage, size=size)

    @pytest.mark.parametrize("number", [0, -1, 10_001])
    def test_part_numbers_have_bounds(self, storage, number):
        with pytest.raises(InvalidRequest):
            part(storage, number=number)

    def test_an_upload_without_a_name_is_lost(self, storage):
        with pytest.raises(UploadLost):
            part(storage, handle="")

    @pytest.mark.parametrize("sha256", ["", "x", "ab" * 31, "UNSIGNED-PAYLOAD"])
    def test_a_digest_is_a_digest(self, storage, sha256):
        with pytest.raises(InvalidRequest):
            part(storage, sha256=sha256)


class TestDownload:
    def test_what_is_bound(self, storage):
        request = download(storage, filename='Zoë\r\n"x".csv')
        asked = query(request)
        assert (request.method, dict(request.headers), asked["X-Amz-SignedHeaders"]) == ("GET", {}, "host")
        assert asked["response-content-type"] == "text/csv"
        assert asked["response-content-disposition"].startswith('attachment; filename="Zo____x_.csv"; filename*=UTF-8')

    @pytest.mark.parametrize("content_type", ["text/csv\r\nX: y", "tëxt"])
    def test_a_content_type_is_a_headers_value(self, storage, content_type):
        with pytest.raises(InvalidRequest):
            download(storage, content_type=content_type)


@pytest.mark.parametrize("sign", [part, download])
class TestBoth:
    @pytest.mark.parametrize("expires_in", [0, -1, PRESIGN_MAX_SECONDS + 1, 3600])
    def test_fifteen_minutes_at_most(self, storage, sign, expires_in):
        assert PRESIGN_MAX_SECONDS == 900
        assert query(sign(storage, expires_in=PRESIGN_MAX_SECONDS))["X-Amz-Expires"] == "900"
        with pytest.raises(InvalidRequest):
            sign(storage, expires_in=expires_in)

    def test_off_without_a_public_endpoint(self, sign):
        with pytest.raises(PresigningOff):
            sign(S3Storage(replace(CONFIG, public_endpoint="")))

    @pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
    def test_bad_paths_are_refused(self, storage, sign, path):
        with pytest.raises(InvalidPath):
            sign(storage, path)


def test_url_takes_the_public_endpoint_where_there_is_one(storage):
    assert storage.url("f", 60).startswith(f"{PUBLIC}/nas/disk/f?")
    assert S3Storage(replace(CONFIG, public_endpoint="")).url("f", 60).startswith("http://127.0.0.1:9/nas/disk/f?")
    for expires_in in (0, 7 * 24 * 3600 + 1):
        with pytest.raises(InvalidRequest):
            storage.url("f", expires_in)


def test_who_has_the_capability(storage, tmp_path):
    assert isinstance(storage, DirectStorage)
    assert not isinstance(LocalFileSystemStorage("local", str(tmp_path)), DirectStorage)


class TestSettings:
    ENV: ClassVar = {"SERVER_ROLE": "services", "INTERNAL_API_KEY": "k" * 32, "SESSION_SECRET": "s" * 32}

    def endpoint(self, disk: dict[str, str] | None = None, **env: str) -> str:
        disks = {"nas": {"driver": "s3", "bucket": "b", **(disk or {})}, "local": {"driver": "local", "root": "/srv"}}
        settings = Settings.from_env({**self.ENV, "STORAGE_CONFIG": json.dumps({"disks": disks}), **env})
        assert settings.disks["local"].public_endpoint == ""
        return settings.disks["nas"].public_endpoint

    def test_off_by_default(self):
        assert self.endpoint() == ""

    def test_the_environment_is_for_all_s3_disks_and_a_disks_own_overrides_it(self):
        assert self.endpoint(NAS_PUBLIC_ENDPOINT="https://nas.example.org/") == "https://nas.example.org"
        own = {"public_endpoint": "http://other:7480"}
        assert self.endpoint(own, NAS_PUBLIC_ENDPOINT="https://nas.example.org") == "http://other:7480"
        assert self.endpoint({"public_endpoint": ""}, NAS_PUBLIC_ENDPOINT="https://nas.example.org") == ""

    @pytest.mark.parametrize(
        "value", ["nas.example.org", "ftp://nas", "https://", "https://nas/path", "https://u:p@nas", "https://nas?x=1"]
    )
    def test_it_is_scheme_host_and_port(self, value):
        with pytest.raises(SettingsError, match="NAS_PUBLIC_ENDPOINT"):
            self.endpoint(NAS_PUBLIC_ENDPOINT=value)
        with pytest.raises(SettingsError, match="'nas': public_endpoint"):
            self.endpoint({"public_endpoint": value})

    def test_https_in_production(self):
        assert self.endpoint(NAS_PUBLIC_ENDPOINT="https://nas", DEPOT_ENV="production") == "https://nas"
        with pytest.raises(SettingsError, match="https"):
            self.endpoint(NAS_PUBLIC_ENDPOINT="http://nas", DEPOT_ENV="production")
        with pytest.raises(SettingsError, match="https"):
            self.endpoint({"public_endpoint": "http://nas"}, DEPOT_ENV="production")

    def test_other_drivers_have_none(self):
        with pytest.raises(SettingsError, match="public_endpoint"):
            disks = {"local": {"driver": "local", "root": "/srv", "public_endpoint": "https://nas"}}
            Settings.from_env({**self.ENV, "STORAGE_CONFIG": json.dumps({"disks": disks})})
