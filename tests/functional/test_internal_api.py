"""The ten calls under /internal/storage/, as an operator uses them with curl and the API key."""

import hashlib
import random

import pytest

from chalicelib.limits import MIB
from tests.support.client import Client, code, fresh_name

CALLS = [
    ("POST", "/internal/storage/upload"),
    ("POST", "/internal/storage/upload_chunked"),
    ("GET", "/internal/storage/download"),
    ("POST", "/internal/storage/delete"),
    ("POST", "/internal/storage/delete_prefix"),
    ("GET", "/internal/storage/list"),
    ("GET", "/internal/storage/exists"),
    ("GET", "/internal/storage/metadata"),
    ("POST", "/internal/storage/cleanup"),
    ("GET", "/internal/storage/health"),
    ("GET", "/internal/files"),
    ("GET", "/internal/files/" + "0" * 32),
    ("GET", "/internal/tracking"),
]


def folder() -> str:
    return f"upload_prechecks/{fresh_name('')}"


def put(services, path, body=b"x", **headers):
    return services.post(
        "/internal/storage/upload", params={"disk": "workspace", "path": path}, data=body, headers=headers
    )


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_every_call_needs_the_key(tiers, method, path):
    for headers in ({}, {"X-API-Key": "wrong" * 8}, {"X-API-Key": ""}, {"Authorization": "Bearer " + "k" * 43}):
        answer = Client(tiers.document["services_url"], headers).call(method, path)
        assert (answer.status_code, code(answer)) == (401, "bad_api_key")


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_the_web_tier_has_none_of_them(web, method, path):
    assert web.call(method, path).status_code == 404


def test_upload_and_download(services):
    path, body = f"{folder()}/p.csv", random.Random(1).randbytes(2 * MIB)
    answer = put(services, path, body, **{"Content-Type": "text/csv", "X-Depot-Meta-Cohort": "VACS"})
    assert answer.status_code == 201
    told = answer.json()
    assert (told["path"], told["size"], told["sha256"]) == (path, len(body), hashlib.sha256(body).hexdigest())
    assert told["tracking_id"]
    asked = {"disk": "workspace", "path": path}
    got = services.get("/internal/storage/download", params=asked)
    assert got.content == body
    assert (got.headers["Content-Type"], got.headers["X-Depot-Meta-Cohort"]) == ("text/csv", "VACS")
    part = services.get("/internal/storage/download", params=asked, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, body[10:20])
    same = services.get("/internal/storage/download", params=asked, headers={"If-None-Match": got.headers["ETag"]})
    assert same.status_code == 304
    head = services.call("HEAD", "/internal/storage/download", params=asked)
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(body)), b"")


def test_if_none_match_star_refuses_to_replace(services):
    path = f"{folder()}/p.csv"
    assert put(services, path, **{"If-None-Match": "*"}).status_code == 201
    assert code(put(services, path, **{"If-None-Match": "*"})) == "file_exists"
    assert put(services, path, b"replaced").status_code == 201


def test_three_phases(services, events):
    path, body = f"{folder()}/big.bin", random.Random(2).randbytes(20 * MIB)
    begun = services.post(
        "/internal/storage/upload_chunked",
        params={"phase": "init"},
        json={"disk": "workspace", "path": path, "size": len(body), "metadata": {"cohort": "VACS"}},
    )
    assert begun.status_code == 201
    session = begun.json()
    assert (session["offset"], session["chunk_bytes"]) == (0, 8 * MIB)
    query = {"upload_id": session["upload_id"]}

    def phase(name, **kwargs):
        params = {"phase": name, **query, **kwargs.pop("params", {})}
        return services.post("/internal/storage/upload_chunked", params=params, **kwargs)

    offset = 0
    while offset < len(body):
        chunk = body[offset : offset + session["chunk_bytes"]]
        offset = phase("chunk", params={"offset": offset}, data=chunk).json()["offset"]
    assert phase("status").json()["offset"] == len(body)
    stale = phase("chunk", params={"offset": 0}, data=b"x" * (8 * MIB))
    assert (stale.status_code, code(stale)) == (409, "offset_conflict")
    done = phase("complete")
    assert done.status_code == 201
    assert done.json()["sha256"] == hashlib.sha256(body).hexdigest()
    assert phase("complete").json() == done.json()
    assert services.get("/internal/storage/download", params={"disk": "workspace", "path": path}).content == body
    history = events(file_id=done.json()["file_id"])
    assert [(event["action"], event["outcome"]) for event in history[:2]] == [
        ("file_uploaded_chunked", "intent"),
        ("file_uploaded_chunked", "completed"),
    ]


