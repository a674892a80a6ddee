"""No PHI in the telling: what was planted in names, bodies, metadata and secrets is in no log, error, header or health page."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.support.canaries import Canaries
from tests.support.client import Client, fresh_name, internal, make_user, signed_in
from tests.support.presigned_app import LambdaApp, presigned_app
from tests.support.raw import RawUpload
from tests.support.stack import RunningStack, gone, running_stack, wait_until
from tests.support.tus_client import CHUNK, Tus, metadata

pytestmark = pytest.mark.slow

__all__ = ["presigned_app"]

METRICS_TOKEN = "m" * 40

# How names that are refused carry a word along.
BAD_NAMES = (
    "../{}",
    "{}/..",
    "a\\{}",
    "{}\x00",
    "{}\r\nX-Injected: 1",
    "\u202e{}",
    ".depot-{}",
    "/{}",
    "{}" + "x" * 260,
)


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    with running_stack(tmp_path, nas="local", env={"METRICS_TOKEN": METRICS_TOKEN}) as running:
        yield running


def admin(stack: RunningStack) -> Client:
    return signed_in(stack, "admin", stack.document["password"])


def no_canary_in_the_logs(stack: RunningStack, canaries: Canaries) -> None:
    """Whatever either tier or `depot up` has printed. Looked at after the end, so that nothing is still on its way."""
    stack.stop()
    logs = {path.name: path.read_bytes() for path in (stack.state_dir / "logs").iterdir()}
    logs["depot up"] = stack.log.read_bytes()
    assert {"web.log", "services.log"} <= set(logs)
    for name in ("web.log", "services.log"):
        assert logs[name].count(b'"request"') > 5, f"{name}: where are the access lines?"
    assert {name: told for name, text in logs.items() if (told := canaries.found_in(text))} == {}


# --- what is asked ------------------------------------------------------------------------------------------------


def good_files(web: Client, canaries: Canaries) -> dict[str, Any]:
    """Uploads that work, and everything that can be done with them."""
    told: dict[str, Any] = {}
    for purpose in ("submission", "precheck", "scratch"):
        answer = web.upload(
            canaries.body(f"{purpose} body"),
            f"{canaries.word(f'{purpose} name')} é.csv",
            purpose=purpose,
            file_type=canaries.word("file type"),
            protocol_year=canaries.word("year"),
            headers={"Content-Type": f"application/x-{canaries.word('media type')}"},
        )
        told = canaries.check(answer, 201).json()
        file = f"/files/{told['file_id']}"
        canaries.check(web.get(file), 200)
        canaries.check(web.get(f"{file}/content"), 200)
        canaries.check(web.get(f"{file}/content", headers={"Range": "bytes=2-9"}), 206)
        canaries.check(web.get(f"{file}/content", headers={"Range": "bytes=9999999-"}), 416)
        canaries.check(web.get(f"{file}/url"), 404)  # presigning is off
    canaries.check(web.get("/files", params={"cohort": "VACS"}), 200)
    canaries.check(web.get("/audit", params={"cohort": "VACS"}), 200)
    canaries.check(web.get("/audit/export", params={"cohort": "VACS"}), 200)
    return told


def refused_uploads(web: Client, canaries: Canaries, taken: dict[str, Any]) -> None:
    name = taken["path"].rsplit("/", 1)[1]
    audit_id = taken["path"].split("/")[1].removeprefix("audit_")
    canaries.check(web.upload(canaries.body(), name, purpose="scratch", audit_id=audit_id), 409)
    for bad in BAD_NAMES:
        answer = web.upload(canaries.body(), bad.format(canaries.word("bad name")))
        canaries.check(answer, 400)
        canaries.check(web.upload(b"x", cohort=bad.format(canaries.word("bad cohort"))), 400, 403)
    for field in ("purpose", "protocol_year", "file_type", "cohort"):
        canaries.check(web.upload(b"x", **{field: f"{canaries.word(field)}/x"}), 400)
    for header, status in (("X-Content-SHA256", 400), ("Content-Type", 201), ("X-Depot-Meta-Note", 201)):
        canaries.check(web.upload(b"x", headers={header: canaries.word(header)}), status)
    canaries.check(web.upload(canaries.body(), headers={"X-Content-SHA256": "0" * 64}), 422)
    form = f'--b\r\nContent-Disposition: form-data; name="{canaries.word("form field")}"; filename="x'
    canaries.check(web.post("/files", data=form, headers={"Content-Type": "multipart/form-data; boundary=b"}), 400)
    files = {"file": (canaries.word("form name"), canaries.body("form body"))}
    canaries.check(web.post("/files", files=files), 400)
    broken = {"cohort": "VACS", "protocol_year": "2024", "file_type": "x", "filename": canaries.word("cut name")}
    with RawUpload(web, broken, 10_000) as upload:
        upload.send(canaries.body("cut body"))
    with RawUpload(web, broken, None) as upload:
        upload.socket.sendall(canaries.body("bad chunk"))
        assert canaries.found_in(upload.answer()) == []


def refused_tus(web: Client, canaries: Canaries) -> None:
    tus = Tus(web)

    def about(**more: str) -> str:
        usual = {"cohort": "VACS", "protocol_year": "2024", "file_type": "x", "filename": canaries.word("tus name")}
        return metadata(**{**usual, **more})

    key = canaries.word("idempotency key")
    made = canaries.check(
        tus.create(50, upload_metadata=about(note=canaries.word("tus note")), idempotency_key=key), 201
    )
    path = made.headers["Location"]
    canaries.check(tus.create(51, upload_metadata=about(), idempotency_key=key), 422)
    canaries.check(tus.patch(path, 7, canaries.body("tus chunk", 50)), 409)
    canaries.check(
        tus.patch(path, 0, canaries.body("tus chunk", 50)[:9], upload_checksum=f"sha1 {b64(b'0' * 20)}"), 460
    )
    canaries.check(tus.patch(path, 0, canaries.body("tus chunk", 60)), 400, 409, 413)
    canaries.check(tus.patch(path, 0, canaries.body("tus chunk", 49)), 204)
    canaries.check(tus.head(path), 200)
    canaries.check(tus.delete(path), 204)
    canaries.check(tus.head(path), 410)
    canaries.check(tus.create(5, upload_metadata=about(filename=f"../{canaries.word('tus climb')}")), 400)
    canaries.check(tus.create(5, upload_metadata=f"{canaries.word('tus key')} %%%"), 400)
    canaries.check(tus.create(5, upload_metadata=about(sha256=canaries.word("tus sha256"))), 400)
    canaries.check(tus.create(None, upload_concat=f"final;/uploads/{canaries.word('concat')}"), 400, 404)
    canaries.check(tus.create(5, upload_length=canaries.word("length")), 400)
    canaries.check(tus.create(5, tus_resumable=canaries.word("version")), 412)
    canaries.check(tus.create(5, body=canaries.body(), content_type=f"text/{canaries.word('type')}"), 415)
    canaries.check(
        tus.call("POST", f"/uploads/{canaries.word('upload id')}", {"Content-Type": CHUNK}, b"", {}), 404, 405
    )


def refused_otherwise(web: Client, canaries: Canaries) -> None:
    """Addresses, headers, questions, sign-ins."""
    nobody = Client(web.url)
    for path in ("/{}", "/files/{}", "/files/{}/content", "/uploads/{}", "/{}/../files", "/files?cohort={}&cursor={}"):
        for client in (web, nobody):
            canaries.check(client.get(path.format(*[canaries.word("address")] * 2)), 400, 401, 404)
    word = canaries.word
    for headers in (
        {"Authorization": f"Bearer {word('token')}"},
        {"Authorization": f"{word('scheme')} {word('credentials')}"},
        {"Cookie": f"depot_session={word('cookie')}"},
    ):
        canaries.check(nobody.get("/files", headers=headers), 401)
    canaries.check(web.call(word("method").upper(), "/files"), 400, 404, 405, 501)
    for name in ("Host", "Origin", "Sec-Fetch-Site", "Accept", "If-None-Match", "If-Range", "Range", "Expect", "Referer",
                 "X-Forwarded-Proto", "X-Forwarded-For", "X-HTTP-Method-Override", "User-Agent", "X-Request-ID"):  # fmt: skip
        # An id of another form than ours is replaced; one that has it is the client's own word, and is kept.
        value = f"{word(name)} {name}"
        for method, path in (
            ("GET", "/files?cohort=VACS"),
            ("POST", "/uploads"),
            ("GET", "/s3/params"),
            ("OPTIONS", "/uploads"),
        ):
            canaries.check(web.call(method, path, headers={name: value}))
    for path in ("/audit", "/audit/export"):
        for name in ("since", "outcome", "cursor"):
            canaries.check(web.get(path, params={"user": "x", name: word(f"audit {name}")}), 400)
        canaries.check(web.get(path, params={word("parameter"): "x", "user": "x"}), 400)
        canaries.check(web.get(path, params={"user": word("audit user"), "action": word("audit action")}), 200)
    for body in (
        f'{{"username": "{word("json")}',
        f'{{"username": "{word("user name")}", "password": "{word("password")}"}}',
        f'{{"username": "admin", "password": "{word("password")}"}}',
        f'["{word("list")}"]',
    ):
        canaries.check(nobody.post("/session", data=body, headers={"Content-Type": "application/json"}), 400, 401)
    for head in (
        f"GET /{word('raw')}\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /files HTTP/1.1\r\nHost: x\r\n{word('header name')} : x\r\n\r\n",
        f"PUT /files HTTP/1.1\r\nHost: x\r\nContent-Length: {word('length')}\r\n\r\n",
        f"PUT /files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {word('coding')}\r\n\r\n",
        f"GET /files HTTP/1.1\r\nHost: x\r\nX-Long: {word('long')}{'x' * 70_000}\r\n\r\n",
        f"{word('protocol')}\r\n\r\n",
    ):
        assert canaries.found_in(sent_raw(web.url, head.encode())) == []


def refused_inside(services: Client, canaries: Canaries, token: str) -> None:
    """Straight at the services tier."""
    word = canaries.word
    path = f"upload_prechecks/{word('folder')}/{word('file')}.csv"
    place = {"disk": "workspace", "path": path}
    meta = {"X-Depot-Meta-Note": quote(word("metadata value"))}
    call = services.call
    canaries.check(call("POST", "/internal/storage/upload", params=place, data=canaries.body(), headers=meta), 201)
    canaries.check(call("GET", "/internal/storage/download", params=place), 200)
    canaries.check(call("GET", "/internal/storage/metadata", params=place), 200)
    canaries.check(call("GET", "/internal/storage/list", params={"disk": "workspace", "prefix": path[:30]}), 200, 400)
    for disk in (word("disk"), "workspace"):
        for asked in (f"../{word('climb')}", word("missing"), f"/{word('absolute')}", f"a//{word('empty')}", ""):
            where = {"disk": disk, "path": asked}
            canaries.check(call("GET", "/internal/storage/download", params=where), 400, 404)
            canaries.check(call("POST", "/internal/storage/delete", json=where), 400, 404)
            canaries.check(
                call("POST", "/internal/storage/delete_prefix", json={"disk": disk, "prefix": asked}), 200, 400, 404
            )
    canaries.check(
        call("POST", "/internal/storage/upload", params=place, data=b"x", headers={"If-None-Match": "*"}), 409
    )
    bad = {"X-Depot-Meta-" + "N" * 70: word("long key")}
    canaries.check(call("POST", "/internal/storage/upload", params=place, data=b"x", headers=bad), 201, 400)
    for body in (f'{{"disk": "{word("json")}', f'{{"dry_run": "{word("flag")}"}}', "[" * 2000 + word("deep")):
        for to in ("delete", "delete_prefix", "cleanup"):
            canaries.check(services.post(f"/internal/storage/{to}", data=body), 400)
    asked = {"phase": "init"}
    init = {**place, "path": f"{path}2", "note": {"n": word("note")}, "idempotency_key": word("key"), "size": 5}
    upload = canaries.check(services.post("/internal/storage/upload_chunked", params=asked, json=init), 201).json()
    chunk = {"phase": "chunk", "upload_id": upload["upload_id"], "offset": "3"}
    canaries.check(services.post("/internal/storage/upload_chunked", params=chunk, data=canaries.body()), 409)
    chunk["offset"] = word("offset")
    canaries.check(services.post("/internal/storage/upload_chunked", params=chunk, data=b"x"), 400)
    canaries.check(services.post("/internal/storage/upload_chunked", params={"phase": word("phase")}), 400)
    canaries.check(services.get("/internal/tracking", params={"cohort": word("cohort"), "cursor": word("cursor")}), 400)
    for keys in ({"X-API-Key": word("api key")}, {"X-Depot-Assertion": word("assertion")}):
        canaries.check(services.get("/internal/files", params={"cohort": "VACS"}, headers=keys), 401)
    user = {"X-Depot-Assertion": token}
    told = {
        "permission": word("permission"),
        "cohort": word("cohort"),
        "method": word("method"),
        "route": word("route"),
    }
    canaries.check(services.post("/internal/audit/denials", json=told, headers=user), 400)
    told["permission"] = "admin"
    canaries.check(services.post("/internal/audit/denials", json=told, headers=user), 201)
    canaries.check(services.post("/internal/audit/sign-ins", json={"username": word("user name")}), 201)
    theirs = {"disk": "submissions", "path": f"submissions/THEIRS/2024/x/{word('denied')}"}
    canaries.check(call("POST", "/internal/storage/upload", params=theirs, data=b"x", headers=user), 403)
    canaries.check(call("GET", "/internal/storage/download", params=theirs, headers=user), 404)


def sent_raw(url: str, data: bytes) -> bytes:
    """What the server says to exactly these bytes until it closes."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 80), timeout=30) as link:
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        told = b""
        while block := link.recv(65536):
            told += block
        return told


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def healthy_pages(stack: RunningStack, canaries: Canaries) -> None:
    for answer in (Client(stack.document["web_url"]).get("/health"), internal(stack).get("/internal/storage/health")):
        assert answer.status_code in (200, 503)
        assert canaries.found_in(answer.content) == []
    for url in ("web_url", "services_url"):
        client = Client(stack.document[url], {"Authorization": f"Bearer {METRICS_TOKEN}"})
        client.call(canaries.word("method").upper(), f"/{canaries.word('no route')}")
        answer = client.get("/metrics")
        assert answer.text.count("depot_requests_total{") > 3
        assert canaries.found_in(answer.content) == []


