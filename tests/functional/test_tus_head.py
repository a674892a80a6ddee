"""tus 1.0.0, HEAD: where an upload stands and what its creation said. And GET, which is ours: the receipt as JSON."""

import pytest

from tests.support.client import code, fresh_name
from tests.support.tus_client import Tus, about, metadata


@pytest.fixture(scope="module")
def tus(web) -> Tus:
    return Tus(web)


def test_head_tells_offset_length_and_expiry_and_is_not_to_be_cached(tus):
    path = tus.opened(11)
    tus.patch(path, 0, b"hello")
    answer = tus.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Upload-Offset"] == "5"
    assert answer.headers["Upload-Length"] == "11"
    assert answer.headers["Upload-Expires"].endswith(" GMT")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert "Upload-Concat" not in answer.headers
    assert "Upload-Defer-Length" not in answer.headers


def test_metadata_comes_back_as_it_was_sent_with_keys_we_do_not_know(tus):
    raw = about(filename=f"Патиенты {fresh_name()}") + ",is_confidential,relativePath bnVsbA==," + metadata(x=bytes(99))
    assert tus.head(tus.opened(1, upload_metadata=raw)).headers["Upload-Metadata"] == raw


def test_a_finished_upload_still_tells_where_it_stands_and_its_receipt(tus):
    path = tus.opened(5)
    done = tus.patch(path, 0, b"hello")
    head = tus.head(path)
    assert head.headers["Upload-Offset"] == head.headers["Upload-Length"] == "5"
    assert "Upload-Expires" not in head.headers
    for name in ("X-Depot-File-Id", "X-Depot-Completed-At", "X-Depot-Ledger", "X-Depot-Tracking-Id"):
        assert head.headers[name] == done.headers[name]


@pytest.mark.parametrize("upload_id", ["0" * 32, "nonsense"])
def test_an_unknown_upload_is_404_without_a_body_and_without_an_offset(tus, upload_id):
    answer = tus.head(f"/uploads/{upload_id}")
    assert (answer.status_code, answer.content) == (404, b"")
    assert "Upload-Offset" not in answer.headers
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_connection_lives_on_after_head_and_its_errors(tus):
    path = tus.opened(5)
    for _ in range(3):
        assert tus.head("/uploads/" + "0" * 32).status_code == 404
        assert tus.head(path).headers["Upload-Offset"] == "0"
    assert tus.patch(path, 0, b"hello").status_code == 204


def test_get_tells_the_state_without_tus_headers(tus, web):
    path = tus.opened(11)
    tus.patch(path, 0, b"hello")
    told = web.get(path).json()
    assert set(told) == {"upload_id", "state", "offset", "size", "expires_at", "receipt"}
    assert told["upload_id"] == path.rpartition("/")[2]
    assert (told["state"], told["offset"], told["size"], told["receipt"]) == ("OPEN", 5, 11, None)
    done = tus.patch(path, 5, b" world")
    told = web.get(path).json()
    assert (told["state"], told["offset"]) == ("AVAILABLE", 11)
    assert told["receipt"]["file_id"] == done.headers["X-Depot-File-Id"]
    assert told["receipt"]["size"] == 11


def test_get_of_what_is_not_there_is_404(web):
    assert code(web.get("/uploads/" + "0" * 32)) == "upload_not_found"
