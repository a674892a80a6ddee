"""`app.py` as Lambda imports it, both tiers in one process, over an embedded S3 store that clients can reach.

from tests.support.presigned_app import presigned_app  # the fixture
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import boto3
import pytest

from chalicelib import dynamo
from chalicelib.auth import tables, users
from chalicelib.storage.manager import StorageManager
from tests.support.gateway import AWS, ENV
from tests.support.lambda_events import content, event

BUCKET = "presigned-app"


@dataclass
class LambdaApp:
    """Calls by events. `headers` are those of whoever is signed in."""

    module: ModuleType
    headers: dict[str, str]
    _others: dict[tuple[str, ...], LambdaApp] = field(default_factory=dict)

    def call(self, method: str, resource: str, **about: Any) -> dict[str, Any]:
        """The answer as Lambda gives it. `json` is a body; other arguments as `event` takes them."""
        if "json" in about:
            about["body"] = json.dumps(about.pop("json")).encode()
        headers = {**self.headers, **about.pop("headers", {})}
        answer: dict[str, Any] = self.module.app(event(method, resource, headers=headers, **about), None)
        return answer

    def signed_in(self, role: str, *cohorts: str) -> LambdaApp:
        """The same, as another user: one for each role and cohorts, since passwords are slow to hash."""
        who = (role, *cohorts)
        if who not in self._others:
            name = f"{role}-{os.urandom(4).hex()}"
            password = users.create_user(name, role, cohorts)
            self._others[who] = LambdaApp(self.module, {"authorization": f"Bearer {self._token(name, password)}"})
        return self._others[who]

    def _token(self, username: str, password: str) -> str:
        answer = self.call("POST", "/session", json={"username": username, "password": password})
        return str(told(answer)["token"])


def told(answer: dict[str, Any], status: int = 200) -> Any:
    """The JSON of an answer, which must have this status."""
    assert answer["statusCode"] == status, answer
    return json.loads(content(answer))


def code(answer: dict[str, Any]) -> tuple[int, str]:
    """Status and error code of a refusal."""
    return answer["statusCode"], json.loads(content(answer))["error"]["code"]


@pytest.fixture(scope="module")
def presigned_app(ministack_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LambdaApp]:
    """As the superuser."""
    # Modules share the embedded AWS: each has tables and a folder of its own.
    own = os.urandom(4).hex()
    disk = {"driver": "s3", "bucket": BUCKET, "endpoint": ministack_url, "access_key": "test", "secret_key": "test"}
    disks = {name: {**disk, "prefix": f"{own}/{name}"} for name in ("submissions", "workspace", "scratch")}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("S3_")]:
            patch.delenv(name)
        env = {**AWS, **ENV, "AWS_ENDPOINT_URL": ministack_url, "LEDGER_TABLE_PREFIX": f"presigned-{own}"}
        env |= {"STORAGE_CONFIG": json.dumps({"disks": disks}), "NAS_PUBLIC_ENDPOINT": ministack_url}
        folder = tmp_path_factory.mktemp("ledger")
        env |= {"LEDGER_CHECKPOINT_DIR": str(folder), "LEDGER_SIGNING_KEY_FILE": str(folder / "key.pem")}
        for name, value in env.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        patch.delitem(sys.modules, "app", raising=False)
        module = importlib.import_module("app")
        module.web_tier()
        dynamo.create(*tables.MODELS, *importlib.import_module("nas_gateway.wiring").MODELS)
        yield LambdaApp(module, {}).signed_in("superuser")
        sys.modules.pop("app", None)
        StorageManager.clear_cache()
