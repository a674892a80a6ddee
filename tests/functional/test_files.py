"""Download, describe, list, delete through both tiers, and who may."""

import random

import pytest

from chalicelib.limits import MIB
from tests.support.client import code, fresh_name

BODY = random.Random(11).randbytes(3 * MIB + 123)


@pytest.fixture(scope="module")
def stored(web):
    return web.upload(BODY, fresh_name()).json()


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        (f"bytes={MIB - 1}-{MIB + 1}", MIB - 1, MIB + 2),
        ("bytes=3145000-", 3145000, len(BODY)),
        ("bytes=-7", len(BODY) - 7, len(BODY)),
        (f"bytes=0-{len(BODY) * 2}", 0, len(BODY)),
    ],
)
def test_ranges(web, stored, asked, start, end):
    answer = web.content(stored["file_id"], headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == BODY[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(BODY)}"
    assert answer.headers["Content-Length"] == str(end - start)


def test_a_range_beyond_the_end_is_416_and_one_that_makes_no_sense_is_ignored(web, stored):
    beyond = web.content(stored["file_id"], headers={"Range": f"bytes={len(BODY)}-"})
    assert (beyond.status_code, code(beyond)) == (416, "range_not_satisfiable")
    ignored = web.content(stored["file_id"], headers={"Range": "bytes=9-3"})
    assert (ignored.status_code, ignored.content) == (200, BODY)


def test_head_tells_everything_but_the_bytes(web, stored):
    got, head = web.content(stored["file_id"]), web.call("HEAD", f"/files/{stored['file_id']}/content")
    assert head.status_code == 200
    assert head.content == b""
    for name in ("Content-Length", "ETag", "Content-Type", "Content-Disposition", "Accept-Ranges"):
        assert head.headers[name] == got.headers[name]
    assert head.headers["Content-Length"] == str(len(BODY))


def test_the_etag_saves_a_second_download_and_guards_a_resumed_one(web, stored):
    etag = web.call("HEAD", f"/files/{stored['file_id']}/content").headers["ETag"]
    assert etag == f'"{stored["sha256"]}"'
    unchanged = web.content(stored["file_id"], headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", etag)
    resumed = web.content(stored["file_id"], headers={"Range": "bytes=5-", "If-Range": etag})
    assert resumed.status_code == 206
    changed = web.content(stored["file_id"], headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, BODY)


@pytest.mark.parametrize("name", ['quo"te.html', "sémi;colon.csv", "文件.csv"])
def test_a_download_is_an_attachment_whatever_it_is_called(web, name):
    name = f"{fresh_name('')}-{name}"
    told = web.upload(b"<script>alert(1)</script>", name).json()
    answer = web.content(told["file_id"])
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="')
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert web.get(f"/files/{told['file_id']}").json()["filename"] == name


def test_an_empty_file_downloads(web):
    told = web.upload(b"").json()
    assert web.content(told["file_id"]).content == b""
    assert web.content(told["file_id"], headers={"Range": "bytes=0-"}).status_code == 416


def test_listing_pages_through_a_cohort_without_repeats(web):
    cohort = fresh_name("")
    ids = [web.upload(b"x", cohort=cohort).json()["file_id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        params = {"cohort": cohort, "limit": "2", **({"cursor": cursor} if cursor else {})}
        page = web.get("/files", params=params).json()
        assert len(page["files"]) <= 2
        seen += [item["file_id"] for item in page["files"]]
        if (cursor := page["cursor"]) is None:
            break
    assert seen == ids
    assert "disk" not in web.get("/files", params={"cohort": cohort}).json()["files"][0]


def test_a_bad_cursor_or_limit_is_a_clear_400(web):
    for params in ({"cursor": "garbage"}, {"cursor": "e30="}, {"limit": "0"}, {"limit": "many"}):
        answer = web.get("/files", params={"cohort": "VACS", **params})
        assert (answer.status_code, code(answer)) == (400, "invalid_request")


def test_listing_needs_a_cohort_unless_there_is_only_one(web, as_user):
    assert code(web.get("/files")) == "invalid_request"
    reader = as_user("reader", "ONLY")
    web.upload(b"x", cohort="ONLY")
    assert len(reader.get("/files").json()["files"]) == 1


def test_delete_is_final_and_frees_the_name(web, events):
    name = fresh_name()
    told = web.upload(b"x", name).json()
    gone = web.call("DELETE", f"/files/{told['file_id']}")
    assert (gone.status_code, gone.json()) == (200, {"file_id": told["file_id"], "deleted": True})
    for answer in (web.get(f"/files/{told['file_id']}"), web.content(told["file_id"])):
        assert (answer.status_code, code(answer)) == (404, "file_not_found")
    assert web.call("DELETE", f"/files/{told['file_id']}").status_code == 404
    assert web.upload(b"y", name).status_code == 201
    assert [event["action"] for event in events(file_id=told["file_id"])][-1] == "file_deleted_via_api"


@pytest.mark.parametrize("bad", ["0" * 32, "x", "0" * 31 + "G", "%00", "a%2Fb"])
def test_an_id_that_cannot_be_is_404(web, bad):
    assert web.get(f"/files/{bad}").status_code == 404


def test_another_cohorts_file_is_not_there(web, as_user):
    told = web.upload(b"x", cohort="THEIRS").json()
    stranger = as_user("cohort_manager", "MINE")
    for answer in (
        stranger.get(f"/files/{told['file_id']}"),
        stranger.content(told["file_id"]),
        stranger.call("DELETE", f"/files/{told['file_id']}"),
    ):
        assert (answer.status_code, code(answer)) == (404, "file_not_found")
    assert code(stranger.get("/files", params={"cohort": "THEIRS"})) == "forbidden"
    assert code(stranger.upload(b"x", cohort="THEIRS")) == "forbidden"
    assert web.content(told["file_id"]).content == b"x"


def test_roles(web, as_user):
    told = web.upload(b"x", cohort="ROLES").json()
    uploader, reader, auditor = as_user("uploader", "ROLES"), as_user("reader", "ROLES"), as_user("auditor")
    assert uploader.upload(b"x", cohort="ROLES").status_code == 201
    assert code(uploader.content(told["file_id"])) == "forbidden"
    assert reader.content(told["file_id"]).content == b"x"
    assert code(reader.upload(b"x", cohort="ROLES")) == "forbidden"
    assert code(reader.call("DELETE", f"/files/{told['file_id']}")) == "forbidden"
    assert auditor.get(f"/files/{told['file_id']}").status_code == 200
    assert code(auditor.content(told["file_id"])) == "forbidden"


def test_unknown_addresses_and_methods_are_answered_in_the_same_form(web):
    assert (web.get("/nowhere").status_code, code(web.get("/nowhere"))) == (404, "not_found")
    assert web.call("PATCH", "/files").status_code == 405


def test_a_listing_is_filtered_and_ordered_and_pages_add_up(web):
    cohort = fresh_name("")
    names = [f"{letter}-{fresh_name()}" for letter in "abcdef"]
    for number, name in enumerate(names):
        kind = "even" if number % 2 == 0 else "odd"
        assert (
            web.upload(b"x", name, cohort=cohort, file_type=kind, protocol_year=str(2020 + number)).status_code == 201
        )

    def listed(**query):
        found, cursor = [], None
        for _ in range(20):
            asked = {"cohort": cohort, **query, **({"cursor": cursor} if cursor else {})}
            page = web.get("/files", params=asked).json()
            found += [file["filename"] for file in page["files"]]
            if (cursor := page["cursor"]) is None:
                return found
        raise AssertionError("the listing does not end")

    for limit in ("1", "2", "100"):
        assert listed(limit=limit) == names
        assert listed(limit=limit, order="newest") == names[::-1]
        assert listed(limit=limit, file_type="odd") == names[1::2]
        assert listed(limit=limit, file_type="even", order="newest") == names[4::-2]
        assert listed(limit=limit, name="c-") == [names[2]]
        assert listed(limit=limit, protocol_year="2025", file_type="odd") == [names[5]]
        assert listed(limit=limit, protocol_year="2025", file_type="even") == []
    assert web.get("/files", params={"cohort": cohort, "order": "up"}).status_code == 400
    assert web.get("/files", params={"cohort": cohort, "name": "x" * 300}).status_code == 400
