"""HTTP clients for tests: one a tier, with the sign-in or the key it needs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from typing import Any

import pytest
import requests

from chalicelib import dynamo
from chalicelib.auth import tables, users
from tests.support.stack import RunningStack


class Client:
    """`requests` against one tier. `headers` go with every call; nothing is taken from the environment."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update(headers or {})

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=60, **kwargs)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.call("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> requests.Response:
        return self.call("POST", path, **kwargs)

    # --- the web tier's calls ----------------------------------------------------------------------------------

    def upload(self, body: bytes | Iterable[bytes], filename: str | None = None, **query: str) -> requests.Response:
        """PUT /files into cohort VACS unless said otherwise; a generator goes as chunked coding."""
        headers = query.pop("headers", {})
        asked = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient"}
        asked |= {"filename": filename or fresh_name(), **query}
        return self.call("PUT", "/files", params=asked, data=body, headers=headers)

    def content(self, file_id: str, **kwargs: Any) -> requests.Response:
        return self.get(f"/files/{file_id}/content", **kwargs)


def fresh_name(suffix: str = ".csv") -> str:
    """A file name that no other test has used."""
    return f"file-{uuid.uuid4().hex[:12]}{suffix}"


def code(answer: requests.Response) -> str:
    """The error code of an answer, which must be of Depot's form."""
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == answer.headers["X-Request-ID"]
    return str(error["code"])


def internal(stack: RunningStack) -> Client:
    """The services tier, with the tiers' key."""
    return Client(stack.document["services_url"], {"X-API-Key": stack.document["api_key"]})


def signed_in(stack: RunningStack, username: str, password: str) -> Client:
    """The web tier, as a user."""
    client = Client(stack.document["web_url"])
    answer = client.post("/session", json={"username": username, "password": password})
    assert answer.status_code == 200, answer.text
    client.session.cookies.clear()
    client.session.headers["Authorization"] = f"Bearer {answer.json()['token']}"
    return client


def make_user(stack: RunningStack, role: str, *cohorts: str) -> Client:
    """A new user of the running stack, signed in."""
    name = f"{role}-{uuid.uuid4().hex[:8]}"
    with in_environment(stack):
        password = users.create_user(name, role, cohorts)
    return signed_in(stack, name, password)


def in_environment(stack: RunningStack) -> Any:
    """This process talks to the stack's tables, as another `depot` command would."""
    return _Environment(stack)


class _Environment:
    def __init__(self, stack: RunningStack) -> None:
        self._env = stack.document["env"]
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        for name, value in self._env.items():
            self._patch.setenv(name, value)
        dynamo.bind(os.environ["LEDGER_TABLE_PREFIX"], os.environ["AWS_DEFAULT_REGION"], *tables.MODELS)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
