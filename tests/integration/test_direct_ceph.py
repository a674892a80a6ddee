"""Presigned transfer through both tiers onto a real store (Ceph RGW): what a client of ours does, and what it must not."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pytest
import requests

from chalicelib.config import DiskConfig
from chalicelib.limits import MIB
from tests.support.client import Client, code, fresh_name, make_user
from tests.support.stack import running_stack, wait_until
from tests.support.tus_trial import Trial

pytestmark = pytest.mark.nas

SIZE = 11 * MIB + 5  # in parts of 5 MiB: 5, 5, and 1 MiB + 5
# Bounds a wait for the store's clock; a URL of one second is over long before.
PATIENCE = 30


@pytest.fixture(scope="module")
def trial(nas_config: DiskConfig, nas_disk: DiskConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Both tiers as processes; clients reach the store at its own address."""
    env = {"S3_BUCKET": nas_disk.bucket, "NAS_PUBLIC_ENDPOINT": nas_config.endpoint}
    with running_stack(tmp_path_factory.mktemp("direct"), nas="s3", env=env) as stack:
        yield Trial.of(stack, env)


@dataclass
class Upload:
    """One upload in Uppy's shapes, with plain requests."""

    client: Client
    body: bytes
    name: str
    cohort: str
    made: dict[str, Any]

    def address(self, rest: str = "") -> str:
        return f"/s3/multipart/{self.made['uploadId']}{rest}"

    def call(self, method: str, rest: str = "", client: Client | None = None, **kwargs: Any) -> requests.Response:
        query = {"key": self.made["key"], **kwargs.pop("query", {})}
        return (client or self.client).call(method, self.address(rest), params=query, **kwargs)

    def url(self, number: int, **query: str) -> dict[str, Any]:
        answer = self.call("GET", f"/{number}", query=query)
        assert answer.status_code == 200, answer.text
        signed: dict[str, Any] = answer.json()
        return signed

    def piece(self, number: int) -> bytes:
        step = self.made["part_bytes"]
        return self.body[(number - 1) * step : number * step]

    def send(self, *numbers: int) -> None:
        for number in numbers:
            assert put(self.url(number)["url"], self.piece(number)).status_code == 200

    def complete(self, parts: Any = ()) -> requests.Response:
        return self.call("POST", "/complete", json={"parts": parts})

    def describe(self) -> list[dict[str, Any]]:
        answer = self.client.get("/files", params={"cohort": self.cohort})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["files"])


def put(url: str, body: bytes, **headers: str) -> requests.Response:
    return requests.put(url, data=body, headers=headers, timeout=60)


def refused(answer: requests.Response) -> bool:
    """By the store, with an error that is not its own failure."""
    return answer.status_code in (400, 403, 404, 405, 411)


@pytest.fixture
def begin(trial: Trial):
    def begun(size: int = SIZE, client: Client | None = None, **metadata: Any) -> Upload:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        cohort, name = f"SITE-{os.urandom(4).hex()}", f"canary-{fresh_name()}"
        client = client or make_user(trial.stack, "cohort_manager", cohort)
        about = {"cohort": cohort, "protocol_year": "2024", "file_type": "patient", "size": size, **metadata}
        answer = client.post("/s3/multipart", json={"filename": name, "type": "text/csv", "metadata": about})
        assert answer.status_code == 200, answer.text
        return Upload(client, random.Random(seed).randbytes(size), name, cohort, answer.json())

    return begun


def events(trial: Trial, cohort: str) -> list[dict[str, Any]]:
    answer = trial.services.get("/internal/tracking", params={"cohort": cohort, "limit": "1000"})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["events"])


# --- a whole upload ---------------------------------------------------------------------------------------------------


def test_a_file_goes_straight_to_the_store_and_comes_back(trial, begin):
    assert trial.web.get("/config").json()["transfer"] == "presigned"
    upload = begin()
    upload.send(3, 1, 2)
    listed = upload.call("GET").json()
    assert [(part["PartNumber"], part["Size"]) for part in listed] == [(1, 5 * MIB), (2, 5 * MIB), (3, MIB + 5)]
    done = upload.complete(listed)
    assert done.status_code == 200, done.text
    receipt = done.json()["receipt"]
    assert done.json()["location"] == f"{trial.web.url}/files/{receipt['file_id']}"
    assert (receipt["size"], receipt["sha256"]) == (SIZE, None)
    assert re.fullmatch(r"\d+/\d+", receipt["ledger"])
    assert trial.web.content(receipt["file_id"]).content == upload.body
    url = upload.client.get(f"/files/{receipt['file_id']}/url", params={"expires_in": "60"}).json()
    assert url["method"] == "GET"
    fetched = requests.get(url["url"], timeout=60)
    assert fetched.content == upload.body
    assert fetched.headers["Content-Disposition"].startswith("attachment")


