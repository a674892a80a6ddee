"""Both packages under the real Lambda runtime client, behind an API Gateway that enforces the 6 MB: uploads in 4 MiB chunks.

The tables and the NAS are those of a running `depot up`; the two tiers that are asked are the functions.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chalicelib.limits import MIB
from infra import package
from tests.support.client import Client, code, fresh_name
from tests.support.lambda_runtime import PAYLOAD_BYTES, ApiGateway, Function, install_runtime
from tests.support.stack import RunningStack

pytestmark = pytest.mark.slow

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {**TUS, "Content-Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path], Path]:
    """A folder, both packages, and Lambda's runtime client."""
    folder = tmp_path_factory.mktemp("lambda")
    zips = {role: package.build(role, HERE, folder / "dist") for role in package.ROLES}
    return folder, zips, install_runtime(folder / "runtime")


@pytest.fixture(scope="module")
def functions(
    tiers: RunningStack, built: tuple[Path, dict[str, Path], Path]
) -> Iterator[tuple[str, Function, Function]]:
    """The web tier's address, and both functions."""
    folder, zips, runtime = built
    shared = dict(tiers.document["env"])
    shared.pop("SERVER_ROLE", None)
    with Function(zips["services"], runtime, folder / "services", {**shared, "SERVER_ROLE": "services"}) as services:
        with ApiGateway(services, folder / "dist" / "services.template.json") as inner:
            names = ("INTERNAL_API_KEY", "SESSION_SECRET", "LEDGER_TABLE_PREFIX", "AWS_ENDPOINT_URL")
            kept = {name: shared[name] for name in shared if name in names or name.startswith("AWS_")}
            env = {**kept, "SERVER_ROLE": "web", "SERVICES_URL": inner.url}
            with Function(zips["web"], runtime, folder / "web", env) as web:
                with ApiGateway(web, folder / "dist" / "web.template.json") as outer:
                    yield outer.url, web, services


@pytest.fixture(scope="module")
def cloud(functions: tuple[str, Function, Function], tiers: RunningStack) -> Client:
    """The web tier in Lambda, signed in."""
    client = Client(functions[0])
    answer = client.post("/session", json={"username": "admin", "password": tiers.document["password"]})
    assert answer.status_code == 200, answer.text
    client.session.cookies.clear()
    client.session.headers["Authorization"] = f"Bearer {answer.json()['token']}"
    return client


def metadata(name: str) -> str:
    values = {"filename": name, "cohort": "VACS", "protocol_year": "2024", "file_type": "patient"}
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def test_config_tells_what_a_client_must_know(cloud):
    answer = cloud.get("/config")
    assert answer.status_code == 200
    assert answer.json()["max_chunk_bytes"] == 4 * MIB
    assert answer.json()["transfer"] == "proxy"


def test_a_file_goes_up_in_chunks_of_4_mib_and_comes_down_in_ranges(cloud, functions):
    body = os.urandom(21 * MIB + 12345)
    made = cloud.post(
        "/uploads", headers={**TUS, "Upload-Length": str(len(body)), "Upload-Metadata": metadata(fresh_name())}
    )
    assert made.status_code == 201, made.text
    offset = 0
    while offset < len(body):
        headers = {**CHUNK, "Upload-Offset": str(offset)}
        step = body[offset : offset + 4 * MIB]
        answer = cloud.call("PATCH", made.headers["Location"], headers=headers, data=step)
        assert answer.status_code == 204, answer.text
        offset = int(answer.headers["Upload-Offset"])
    file_id = answer.headers["X-Depot-File-Id"]
    pieces = []
    for first in range(0, len(body), 4 * MIB):
        last = min(first + 4 * MIB, len(body)) - 1
        piece = cloud.content(file_id, headers={"Range": f"bytes={first}-{last}", "Accept": "application/octet-stream"})
        assert piece.status_code == 206
        pieces.append(piece.content)
    assert hashlib.sha256(b"".join(pieces)).digest() == hashlib.sha256(body).digest()
    _, web, services = functions
    for function in (web, services):
        assert 5 * MIB < function.largest_event <= PAYLOAD_BYTES, "4 MiB in base64, and no more than Lambda takes"


def test_a_chunk_over_the_ceiling_is_refused_and_says_what_to_do(cloud):
    made = cloud.post(
        "/uploads", headers={**TUS, "Upload-Length": str(5 * MIB), "Upload-Metadata": metadata(fresh_name())}
    )
    where = made.headers["Location"]
    headers = {**CHUNK, "Upload-Offset": "0"}
    answer = cloud.call("PATCH", where, headers=headers, data=b"x" * (4 * MIB + 1))
    assert (answer.status_code, code(answer)) == (413, "payload_too_large")
    assert "/config" in answer.json()["error"]["message"]
    # What does not fit an invocation at all is API Gateway's own to refuse; either way nothing was kept.
    assert cloud.call("PATCH", where, headers=headers, data=b"x" * (5 * MIB)).status_code == 413
    assert cloud.call("HEAD", where, headers=TUS).headers["Upload-Offset"] == "0"
    assert cloud.call("DELETE", where, headers=TUS).status_code == 204


def test_the_functions_logs_hold_no_names(functions, cloud):
    name = f"canary-{fresh_name()}"
    made = cloud.post("/uploads", headers={**TUS, "Upload-Length": "1", "Upload-Metadata": metadata(name)})
    cloud.call("PATCH", made.headers["Location"], headers={**CHUNK, "Upload-Offset": "0"}, data=b"x")
    for function in functions[1:]:
        text = Path(function.log).read_text()
        assert '"request_id"' in text, "it logs"
        assert name not in text
        assert json.dumps(name) not in text


def test_a_scheduled_function_runs_its_job_once_a_slot(built, tiers):
    folder, zips, runtime = built
    resources = json.loads((folder / "dist" / "services.template.json").read_text())["Resources"]
    handler = resources["Sweep"]["Properties"]["Handler"]
    env = {**tiers.document["env"], "SERVER_ROLE": "services"}
    event = {
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": "2031-05-01T12:01:00Z",
        "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:123456789012:rule/sweep"],
        "detail": {},
    }
    with Function(zips["services"], runtime, folder / "sweep", env, handler) as sweep:
        first, second = sweep.invoke(event), sweep.invoke(event)
    assert first is not None
    assert (first["result"], first["run"]["outcome"], first["run"]["trigger"]) == ("ran", "completed", "schedule")
    assert second == {"job": "sweep", "result": "slot_done", "run": None}
    assert '"job_ended"' in sweep.log.read_text()
