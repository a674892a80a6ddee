"""Schemathesis calls every operation of the API's document with all kinds of values, right and wrong. Nothing may be a 500.

Besides: every status, content type, header and JSON body is one that the document declares; credentials are asked for; a
method that is not there is refused. The seed stands in the command, which a failure prints.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import signed_in
from tests.support.stack import RunningStack, running_stack

ROOT = Path(__file__).parents[2]
SEED = "20240506"

# What is not checked, and why.
UNCHECKED = {
    # What a value has to be is not all in the schema: a cohort that exists, a path that is allowed, a year for a submission.
    "positive_data_acceptance": "so good values may be refused",
    # Other query parameters and JSON fields are passed over, as HTTP clients and tus clients expect.
    "negative_data_rejection": "so not everything that is not declared is refused",
    "missing_required_header": "as above; tus's own header answers 412, which tests of tus look at",
    # Both need answers that lead to each other by links, which the document does not have.
    "use_after_free": "see above",
    "ensure_resource_availability": "see above",
    "object_level_authorization": "see above; tests walk every route with every role",
}

# What would end the session. (Ids of users are learned from GET /users, the own one among them.) The walk of
# test_openapi.py compares these.
LEFT_OUT = (
    "delete_session", "delete_sessions", "post_session_password", "patch_users_user_id", "post_users_user_id_password",
)  # fmt: skip


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Of its own: it is left full of what nobody would name so. Addresses are signed, and nobody uses them."""
    env = {"NAS_PUBLIC_ENDPOINT": "http://127.0.0.1:9"}
    with running_stack(tmp_path_factory.mktemp("fuzz"), nas="s3", env=env) as started:
        yield started


def run(stack: RunningStack, folder: Path, *options: str) -> None:
    url = stack.document["web_url"]
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--url", url]
    command += ["--exclude-checks", ",".join(UNCHECKED), "--seed", SEED, "--generation-database", "none"]
    command += ["--no-color", "--warnings", "off", *options]
    for operation in LEFT_OUT:
        command += ["--exclude-operation-id", operation]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    env["SCHEMATHESIS_HOOKS"] = "tests.support.fuzz_hooks"
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("who", ["administrator", "nobody"])
def test_no_call_ends_in_a_500_or_in_what_is_not_declared(stack: RunningStack, tmp_path: Path, who: str) -> None:
    options = ["--phases", "coverage"]
    if who == "administrator":
        client = signed_in(stack, stack.document["username"], stack.document["password"])
        options = ["-H", f"Authorization: {client.session.headers['Authorization']}"]
        options += ["--phases", "examples,coverage,fuzzing", "--max-examples", "3"]
    run(stack, tmp_path, *options)
    assert "unhandled_error" not in stack.output()