# --- the tests ----------------------------------------------------------------------------------------------------------


def test_nothing_planted_turns_up_whatever_goes_right_or_wrong(stack: RunningStack, canaries: Canaries) -> None:
    web, services = admin(stack), internal(stack)
    uploader = make_user(stack, "uploader", "VACS")
    token = uploader.session.headers["Authorization"].removeprefix("Bearer ")
    told = good_files(web, canaries)
    refused_uploads(web, canaries, told)
    refused_tus(web, canaries)
    refused_otherwise(web, canaries)
    refused_inside(services, canaries, token)
    canaries.check(uploader.content(told["file_id"]), 403)  # and told to the ledger
    work = {"disk": "scratch", "path": f"scratch/audit_1/{canaries.word('temporary name')}"}
    canaries.check(services.post("/internal/workspace/files", params=work, data=canaries.body()), 201)
    canaries.check(
        services.post("/internal/workspace/files", params=work | {"cleanup_hours": canaries.word("hours")}), 400
    )
    canaries.check(services.get("/internal/workspace/usage"), 200)
    canaries.check(services.post("/internal/workspace/files/delete", json=work), 200)
    canaries.check(services.post("/internal/workspace/files/delete", json=work), 404)
    for form in ("text", "json", "html", canaries.word("format")):
        canaries.check(web.get("/reports/storage", params={"format": form}), 200, 400)
    canaries.check(web.call("DELETE", f"/files/{told['file_id']}"), 200)
    canaries.check(web.content(told["file_id"]), 404)
    # They did get where they belong: the ledger has them all.
    events = services.get("/internal/tracking", params={"cohort": "VACS", "limit": "1000"}).text
    assert {"submission name", "scratch name", "tus name"} <= set(canaries.found_in(events))
    healthy_pages(stack, canaries)

    # A NAS whose folders are not there any more, and cannot be made.
    root = next(path for path in stack.state_dir.iterdir() if path.name == "nas")
    shutil.rmtree(root)
    root.write_bytes(b"")
    canaries.check(web.upload(canaries.body(), canaries.word("broken NAS name")), 409, 500, 503, 507)
    canaries.check(Tus(web).create(5, upload_metadata=tus_about(canaries)), 409, 500, 503, 507)
    healthy_pages(stack, canaries)

    # The services tier away.
    os.kill(stack.pids["services"], signal.SIGKILL)
    wait_until(lambda: gone(stack.pids["services"]), 30, "the end of the services tier")
    canaries.check(web.upload(canaries.body(), canaries.word("services down name")), 502, 503)
    canaries.check(Tus(web).create(5, upload_metadata=tus_about(canaries)), 502, 503)
    canaries.check(uploader.upload(b"x", cohort=canaries.word("denied while down")), 403)
    canaries.check(web.get("/audit", params={"user": canaries.word("audit while down")}), 502, 503)
    assert canaries.found_in(Client(web.url).get("/health").content) == []
    assert canaries.answers > 150
    print(f"{canaries.answers} answers, {len(canaries.words)} canaries")
    no_canary_in_the_logs(stack, canaries)


