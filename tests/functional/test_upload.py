"""Upload through both tiers: every way in, every size, every refusal."""

import hashlib
import random
import subprocess
import threading

import pytest
import requests

from chalicelib.limits import MIB
from tests.support.client import Client, code, fresh_name


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def pieces(body: bytes, rng: random.Random):
    at = 0
    while at < len(body):
        step = rng.choice((1, 17, 1000, 65536, MIB + 1))
        yield body[at : at + step]
        at += step


@pytest.mark.parametrize("size", [0, 1, 1000, 5 * MIB - 1, 5 * MIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_any_size_arrives_whole(web, size, chunked):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    body = rng.randbytes(size)
    answer = web.upload(pieces(body, rng) if chunked else body, cohort="SIZES")
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["size"], told["sha256"]) == (size, digest(body))
    assert web.content(told["file_id"]).content == body


def test_the_answer_says_where_the_file_is_and_how_to_find_it_again(web):
    name = fresh_name()
    answer = web.upload(b"a,b\n", name)
    told = answer.json()
    assert set(told) == {"file_id", "path", "size", "sha256", "tracking_id", "completed_at", "ledger"}
    assert told["path"] == f"submissions/VACS/2024/patient/{name}"
    assert answer.headers["Location"] == f"/files/{told['file_id']}"
    described = web.get(answer.headers["Location"]).json()
    assert described["filename"] == name
    assert described["content_type"] == "text/csv"
    assert (described["cohort"], described["protocol_year"], described["file_type"]) == ("VACS", "2024", "patient")


def test_curl_dash_t_as_the_readme_says(tiers, web, tmp_path):
    source = tmp_path / "big.csv"
    source.write_bytes(random.Random(7).randbytes(3 * MIB))
    target = (
        f"{tiers.document['web_url']}/files?cohort=VACS&protocol_year=2024&file_type=patient&filename={fresh_name()}"
    )
    token = web.session.headers["Authorization"]
    for arguments, stdin in ((["-T", str(source)], None), (["-T", "-"], source.read_bytes())):
        command = ["curl", "-sS", "--noproxy", "*", *arguments, "-H", f"Authorization: {token}", target]
        if stdin is not None:
            command[-1] = target + ".piped"
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=True)
        assert digest(source.read_bytes()).encode() in done.stdout


def test_post_does_what_put_does(web):
    params = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient", "filename": fresh_name()}
    assert web.call("POST", "/files", params=params, data=b"x").status_code == 201


def test_an_html_form_does_the_same(web):
    body = random.Random(3).randbytes(6 * MIB)
    fields = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient"}
    name = fresh_name()
    answer = web.post("/files", data=fields, files={"file": (name, body, "text/csv")})
    assert answer.status_code == 201, answer.text
    assert answer.json()["path"].endswith(name)
    assert answer.json()["sha256"] == digest(body)


