"""tus answers over sessions in states that are hard to bring about: what the client is told, and what it never is."""

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from chalicelib.auth.policy import Principal
from chalicelib.config import Settings
from chalicelib.errors import LeaseLost, LedgerUnavailable, UploadInProgress
from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.storage.manager import StorageManager
from chalicelib.storage.uploads import Receipt, UploadStatus
from chalicelib.web import tus
from chalicelib.web.tus_call import base_path
from nas_gateway.drivers.memory import MemoryStorage
from tests.support.lambda_events import event
from tests.support.tus_client import CHUNK, about

ID = "0" * 32
PORTAL = "https://portal.example"
ENV = {"SERVER_ROLE": "testing", "INTERNAL_API_KEY": "k" * 32, "DEPOT_CORS_ORIGINS": PORTAL}
RECEIPT = Receipt(
    file_id="f" * 32, path="p", size=5, sha256=None, parts_sha256="ab-1", etag="e", tracking_id="t", completed_at="2026",
    ledger="3/14",
)  # fmt: skip


def status(state: str = "OPEN", offset: int = 0, expires_in: int = 600, **values) -> UploadStatus:
    return UploadStatus(
        upload_id=ID,
        offset=offset,
        size=5,
        state=state,
        chunk_bytes=1,
        expires_at=int(time.time()) + expires_in,
        **{"receipt": RECEIPT if state == "AVAILABLE" else None, **values},
    )


class Sessions:
    """Upload sessions that answer what the test says: a status, or an error to raise, for each call in turn."""

    def __init__(self, **answers) -> None:
        self.answers = {name: list(given) for name, given in answers.items()}
        self.calls = []

    def _next(self, name, *told):
        self.calls.append((name, *told))
        answer = self.answers[name].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def status(self, upload_id, *, settle=False):
        return self._next("status", settle)

    def append(self, upload_id, offset, body, *, checksum=None):
        return self._next("append", offset)

    def abort(self, upload_id):
        return self._next("abort")

    def create(self, new):
        return self._next("create", new)

    def concatenate(self, new, upload_ids):
        return self._next("concatenate", new, upload_ids)


def ask(
    sessions: Sessions, method: str, upload_id: str | None = ID, principal: Principal | None = None, **told
) -> dict:
    app = DepotApp("tus")
    tier = SimpleNamespace(settings=Settings.from_env(ENV), uploads=sessions, sign_in=lambda request: principal)
    app.register_blueprint(tus.blueprint(lambda: tier))
    headers = {"tus-resumable": "1.0.0", "origin": PORTAL}
    headers |= {name.replace("_", "-"): value for name, value in told.items()}
    where = ("/uploads", None) if upload_id is None else ("/uploads/{upload_id}", {"upload_id": upload_id})
    return app(event(method, where[0], path=where[1], headers=headers), None)


@pytest.fixture
def disks() -> Iterator[None]:
    """A `StorageManager` that knows the usual disks."""
    StorageManager.configure(Settings.from_env(ENV), lambda settings, disk: MemoryStorage(disk))
    yield
    StorageManager.clear_cache()


def patch(sessions: Sessions) -> dict:
    return ask(sessions, "PATCH", content_type=CHUNK, upload_offset="0")


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_asking_settles_an_upload_whose_end_nobody_saw(method):
    sessions = Sessions(status=[status("AVAILABLE", 5)])
    assert ask(sessions, method)["statusCode"] == 200
    assert sessions.calls == [("status", True)]


@pytest.mark.parametrize("state", ["OPEN", "COMPLETING"])
def test_an_offset_at_the_end_is_never_told_before_the_file_is_there(state):
    there, unfinished = status("AVAILABLE", 5), status(state, 5)
    waits = [ask(Sessions(status=[unfinished, unfinished]), "HEAD")]
    waits.append(patch(Sessions(append=[unfinished], status=[unfinished])))
    for answer in waits:
        assert answer["statusCode"] == 423
        assert "Upload-Offset" not in answer["headers"]
        assert int(answer["headers"]["Retry-After"]) > 0
    done = patch(Sessions(append=[unfinished], status=[there]))
    assert (done["statusCode"], done["headers"]["Upload-Offset"]) == (204, "5")
    assert done["headers"]["X-Depot-File-Id"] == RECEIPT.file_id


def test_a_partial_upload_at_its_end_has_no_file_to_wait_for():
    assert patch(Sessions(append=[status("OPEN", 5, partial=True)]))["statusCode"] == 204


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE"])
@pytest.mark.parametrize("ended", [status("ABORTED"), status("FAILED", 5), status("LOST", 3), status(expires_in=-1)])
def test_what_ended_without_a_file_or_ran_out_is_410(method, ended):
    answer = ask(Sessions(status=[ended]), method)
    assert answer["statusCode"] == 410
    assert "Upload-Offset" not in answer["headers"]