def tus_about(canaries: Canaries) -> str:
    return metadata(cohort="VACS", protocol_year="2024", file_type="x", filename=canaries.word("tus name"))


def test_nothing_planted_turns_up_when_the_ledger_is_away(stack: RunningStack, canaries: Canaries) -> None:
    web, services = admin(stack), internal(stack)
    canaries.check(web.upload(canaries.body(), f"{canaries.word('name')}.csv"), 201)
    for _ in range(6):  # so that there are access lines to look at
        services.get("/internal/uploads/config")
    os.kill(stack.pids["aws"], signal.SIGKILL)
    place = {"disk": "workspace", "path": f"upload_prechecks/1/{canaries.word('path')}"}
    canaries.check(services.post("/internal/storage/upload", params=place, data=canaries.body()), 503)
    canaries.check(services.get("/internal/tracking", params={"user": canaries.word("user")}), 503)
    canaries.check(web.upload(canaries.body(), canaries.word("name")), 503)
    canaries.check(web.get("/files", headers={"Authorization": f"Bearer {canaries.word('token')}"}), 503)
    body = {"username": canaries.word("user name"), "password": canaries.word("password")}
    canaries.check(Client(web.url).post("/session", json=body), 503)
    for _ in range(6):
        canaries.check(web.get(f"/files/{canaries.word('id')}"), 404, 503)
    healthy_pages(stack, canaries)
    no_canary_in_the_logs(stack, canaries)


