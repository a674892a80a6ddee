"""Clean-up and holds through both tiers and the command line: who may, what they see, and that it is done."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import uuid

import pytest

from chalicelib.errors import DepotError
from chalicelib.limits import LEASE_SECONDS
from chalicelib.storage.streams import BytesReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway import wiring
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.ledger.signing import SigningKey
from tests.support.client import code
from tests.support.crash import counted_dynamodb
from tests.support.gateway import AWS as AWS_ENV
from tests.support.gateway import ENV, made_gateway

HASH = "0" * 64


def put(services, name="Jane_Doe.csv"):
    query = {"disk": "workspace", "path": f"upload_prechecks/{uuid.uuid4().hex}/{name}"}
    answer = services.post("/internal/storage/upload", params=query, data=b"a,b\n")
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_an_operator_plans_reads_applies_and_gets_receipts_and_never_a_name(services, web, people, events):
    operator, copy, submission = people["operator"], put(services), web.upload(b"stays").json()
    answer = operator.post("/cleanup/plans", json={"hours": 0})
    assert answer.status_code == 201, answer.text
    plan = answer.json()
    assert answer.headers["Location"] == f"/cleanup/plans/{plan['plan_id']}"
    assert copy["file_id"] in {item["file_id"] for item in plan["items"]}
    assert operator.get(f"/cleanup/plans/{plan['plan_id']}").json()["hash"] == plan["hash"]
    assert operator.get(f"/cleanup/plans/{plan['plan_id']}", params={"after": 10**6}).json()["items"] == []
    where = f"/cleanup/plans/{plan['plan_id']}"
    assert code(operator.post(f"{where}/apply", json={"hash": HASH})) == "plan_changed"
    told = {"hash": plan["hash"], "limits": {"max_files": 10_000, "max_percent": 100}}
    for _ in range(20):  # other tests' files are in the plan, too, and one call goes on for some seconds only
        done = operator.post(f"{where}/apply", json=told)
        assert done.status_code == 200, done.text
        if done.json()["outcome"] != "stopped":
            break
    assert {item["file_id"]: item["outcome"] for item in done.json()["items"]}[copy["file_id"]] == "deleted"
    told = operator.get(f"{where}/receipts")
    (receipt,) = [json.loads(row["receipt"]) for row in told.json()["receipts"] if row["file_id"] == copy["file_id"]]
    last = events(file_id=copy["file_id"])[-1]
    assert (last["action"], last["outcome"], last["user"]) == ("temporary_file_deleted", "completed", receipt["who"])
    assert receipt["ledger"] == f"{last['shard']}/{last['seq']}"
    assert operator.post(f"{where}/apply", json={"hash": plan["hash"]}).json() == done.json()
    assert web.content(submission["file_id"]).content == b"stays"
    assert "Jane" not in f"{plan}{done.text}{told.text}"


@pytest.fixture(scope="module")
def people(as_user):
    return {role: as_user(role, "VACS") for role in ("operator", "auditor", "cohort_manager")}


@pytest.mark.parametrize(
    ("method", "route", "roles"),
    [
        ("POST", "/cleanup/plans", {"operator"}),
        ("GET", f"/cleanup/plans/{'0' * 32}", {"operator"}),
        ("POST", f"/cleanup/plans/{'0' * 32}/apply", {"operator"}),
        ("GET", f"/cleanup/plans/{'0' * 32}/receipts", {"operator"}),
        ("GET", "/holds", {"auditor"}),
        ("POST", "/holds", set()),
        ("POST", "/holds/lift", set()),
    ],
)
def test_who_may_is_in_the_table_of_roles(people, method, route, roles):
    body = {"hash": HASH, "cohort": "NONE", "reason": "x"}
    for role, client in people.items():
        answer = client.call(method, route, **({"json": body} if method == "POST" else {}))
        allowed = answer.status_code not in (401, 403)
        assert allowed == (role in roles), (role, answer.text)


def test_a_page_of_another_site_cannot_apply_a_plan(web):
    answer = web.post(
        "/cleanup/plans",
        json={},
        headers={
            "Authorization": "",
            "Cookie": f"depot_session={web.session.headers['Authorization'].removeprefix('Bearer ')}",
            "Sec-Fetch-Site": "cross-site",
        },
    )
    assert code(answer) == "cross_site_request"


@pytest.mark.parametrize("plan_id", ["0" * 32, "applying", "walk", "x"])
def test_a_plan_that_is_not_there(web, plan_id):
    assert code(web.get(f"/cleanup/plans/{plan_id}")) == "plan_not_found"
    assert code(web.post(f"/cleanup/plans/{plan_id}/apply", json={"hash": HASH})) == "plan_not_found"


@pytest.mark.parametrize("body", [{"hours": "4"}, {"hours": -1}, {"hours": True}])
def test_bad_hours_are_refused(web, body):
    assert code(web.post("/cleanup/plans", json=body)) == "invalid_request"


@pytest.mark.parametrize("limits", [{"max_files": -1}, {"max_percent": 101}, {"others": 1}, [1]])
def test_bad_limits_are_refused(web, limits):
    plan = web.post("/cleanup/plans", json={}).json()
    answer = web.post(f"/cleanup/plans/{plan['plan_id']}/apply", json={"hash": plan["hash"], "limits": limits})
    assert code(answer) == "invalid_request"


def test_a_file_on_hold_is_neither_deleted_nor_replaced_nor_cleaned_up(services, web, people):
    manager = people["cohort_manager"]
    saved = manager.upload(b"held").json()
    hold = {"file_id": saved["file_id"], "reason": "a letter"}
    answer = web.post("/holds", json=hold)
    assert answer.status_code == 201, answer.text
    assert code(manager.call("DELETE", f"/files/{saved['file_id']}")) == "on_hold"
    name = saved["path"].rsplit("/", 1)[1]
    assert code(manager.upload(b"new", name, overwrite="true")) == "on_hold"
    assert web.content(saved["file_id"]).content == b"held"
    listed = people["auditor"].get("/holds").json()["holds"]
    assert (saved["file_id"], "a letter") in {(one["file_id"], one["reason"]) for one in listed}
    assert code(web.post("/holds", json=hold)) == "hold_exists"
    assert web.post("/holds/lift", json=hold).json()["lifted"]
    assert code(web.post("/holds/lift", json=hold)) == "hold_not_found"
    assert manager.call("DELETE", f"/files/{saved['file_id']}").status_code == 200


def test_the_services_tier_applies_a_plan_by_id_and_hash(services):
    copy = put(services)
    plan = services.post("/internal/storage/cleanup", json={"hours": 0, "dry_run": True}).json()
    done = services.post("/internal/storage/cleanup", json={"plan_id": plan["plan_id"], "hash": plan["hash"]}).json()
    assert copy["file_id"] in {item["file_id"] for item in done["items"]}
    assert done["outcome"] == "done"


# --- the command line -------------------------------------------------------------------------------------------------


def depot(tiers, *arguments):
    env = {**os.environ, **tiers.document["env"]}
    return subprocess.run(
        [sys.executable, "-m", "chalicelib.cli", *arguments], env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_the_command_line_shows_applies_and_gives_receipts(tiers, services, tmp_path):
    copy = put(services)
    shown = depot(tiers, "cleanup", "--dry-run", "--hours", "0", "--json")
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)
    assert copy["file_id"] in {item["file_id"] for item in plan["items"]}
    asked = depot(tiers, "cleanup", "--hours", "0")  # no terminal to ask at, and no --yes
    assert (asked.returncode, "Nothing was deleted." in asked.stdout) == (0, True)
    assert depot(tiers, "cleanup", "--plan", plan["plan_id"]).returncode == 2
    done = depot(tiers, "cleanup_orphaned_files", "--plan", plan["plan_id"], "--hash", plan["hash"])
    assert (done.returncode, "deleted: " in done.stdout) == (0, True), done.stderr
    lines = depot(tiers, "cleanup", "receipts", plan["plan_id"], "--json").stdout
    (line,) = [row for row in map(json.loads, lines.splitlines()) if row["file_id"] == copy["file_id"]]
    assert json.loads(line["receipt"])["verified"]["object"] is True
    file = tmp_path / "receipts.jsonl"
    file.write_text(lines)
    other = SigningKey.generate().public
    assert depot(tiers, "cleanup", "verify-receipts", str(file), "--public-key", other).returncode == 1
    if line["public_key"]:
        checked = depot(tiers, "cleanup", "verify-receipts", str(file), "--public-key", line["public_key"])
        assert checked.returncode == 0, checked.stdout
    assert depot(tiers, "cleanup", "verify-receipts", str(file), "--public-key", "x").returncode == 2


@pytest.mark.slow
def test_the_command_line_sets_lists_and_lifts_holds(tiers):
    cohort = f"C{uuid.uuid4().hex[:8]}"
    assert depot(tiers, "hold", "set", "--cohort", cohort, "--reason", "a letter").returncode == 0
    assert f"cohort:{cohort}" in depot(tiers, "hold", "list").stdout
    assert depot(tiers, "hold", "lift", "--cohort", cohort, "--reason", "settled").returncode == 0
    again = depot(tiers, "hold", "lift", "--cohort", cohort, "--reason", "settled")
    assert (again.returncode, "no such hold" in again.stderr) == (1, True)


# --- while uploads run ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clean_ups_of_everything_now_touch_no_upload_on_its_way(monkeypatch):
    """Sweeps and clean-ups with hours=0 and next to no grace, one after the other, until 50 uploads have ended."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in AWS_ENV.items():
        monkeypatch.setenv(name, value)
    env = {**ENV, "DEPOT_SWEEP_GRACE_SECONDS": "0.001"}
    with made_gateway(env) as gateway, counted_dynamodb():
        disk = gateway.transfers.disk("scratch")
        planted = {f"scratch/lost-{number}.csv" for number in range(20)}
        for path in planted:
            disk.save(path, b"lost")
            disk.create_parts(path)
        errors, runs, done = list[BaseException](), 0, threading.Event()

        def send(number):
            chance = random.Random(seed + number)
            data, disk, folder = chance.randbytes(3000), "submissions", "submissions/VACS/2024/patient"
            if number % 2:
                disk, folder = "scratch", "scratch/audit_7"
            path = f"{folder}/{number}.csv"
            try:
                if number % 5 == 0:
                    gateway.transfers.upload(Call(), place(disk, path), BytesReader(data))
                else:
                    status = gateway.uploads.create(Call(), NewUpload(disk=disk, path=path, size=len(data)))
                    while status.state == "OPEN":
                        piece = data[status.offset : status.offset + chance.randrange(1000, 2500)]
                        status = gateway.uploads.append(Call(), status.upload_id, status.offset, BytesReader(piece))
                    assert status.state == "AVAILABLE"
                if disk == "submissions":
                    assert gateway.transfers.disk(disk).get_file(path) == data
            except BaseException as error:
                errors.append(error)

        def clean():
            nonlocal runs
            while not done.is_set():
                try:
                    report = wiring.sweep(gateway.settings).run()
                    assert report.failed == {}
                    assert gateway.cleanup.clean_up(Call(), hours=0, dry_run=False)["failed"] == 0
                    runs += 1
                except DepotError as error:
                    errors.append(error)

        cleaner = threading.Thread(target=clean)
        cleaner.start()
        numbers, sent = itertools.count(), list[int]()

        def go_on():
            """Fifty uploads at least, and until so many clean-ups ran beside them."""
            while not errors and ((number := next(numbers)) < 50 or runs < 2):
                sent.append(number)
                send(number)

        senders = [threading.Thread(target=go_on) for _ in range(4)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        done.set()
        cleaner.join()
        assert errors == []
        assert runs >= 2
        later = gateway.transfers.clock() + 2 * LEASE_SECONDS
        gateway.transfers.clock = lambda: later
        for _ in range(2):
            wiring.sweep(gateway.settings).run()
            gateway.cleanup.clean_up(Call(), hours=0, dry_run=False)
        assert planted & {info.path for info in disk.list_files()} == set()
        assert [upload for upload in disk.open_uploads() if upload.path in planted] == []
        states = [row.state for row in TrackedFile.scan()]
        temporary = sum(number % 2 for number in sent)
        assert (states.count(State.AVAILABLE), states.count(State.DELETED)) == (len(sent) - temporary, temporary)
        print(f"{runs} clean-ups beside {len(sent)} uploads")