def test_an_aborted_upload_leaves_nothing(services):
    path = f"{folder()}/big.bin"
    session = services.post(
        "/internal/storage/upload_chunked", params={"phase": "init"}, json={"disk": "workspace", "path": path}
    ).json()
    query = {"upload_id": session["upload_id"]}
    services.post(
        "/internal/storage/upload_chunked", params={"phase": "chunk", "offset": "0", **query}, data=b"x" * (8 * MIB)
    )
    assert services.post("/internal/storage/upload_chunked", params={"phase": "abort", **query}).json()["aborted"]
    gone = services.post("/internal/storage/upload_chunked", params={"phase": "complete", **query})
    assert (gone.status_code, code(gone)) == (410, "upload_ended")
    assert services.get("/internal/storage/exists", params={"disk": "workspace", "path": path}).json() == {
        "exists": False
    }


def test_exists_metadata_list_and_delete(services):
    where = folder()
    for name in ("a/1", "a/2", "ab/3"):
        put(services, f"{where}/{name}", name.encode(), **{"Content-Type": "text/plain"})
    asked = {"disk": "workspace", "path": f"{where}/a/1"}
    assert services.get("/internal/storage/exists", params=asked).json() == {"exists": True}
    described = services.get("/internal/storage/metadata", params=asked).json()
    assert (described["path"], described["size"], described["content_type"]) == (f"{where}/a/1", 3, "text/plain")
    assert described["sha256"] == hashlib.sha256(b"a/1").hexdigest()
    listed = services.get("/internal/storage/list", params={"disk": "workspace", "prefix": f"{where}/a"}).json()
    assert [item["path"] for item in listed["files"]] == [f"{where}/a/1", f"{where}/a/2"]
    first = services.get("/internal/storage/list", params={"disk": "workspace", "prefix": where, "limit": "1"}).json()
    rest = services.get(
        "/internal/storage/list", params={"disk": "workspace", "prefix": where, "cursor": first["cursor"]}
    ).json()
    assert [item["path"] for item in first["files"] + rest["files"]] == [f"{where}/{n}" for n in ("a/1", "a/2", "ab/3")]
    deleted = services.post("/internal/storage/delete", json=asked)
    assert deleted.json()["deleted"] == [f"{where}/a/1"]
    again = services.post("/internal/storage/delete", json=asked)
    assert (again.status_code, code(again)) == (404, "file_not_found")
    for call in ("metadata", "download"):
        assert code(services.get(f"/internal/storage/{call}", params=asked)) == "file_not_found"


def test_delete_prefix_keeps_to_the_folder(services):
    where = folder()
    for name in ("a/1", "a/2", "ab/3"):
        put(services, f"{where}/{name}")
    asked = {"disk": "workspace", "prefix": f"{where}/a"}
    would = services.post("/internal/storage/delete_prefix", json={**asked, "dry_run": True}).json()
    assert would["would_delete"] == [f"{where}/a/1", f"{where}/a/2"]
    done = services.post("/internal/storage/delete_prefix", json=asked).json()
    assert (done["deleted"], done["failed"]) == (would["would_delete"], {})
    left = services.get("/internal/storage/list", params={"disk": "workspace", "prefix": where}).json()["files"]
    assert [item["path"] for item in left] == [f"{where}/ab/3"]


@pytest.mark.parametrize("prefix", ["", "/", "..", "a/../..", "/etc", "a//b", "\u0000"])
def test_an_empty_or_climbing_prefix_is_refused(services, prefix):
    answer = services.post("/internal/storage/delete_prefix", json={"disk": "workspace", "prefix": prefix})
    assert (answer.status_code, code(answer)) in ((400, "invalid_request"), (400, "invalid_path"))


