"""`GET /config`, and what it promises: chunks of 4 MiB under Lambda, any size on the streaming host, presigned or not."""

import os

import pytest
import requests

from chalicelib.limits import MIB, PART_BYTES
from chalicelib.storage.manager import StorageManager
from tests.support.client import Client
from tests.support.lambda_events import content
from tests.support.presigned_app import LambdaApp, presigned_app, told

__all__ = ["presigned_app"]


@pytest.fixture
def depot(presigned_app: LambdaApp) -> LambdaApp:
    return presigned_app


def test_the_streaming_host_has_no_ceiling_and_needs_no_sign_in(tiers):
    answer = Client(tiers.document["web_url"]).get("/config")
    assert answer.status_code == 200
    assert answer.json() == {"transfer": "proxy", "max_chunk_bytes": None, "part_bytes": PART_BYTES}


def test_under_lambda_a_chunk_has_at_most_4_mib(depot):
    answer = told(LambdaApp(depot.module, {}).call("GET", "/config"))
    assert answer == {"transfer": "presigned", "max_chunk_bytes": 4 * MIB, "part_bytes": PART_BYTES}


def stored(name: str, body: bytes) -> str:
    """A file that came another way; its id."""
    saved = StorageManager.get_submission_storage().save(f"submissions/VACS/2024/patient/{name}", body)
    assert saved.file_id is not None
    return saved.file_id


def fetch(depot: LambdaApp, method: str, file_id: str, **headers: str):
    return depot.call(method, "/files/{file_id}/content", path={"file_id": file_id}, headers=headers)


def test_under_lambda_a_larger_file_is_at_a_presigned_url(depot):
    body = os.urandom(4 * MIB + 1)
    file_id = stored("large.bin", body)
    answer = fetch(depot, "GET", file_id)
    assert (answer["statusCode"], answer["body"]) == (307, "")
    assert answer["headers"]["Cache-Control"] == "no-store"
    got = requests.get(answer["headers"]["Location"], timeout=30)
    assert (got.status_code, got.content) == (200, body)


def test_under_lambda_what_fits_an_answer_is_answered_here(depot):
    body = os.urandom(4 * MIB + 1)
    file_id, small = stored("ranges.bin", body), stored("small.bin", body[: 4 * MIB])
    piece = fetch(depot, "GET", file_id, range="bytes=0-99")
    assert (piece["statusCode"], content(piece)) == (206, body[:100])
    described = fetch(depot, "HEAD", file_id)
    assert described["statusCode"] == 200
    assert fetch(depot, "GET", file_id, **{"if-none-match": described["headers"]["ETag"]})["statusCode"] == 304
    whole = fetch(depot, "GET", small)
    assert (whole["statusCode"], content(whole)) == (200, body[: 4 * MIB])


def test_under_lambda_who_may_not_read_a_file_gets_no_url_to_it(depot):
    file_id = stored("secret.bin", bytes(4 * MIB + 1))
    assert fetch(depot.signed_in("uploader", "VACS"), "GET", file_id)["statusCode"] == 403
    assert fetch(depot.signed_in("reader", "MACS"), "GET", file_id)["statusCode"] == 404
