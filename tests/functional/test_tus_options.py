"""tus 1.0.0, OPTIONS: what the server can do, told to anybody. And the rules that hold for every method."""

import pytest

from chalicelib.limits import MAX_OBJECT_BYTES
from tests.support.client import Client, code
from tests.support.tus_client import Tus, about


@pytest.fixture(scope="module")
def tus(web) -> Tus:
    return Tus(web)


@pytest.fixture(scope="module")
def nobody(tiers) -> Client:
    return Client(tiers.document["web_url"])


@pytest.mark.parametrize("path", ["/uploads", f"/uploads/{'0' * 32}"])
@pytest.mark.parametrize("version", [None, "1.0.0", "0.2.2"])
def test_options_tells_versions_extensions_and_sizes_without_a_sign_in(nobody, path, version):
    answer = nobody.call("OPTIONS", path, headers={"Tus-Resumable": version} if version else {})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert answer.headers["Tus-Max-Size"] == str(MAX_OBJECT_BYTES)
    assert answer.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"
    assert set(answer.headers["Tus-Extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "termination",
        "expiration",
        "checksum",
        "concatenation",
    }


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0", "2.0.0", "1.0.0,1.0.0"])
@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
def test_a_version_that_is_not_spoken_is_412_and_nothing_is_done(tus, method, version):
    path = "/uploads" if method == "POST" else tus.opened(3)
    usual = {"Upload-Length": 3, "Upload-Offset": 0, "Content-Type": "application/offset+octet-stream"}
    answer = tus.call(method, path, usual, None if method == "HEAD" else b"abc", {"tus_resumable": version})
    assert answer.status_code == 412
    assert answer.headers["Tus-Version"] == answer.headers["Tus-Resumable"] == "1.0.0"
    if method != "POST":
        assert tus.head(path).headers["Upload-Offset"] == "0"


@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE", "GET"])
def test_every_other_method_needs_a_sign_in(tus, nobody, method):
    path = "/uploads" if method == "POST" else tus.opened(3)
    usual = {"Upload-Length": 3, "Upload-Offset": 0, "Upload-Metadata": about()}
    answer = Tus(nobody).call(method, path, {**usual, "Content-Type": "application/offset+octet-stream"}, b"abc", {})
    assert answer.status_code == 401
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    if method != "HEAD":
        assert code(answer) == "not_signed_in"


def test_a_method_that_is_not_taken_is_405_and_told_which_are(tus):
    for path, override in (("/uploads", "PATCH"), (tus.opened(1), "PUT")):
        answer = tus.call("POST", path, {"X-HTTP-Method-Override": override}, None, {})
        assert (answer.status_code, code(answer)) == (405, "method_not_allowed")
        assert "OPTIONS" in answer.headers["Allow"]
    assert tus.call("POST", tus.opened(1), {}, None, {}).status_code == 405
    assert tus.call("PUT", "/uploads", {}, b"", {}).status_code == 405


def test_method_override_stands_in_for_what_a_client_cannot_send(tus):
    def posted(path, method, usual, body=None):
        return tus.call("POST", path, {"X-HTTP-Method-Override": method, **usual}, body, {})

    made = posted("/uploads", "POST", {"Upload-Length": 3, "Upload-Metadata": about()})
    path = made.headers["Location"]
    chunk = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": 0}
    assert posted(path, "patch", chunk, b"ab").headers["Upload-Offset"] == "2"
    head = posted(path, "HEAD", {})
    assert (head.status_code, head.content, head.headers["Upload-Offset"]) == (200, b"", "2")
    assert posted(path, "OPTIONS", {"Tus-Resumable": None}).headers["Tus-Version"] == "1.0.0"
    assert posted(path, "DELETE", {}).status_code == 204
    assert tus.head(path).status_code in (404, 410)


def test_only_post_is_overridden_so_a_get_never_deletes(tus):
    path = tus.opened(3)
    assert tus.call("GET", path, {"X-HTTP-Method-Override": "DELETE"}, None, {}).status_code == 200
    assert tus.head(path).status_code == 200


def test_a_cookie_from_another_site_uploads_nothing(web, nobody):
    token = str(web.session.headers["Authorization"]).removeprefix("Bearer ")
    browser = {"Cookie": f"depot_session={token}", "Sec-Fetch-Site": "cross-site"}
    answer = Tus(nobody).call("POST", "/uploads", {"Upload-Length": 1, "Upload-Metadata": about(), **browser}, None, {})
    assert (answer.status_code, code(answer)) == (403, "cross_site_request")


def test_no_origin_is_allowed_unless_the_operator_lists_it(nobody):
    answer = nobody.call("OPTIONS", "/uploads", headers={"Origin": "https://portal.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