def test_cleanup_deletes_temporary_files_and_never_submissions(services, web):
    copy = put(services, f"{folder()}/old.csv").json()
    submission = web.upload(b"stays").json()
    dry = services.post("/internal/storage/cleanup", json={"hours": 0, "dry_run": True}).json()
    assert copy["file_id"] in {item["file_id"] for item in dry["items"]}
    assert submission["file_id"] not in {item["file_id"] for item in dry["items"]}
    assert (dry["dry_run"], dry["deleted"]) == (True, 0)
    assert services.get("/internal/storage/exists", params={"disk": "workspace", "path": copy["path"]}).json()["exists"]
    young = services.post("/internal/storage/cleanup", json={"hours": 1, "dry_run": False}).json()
    assert copy["file_id"] not in {item["file_id"] for item in young["items"]}
    done = services.post("/internal/storage/cleanup", json={"hours": 0, "dry_run": False}).json()
    assert {item["outcome"] for item in done["items"]} == {"deleted"}
    gone = services.get("/internal/storage/exists", params={"disk": "workspace", "path": copy["path"]}).json()
    assert gone == {"exists": False}
    assert web.content(submission["file_id"]).content == b"stays"
    assert services.post("/internal/storage/cleanup", json={}).json()["dry_run"], "nothing is deleted by default"


def test_health_makes_a_round_trip_on_every_disk(services):
    answer = services.get("/internal/storage/health")
    assert answer.status_code == 200
    report = answer.json()
    assert report["status"] == "healthy"
    assert set(report["disks"]) == {"submissions", "workspace", "scratch"}
    for disk in report["disks"].values():
        assert set(disk["latency_ms"]) >= {"save", "read", "delete"}
    assert report["ledger"]["status"] == "healthy"


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("delete", b"not json"),
        ("delete", b"[]"),
        ("delete", b'{"disk":"workspace"}'),
        ("delete_prefix", b'{"disk":"workspace","prefix":"a","dry_run":"yes"}'),
        ("cleanup", b'{"hours":-1}'),
        ("cleanup", b'{"hours":true}'),
        ("upload_chunked?phase=init", b'{"path":"a/b","size":-1}'),
        ("upload_chunked?phase=init", b'{"path":"a/b","metadata":{"a":1}}'),
        ("upload_chunked?phase=dance", b"{}"),
        ("upload_chunked?phase=chunk&upload_id=x&offset=-1", b"x"),
    ],
)
def test_bad_input_is_a_clear_400(services, call, body):
    answer = services.post(f"/internal/storage/{call}", data=body)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


def test_an_unknown_disk_is_named_as_such(services):
    answer = services.get("/internal/storage/exists", params={"disk": "nowhere", "path": "a"})
    assert (answer.status_code, code(answer)) == (404, "unknown_disk")


def test_the_forwarded_user_is_authorised_again(services, as_user):
    """A web tier that let anybody do anything would still be stopped here."""
    path = f"submissions/THEIRS/2024/patient/{fresh_name()}"
    services.post("/internal/storage/upload", params={"disk": "submissions", "path": path}, data=b"x")
    token = as_user("cohort_manager", "MINE").session.headers["Authorization"].removeprefix("Bearer ")
    headers = {"X-Depot-Assertion": token}
    asked = {"disk": "submissions", "path": path}
    assert code(services.get("/internal/storage/download", params=asked, headers=headers)) == "file_not_found"
    assert code(services.post("/internal/storage/delete", json=asked, headers=headers)) == "file_not_found"
    refused = services.post("/internal/storage/upload", params=asked, data=b"y", headers=headers)
    assert code(refused) == "forbidden"
    listing = services.get("/internal/storage/list", params={"disk": "submissions", "prefix": ""}, headers=headers)
    assert code(listing) == "forbidden"
    stale = services.get("/internal/storage/exists", params=asked, headers={"X-Depot-Assertion": "x" * 43})
    assert code(stale) == "not_signed_in"