def test_every_url_is_an_event_and_no_log_line_holds_the_files_name(trial, begin):
    upload = begin()
    upload.send(1, 2, 3, 3)
    receipt = upload.complete().json()["receipt"]
    trial.web.get(f"/files/{receipt['file_id']}/url")
    found = events(trial, upload.cohort)
    issued = [event for event in found if event["action"] == "presigned_url_issued"]
    assert [event["metadata"].get("part") for event in issued] == ["1", "2", "3", "3", None]
    assert {event["file_id"] for event in found} == {receipt["file_id"]}
    assert all(event["metadata"]["expires_at"] > event["at"] for event in issued)
    others = [(event["action"], event["outcome"]) for event in found if event not in issued]
    assert others == [("file_uploaded_chunked", "intent"), ("file_uploaded_chunked", "completed")]
    logs = [path.read_text() for path in Path(trial.stack.state_dir).rglob("*.log")]
    assert any(upload.made["uploadId"] in text or "/s3/multipart" in text for text in logs)
    assert not any("canary-" in text or "X-Amz-Signature" in text for text in logs)


# --- what the store refuses -------------------------------------------------------------------------------------------


def test_another_length_part_key_upload_or_method_is_refused_by_the_store(begin):
    upload, other = begin(), begin()
    url, body = upload.url(1)["url"], upload.piece(1)
    assert "content-length" in parse_qs(urlsplit(url).query)["X-Amz-SignedHeaders"][0].split(";")
    upload_id = parse_qs(urlsplit(url).query)["uploadId"][0]
    others_id = parse_qs(urlsplit(other.url(1)["url"]).query)["uploadId"][0]
    attempts = {
        "longer": put(url, body + b"!"),
        "shorter": put(url, body[:-1]),
        "empty": put(url, b""),
        "another part": put(url.replace("partNumber=1", "partNumber=2"), body),
        "another key": put(url.replace(upload.name, other.name), body),
        "another upload": put(url.replace(upload_id, others_id), body),
        "no part: the whole file": put(re.sub(r"partNumber=1&uploadId=[^&]*&", "", url), body),
        "longer life": put(url.replace("X-Amz-Expires=900", "X-Amz-Expires=90000"), body),
        "GET": requests.get(url, timeout=60),
        "DELETE": requests.delete(url, timeout=60),
        "POST": requests.post(url, data=body, timeout=60),
        "a copy of another file": put(url, b"", **{"x-amz-copy-source": "/x/y"}),
    }
    assert {name: answer.status_code for name, answer in attempts.items() if not refused(answer)} == {}
    assert upload.call("GET").json() == []
    assert put(url, body).status_code == 200


def test_other_bytes_than_the_digest_says_are_refused_by_the_store(begin):
    upload = begin()
    body = upload.piece(1)
    signed = upload.url(1, size=str(len(body)), sha256=hashlib.sha256(body).hexdigest())
    headers = {name: value for name, value in signed["headers"].items() if name != "Content-Length"}
    assert refused(put(signed["url"], body[:-1] + bytes([body[-1] ^ 1]), **headers))
    assert refused(put(signed["url"], body))
    assert upload.call("GET").json() == []
    assert put(signed["url"], body, **headers).status_code == 200


def test_a_url_is_of_no_use_after_its_time(begin):
    upload = begin(3)
    upload.send(1)
    file_id = upload.complete().json()["receipt"]["file_id"]
    url = upload.client.get(f"/files/{file_id}/url", params={"expires_in": "1"}).json()["url"]
    wait_until(lambda: requests.get(url, timeout=60).status_code == 403, PATIENCE, "the URL to expire")
    # Nor with the time taken out, or a later one put in.
    assert refused(requests.get(re.sub(r"X-Amz-Expires=1&", "", url), timeout=60))
    assert refused(requests.get(url.replace("X-Amz-Expires=1&", "X-Amz-Expires=900&"), timeout=60))


@pytest.mark.parametrize("ending", ["complete", "abort"])
def test_a_url_is_of_no_use_after_the_upload_has_ended(trial, begin, nas_client, nas_disk, ending):
    upload = begin()
    kept = [upload.url(number)["url"] for number in (1, 2, 3)]
    upload.send(1, 2, 3)
    if ending == "complete":
        assert upload.complete().status_code == 200
    else:
        assert upload.call("DELETE").json() == {}
    for number, url in enumerate(kept, start=1):
        assert refused(put(url, bytes(len(upload.piece(number)))))
    files = upload.describe()
    if ending == "complete":
        assert trial.web.content(files[0]["file_id"]).content == upload.body
    else:
        assert files == []
    left = nas_client.list_multipart_uploads(Bucket=nas_disk.bucket).get("Uploads", [])
    assert [item for item in left if upload.name in item["Key"]] == []


# --- what we refuse ---------------------------------------------------------------------------------------------------


