"""tus requests written out by hand, so that a test can send any of them wrongly."""

from __future__ import annotations

import base64
from typing import Any

import requests

from tests.support.client import Client, fresh_name

CHUNK = "application/offset+octet-stream"


def metadata(**values: str | bytes) -> str:
    """An `Upload-Metadata` header."""
    encoded = {name: value.encode() if isinstance(value, str) else value for name, value in values.items()}
    return ",".join(f"{name} {base64.b64encode(value).decode()}".strip() for name, value in encoded.items())


def about(**values: str) -> str:
    """The metadata of a submission of cohort VACS under a fresh name; a value of "" leaves its key out."""
    usual = {"cohort": "VACS", "protocol_year": "2024", "file_type": "patient", "filename": fresh_name()}
    return metadata(**{name: value for name, value in {**usual, **values}.items() if value})


class Tus:
    """One user's tus requests. Headers given by keyword (`upload_offset=…`) replace the usual ones; None drops one."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def call(self, method: str, path: str, usual: dict[str, Any], data: Any, told: dict[str, Any]) -> requests.Response:
        headers = {"Tus-Resumable": "1.0.0", **usual}
        headers |= {name.replace("_", "-").title(): value for name, value in told.items()}
        sent = {name: str(value) for name, value in headers.items() if value is not None}
        return self.client.call(method, path, headers=sent, data=data)

    def create(self, size: int | None, body: Any = None, **told: Any) -> requests.Response:
        """POST /uploads for `size` bytes (None: say nothing of it), with first bytes if there is a body."""
        usual = {"Upload-Length": size, "Upload-Metadata": None if "upload_metadata" in told else about()}
        if body is not None:
            usual["Content-Type"] = CHUNK
        return self.call("POST", "/uploads", usual, body, told)

    def opened(self, size: int | None, **told: Any) -> str:
        """The path of a new upload."""
        answer = self.create(size, **told)
        assert answer.status_code == 201, answer.text
        return answer.headers["Location"]

    def patch(self, path: str, offset: int, body: Any, **told: Any) -> requests.Response:
        return self.call("PATCH", path, {"Content-Type": CHUNK, "Upload-Offset": offset}, body, told)

    def head(self, path: str, **told: Any) -> requests.Response:
        return self.call("HEAD", path, {}, None, told)

    def delete(self, path: str, **told: Any) -> requests.Response:
        return self.call("DELETE", path, {}, None, told)

    def content(self, answer: requests.Response) -> bytes:
        """The file that an answer's receipt names."""
        return self.client.content(answer.headers["X-Depot-File-Id"]).content