def test_a_finished_upload_does_not_run_out():
    answer = ask(Sessions(status=[status("AVAILABLE", 5, expires_in=-1)]), "HEAD")
    assert answer["statusCode"] == 200
    assert "Upload-Expires" not in answer["headers"]


def test_the_receipt_holds_the_parts_hash_until_the_whole_files_is_known():
    headers = ask(Sessions(status=[status("AVAILABLE", 5)]), "HEAD")["headers"]
    assert (headers["X-Depot-Parts-SHA256"], headers["X-Depot-Ledger"]) == ("ab-1", "3/14")
    assert "X-Depot-SHA256" not in headers


def test_an_upload_that_another_call_is_writing_to_is_locked_and_not_in_conflict():
    for answer in (
        patch(Sessions(append=[UploadInProgress()])),
        ask(Sessions(status=[UploadInProgress()]), "HEAD"),
        ask(Sessions(status=[status()], abort=[UploadInProgress()]), "DELETE"),
    ):
        assert answer["statusCode"] == 423
        assert int(answer["headers"]["Retry-After"]) > 0


@pytest.mark.parametrize(("error", "code"), [(LeaseLost(), 409), (LedgerUnavailable(), 503)])
def test_other_errors_are_depots(error, code):
    answer = patch(Sessions(append=[error]))
    assert answer["statusCode"] == code
    assert json.loads(answer["body"])["error"]["code"] == error.code


def test_an_upload_that_is_finished_while_it_is_terminated_is_not_said_to_be_gone():
    sessions = Sessions(status=[status("OPEN", 5), status("AVAILABLE", 5)], abort=[None])
    assert ask(sessions, "DELETE")["statusCode"] == 409


def test_an_error_nobody_expected_can_be_read_by_a_page_and_tells_nothing():
    answer = patch(Sessions(append=[RuntimeError("/mnt/nas/secret")]))
    assert answer["statusCode"] == 500
    assert answer["headers"]["Access-Control-Allow-Origin"] == PORTAL
    assert answer["headers"]["Tus-Resumable"] == "1.0.0"
    assert "secret" not in answer["body"]


@pytest.mark.parametrize("upload_id", ["a;b", "a b", "x" * 65, "é"])
def test_what_cannot_be_an_id_is_not_passed_on(upload_id):
    sessions = Sessions()
    assert ask(sessions, "HEAD", upload_id)["statusCode"] == 404
    assert sessions.calls == []


@pytest.mark.usefixtures("disks")
@pytest.mark.parametrize(("role", "cohort"), [("reader", "VACS"), ("uploader", "OTHER"), ("auditor", "VACS")])
def test_this_tier_does_not_leave_the_permission_to_the_other(role, cohort):
    sessions, principal = Sessions(), Principal("somebody", role, frozenset({cohort}))
    ways = [{"upload_length": "5"}, {"upload_concat": f"final;/api/uploads/{ID}"}]
    if role != "uploader":
        ways.append({"upload_length": "5", "upload_concat": "partial"})
    for told in ways:
        answer = ask(sessions, "POST", None, principal, upload_metadata=about(), **told)
        assert answer["statusCode"] == 403
    assert sessions.calls == []


@pytest.mark.usefixtures("disks")
def test_a_partial_upload_is_allowed_to_whoever_may_upload_somewhere():
    sessions = Sessions(create=[status(partial=True)])
    principal = Principal("somebody", "uploader", frozenset({"OTHER"}))
    told = {"upload_length": "5", "upload_concat": "partial"}
    assert ask(sessions, "POST", None, principal, **told)["statusCode"] == 201
    ((_, new),) = sessions.calls
    assert (new.partial, new.size, new.note) == (True, 5, {"tus_concat": "partial"})


@pytest.mark.parametrize(
    ("told", "path"),
    [
        ("/uploads", "/uploads"),
        ("/api/uploads", "/api/uploads"),
        ("/v1/depot/uploads", "/v1/depot/uploads"),
        (None, "/uploads"),
        ("/files", "/uploads"),
        ("//evil.example/uploads", "/uploads"),
        ("/a b/uploads", "/uploads"),
        ("/api/uploads\r\nX: 1", "/uploads"),
        ("/uploads\n", "/uploads"),
    ],
)
def test_a_location_begins_with_a_path_of_ours_and_nothing_else(told, path):
    assert base_path(told) == path