def test_a_form_that_is_cut_leaves_nothing(web):
    boundary, name = "x" * 20, fresh_name()
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in {"cohort": "CUT", "protocol_year": "2024", "file_type": "patient"}.items()
    )
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    answer = web.post(
        "/files",
        data=head.encode() + b"x" * MIB,
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    assert (answer.status_code, code(answer)) == (400, "body_truncated")
    assert web.get("/files", params={"cohort": "CUT"}).json()["files"] == []


@pytest.mark.parametrize(
    ("purpose", "start"),
    [("submission", "submissions/VACS/2024/"), ("precheck", "upload_prechecks/"), ("scratch", "scratch/audit_")],
)
def test_the_purpose_picks_disk_and_path(web, purpose, start):
    told = web.upload(b"x", purpose=purpose).json()
    assert told["path"].startswith(start)
    described = web.get(f"/files/{told['file_id']}").json()
    assert described["purpose"] == purpose
    assert (described["cleanup_due"] is None) == (purpose == "submission")
    assert web.content(told["file_id"]).content == b"x"


def test_the_same_name_twice_is_refused_unless_replacing_is_asked_for(web):
    name = fresh_name()
    first = web.upload(b"first", name).json()
    again = web.upload(b"second", name)
    assert (again.status_code, code(again)) == (409, "file_exists")
    assert web.content(first["file_id"]).content == b"first"
    replaced = web.upload(b"second", name, overwrite="true").json()
    assert web.content(replaced["file_id"]).content == b"second"
    assert web.content(first["file_id"]).status_code == 404


def test_a_digest_is_compared_before_the_file_is_kept(web):
    name = fresh_name()
    wrong = web.upload(b"x" * MIB, name, headers={"X-Content-SHA256": "0" * 64})
    assert (wrong.status_code, code(wrong)) == (422, "digest_mismatch")
    right = web.upload(b"x" * MIB, name, headers={"X-Content-SHA256": digest(b"x" * MIB)})
    assert right.status_code == 201
    malformed = web.upload(b"x", headers={"X-Content-SHA256": "abc"})
    assert (malformed.status_code, code(malformed)) == (400, "invalid_request")


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..", ".", "a/b", "a\\b", "nul\x00", "cr\rlf\n", "bidi\u202e.csv", "x" * 256, " ", "ü" * 128],
)
def test_a_bad_file_name_is_refused_and_not_repeated_in_the_answer(web, name):
    answer = web.upload(b"x", name)
    assert (answer.status_code, code(answer)) == (400, "invalid_path")
    assert name.strip() == "" or len(name) < 3 or name not in answer.text


def test_double_encoding_is_decoded_once_only(web):
    told = web.upload(b"x", f"%2e%2e%2f{fresh_name()}")
    assert told.status_code == 201
    assert "/%2e%2e%2f" in told.json()["path"]


def test_composed_and_decomposed_names_are_the_same_file(web):
    stem = fresh_name("")
    assert web.upload(b"x", f"{stem}-\u00e9.csv").status_code == 201
    assert code(web.upload(b"x", f"{stem}-e\u0301.csv")) == "file_exists"


@pytest.mark.parametrize("missing", ["cohort", "protocol_year", "file_type", "filename"])
def test_what_is_missing_is_named(web, missing):
    params = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient", "filename": "x.csv"}
    del params[missing]
    answer = web.call("PUT", "/files", params=params, data=b"x")
    assert answer.status_code == 400
    assert missing in answer.json()["error"]["message"]


def test_an_unknown_purpose_is_refused(web):
    assert web.upload(b"x", purpose="archive").status_code == 400


def test_nobody_uploads_without_signing_in(tiers):
    answer = Client(tiers.document["web_url"]).upload(b"x")
    assert (answer.status_code, code(answer)) == (401, "not_signed_in")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    forged = Client(tiers.document["web_url"], {"Authorization": "Bearer " + "x" * 43}).upload(b"x")
    assert forged.status_code == 401


def test_a_refusal_of_a_large_body_can_be_read(tiers):
    answer = Client(tiers.document["web_url"]).upload(b"x" * (20 * MIB))
    assert answer.status_code == 401


def test_the_cookie_works_for_our_own_pages_and_not_for_others(tiers):
    browser = Client(tiers.document["web_url"])
    answer = browser.post("/session", json={"username": "admin", "password": tiers.document["password"]})
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert browser.upload(b"x", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 201
    foreign = browser.upload(b"x", headers={"Sec-Fetch-Site": "cross-site"})
    assert (foreign.status_code, code(foreign)) == (403, "cross_site_request")
    assert browser.call("DELETE", "/session").status_code == 200
    assert browser.get("/session").status_code == 401


def test_twenty_uploads_at_once_all_arrive(web, tiers):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    bodies = [rng.randbytes(rng.randrange(3 * MIB)) for _ in range(20)]
    answers: list[requests.Response | None] = [None] * len(bodies)

    def send(index: int) -> None:
        client = Client(tiers.document["web_url"], dict(web.session.headers))
        answers[index] = client.upload(bodies[index], cohort="MANY")

    threads = [threading.Thread(target=send, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for body, answer in zip(bodies, answers, strict=True):
        assert answer is not None
        assert answer.status_code == 201, answer.text
        assert answer.json()["sha256"] == digest(body)
