"""tus 1.0.0, DELETE: an upload that is not finished ends and leaves nothing; a finished one is a file."""

import pytest

from tests.support.client import code
from tests.support.tus_client import Tus, about


@pytest.fixture(scope="module")
def tus(web) -> Tus:
    return Tus(web)


def test_a_terminated_upload_is_gone_and_its_name_is_free(tus, web):
    raw = about()
    path = tus.opened(11, upload_metadata=raw)
    tus.patch(path, 0, b"hello")
    answer = tus.delete(path)
    assert (answer.status_code, answer.content, answer.headers["Tus-Resumable"]) == (204, b"", "1.0.0")
    assert tus.head(path).status_code == 410
    late = tus.patch(path, 5, b" world")
    assert (late.status_code, code(late)) == (410, "upload_ended")
    assert web.get(path).status_code == 410
    assert tus.delete(path).status_code == 410
    assert tus.create(5, b"again", upload_metadata=raw).status_code == 201


def test_a_finished_upload_is_not_terminated_and_its_file_stays(tus):
    path = tus.opened(5)
    done = tus.patch(path, 0, b"hello")
    answer = tus.delete(path)
    assert (answer.status_code, code(answer)) == (409, "upload_state")
    assert "DELETE /files/" in answer.json()["error"]["message"]
    assert tus.content(done) == b"hello"


def test_an_unknown_upload_is_404(tus):
    assert code(tus.delete("/uploads/" + "0" * 32)) == "upload_not_found"