def test_another_users_upload_is_not_there(trial, begin):
    upload = begin()
    upload.send(1, 2, 3)
    stranger = make_user(trial.stack, "cohort_manager", upload.cohort)
    for method, rest in (("GET", "/1"), ("GET", ""), ("POST", "/complete"), ("DELETE", "")):
        answer = upload.call(method, rest, client=stranger, json={} if method == "POST" else None)
        assert (answer.status_code, code(answer)) == (404, "upload_not_found")
        nobody = upload.call(method, rest, client=Client(trial.web.url), json={} if method == "POST" else None)
        assert nobody.status_code == 401
    assert upload.complete().status_code == 200


@pytest.mark.parametrize("wrong", ["..", "%2e%2e", "..%2f..", "0" * 32, "x" * 32, "0" * 31])
def test_an_id_that_is_none_of_ours_leads_nowhere_on_the_services_tier(trial, wrong):
    key = unquote(wrong)
    for method, rest in (("GET", "/1"), ("GET", ""), ("POST", "/complete"), ("DELETE", "")):
        # requests would take dots out of the path; a client need not.
        answer = as_it_is(trial.web, method, f"/s3/multipart/{wrong}{rest}?{urlencode({'key': key})}")
        assert (answer.status_code, code(answer)) == (404, "upload_not_found")
    file = as_it_is(trial.web, "GET", f"/files/{wrong}/url")
    assert (file.status_code, code(file)) == (404, "file_not_found")


def as_it_is(client: Client, method: str, address: str) -> requests.Response:
    """A request whose path is sent as it stands."""
    request = client.session.prepare_request(requests.Request(method, client.url))
    request.url = client.url + address
    return client.session.send(request, timeout=60)


def test_what_a_client_says_of_its_parts_changes_nothing(trial, begin):
    upload = begin()
    lies = [{"PartNumber": number, "ETag": f'"{"0" * 32}"'} for number in (1, 2, 3)]
    empty = upload.complete(lies)
    assert (empty.status_code, code(empty)) == (400, "length_mismatch")
    upload.send(1, 3)
    missing = upload.complete(lies)
    assert (missing.status_code, code(missing)) == (400, "length_mismatch")
    assert "Part 2" in missing.json()["error"]["message"]
    assert upload.describe() == []
    upload.send(2)
    # One part of three, in the wrong order, with ETags that are not theirs: the file is what the store holds.
    receipt = upload.complete([lies[2], lies[0]]).json()["receipt"]
    assert trial.web.content(receipt["file_id"]).content == upload.body
    assert upload.complete(lies).json()["receipt"] == receipt


def test_a_part_too_many_is_not_part_of_the_file(begin):
    upload = begin()
    upload.send(1, 2, 3)
    assert put(upload.url(4, size="1")["url"], b"!").status_code == 200
    assert code(upload.complete()) == "length_mismatch"
    assert upload.describe() == []


def test_a_part_that_is_sent_again_counts_as_it_was_sent_last(trial, begin):
    upload = begin()
    upload.send(1, 2, 3)
    again = os.urandom(len(upload.piece(2)))
    assert put(upload.url(2)["url"], again).status_code == 200
    file_id = upload.complete().json()["receipt"]["file_id"]
    body = trial.web.content(file_id).content
    assert hashlib.sha256(body).digest() == hashlib.sha256(upload.piece(1) + again + upload.piece(3)).digest()


def test_a_promised_digest_of_the_whole_is_compared_with_what_the_store_holds(begin):
    body = random.Random(1).randbytes(SIZE)
    right = begin(sha256=hashlib.sha256(body).hexdigest())
    right.body = body
    right.send(1, 2, 3)
    assert right.complete().json()["receipt"]["sha256"] == hashlib.sha256(body).hexdigest()
    wrong = begin(sha256=hashlib.sha256(b"other").hexdigest())
    wrong.send(1, 2, 3)
    answer = wrong.complete()
    assert (answer.status_code, code(answer)) == (422, "digest_mismatch")
    assert wrong.describe() == []


# --- a browser on another origin --------------------------------------------------------------------------------------


def test_with_the_buckets_cors_rules_of_the_documentation_a_page_may_send_parts(trial, begin, nas_client, nas_disk):
    origin, rules = "https://depot.example.org", documented_cors_rules()
    nas_client.put_bucket_cors(Bucket=nas_disk.bucket, CORSConfiguration=rules)
    upload = begin()
    url = upload.url(1)["url"]
    asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    preflight = requests.options(url, headers=asked, timeout=60)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, origin)
    sent = put(url, upload.piece(1), Origin=origin)
    assert sent.status_code == 200
    assert "ETag" in sent.headers["Access-Control-Expose-Headers"]
    strange = requests.options(url, headers={**asked, "Origin": "https://elsewhere.example"}, timeout=60)
    assert "Access-Control-Allow-Origin" not in strange.headers


def documented_cors_rules() -> dict[str, Any]:
    import json

    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    found = re.search(r"```json\n(\{\"CORSRules\".*?)\n```", page, re.DOTALL)
    assert found
    rules: dict[str, Any] = json.loads(found[1])
    return rules