def test_signed_addresses_are_not_logged(
    presigned_app: LambdaApp, canaries: Canaries, capfd: pytest.CaptureFixture[str]
) -> None:
    """They hold the path, and whoever has one can use it."""
    name = canaries.word("presigned name")
    about = {"cohort": "VACS", "protocol_year": "2024", "file_type": "x", "size": 5}
    body = {
        "filename": name,
        "type": f"text/{canaries.word('type')}",
        "metadata": {**about, "note": canaries.word("note")},
    }
    app = presigned_app
    made = app.call("POST", "/s3/multipart", json=body)
    assert made["statusCode"] == 200
    import json

    upload_id = json.loads(made["body"])["uploadId"]
    path, key = {"upload_id": upload_id, "number": "1"}, {"key": upload_id}
    signed = json.loads(app.call("GET", "/s3/multipart/{upload_id}/{number}", path=path, query=key)["body"])
    assert canaries.found_in(signed["url"]) == ["presigned name"]  # so there is something to leak
    secret = [part for part in signed["url"].split("&") if "ignature" in part]
    assert secret
    answers = [
        made,
        app.call("GET", "/s3/multipart/{upload_id}/{number}", path=path, query={"key": canaries.word("key")}),
        app.call("POST", "/s3/multipart/{upload_id}/complete", path={"upload_id": upload_id}, query=key),
        app.call("POST", "/s3/multipart", json={**body, "filename": f"../{canaries.word('climb')}"}),
        app.call("POST", "/s3/multipart", json={**body, "metadata": {"size": canaries.word("size")}}),
        app.call("DELETE", "/s3/multipart/{upload_id}", path={"upload_id": upload_id}, query=key),
    ]
    for answer in answers:
        assert canaries.in_headers(answer["headers"]) == []
        assert canaries.found_in(answer["body"]) == []
    logged = capfd.readouterr()
    assert logged.err.count('"request"') >= len(answers)
    for text in (logged.out, logged.err):
        assert canaries.found_in(text) == []
        assert secret[0] not in text


def test_the_search_itself_would_find_them(canaries: Canaries) -> None:
    word = canaries.word("it")
    for text in (
        word, word.upper(), f"/files?filename={quote(word)}", word.encode().hex(), b64(word.encode()), b64(f"a{word}".encode()),
        b64(f"ab{word}c".encode()), repr({"path": word}),
    ):  # fmt: skip
        assert canaries.found_in(f"… {text} …") == ["it"], text
    assert canaries.found_in(fresh_name() * 1000) == []
