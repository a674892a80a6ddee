"""The end-to-end check of `depot test-two-server --run-tests`: speaks HTTP to both tiers, as a client would.

Standard library only: what it needs of the tiers is their public behaviour. Imported by cli.two_server only.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chalicelib.limits import CHUNKED_ACTION_OVER_BYTES, MIB

TIMEOUT = 120.0  # seconds for one answer

Answer = tuple[int, Any]


class Failed(Exception):
    """A check did not hold; the text says what was seen."""


def run(document: Mapping[str, Any], *, web_folder: Path, report: Callable[[str], None]) -> int:
    """Run all checks against the stack of a ready document; 0 when all held, 1 otherwise."""
    checks = Checks(document, web_folder)
    failures = 0
    for name, check in checks.all():
        try:
            check()
        except (Failed, OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            failures += 1
            report(f"FAIL  {name}: {error if isinstance(error, Failed) else f'{type(error).__name__}: {error}'}")
        else:
            report(f"ok    {name}")
    report(f"{failures} of {len(list(checks.all()))} checks failed" if failures else "All checks passed.")
    return 1 if failures else 0


def expect(truth: bool, seen: str) -> None:
    if not truth:
        raise Failed(seen)


class Checks:
    """The checks in order; later ones use what earlier ones made."""

    def __init__(self, document: Mapping[str, Any], web_folder: Path) -> None:
        self.document, self.web_folder = document, web_folder
        self.token, self.uploaded = "", dict[str, dict[str, Any]]()
        mark = secrets.token_hex(8).encode()
        self.mark = mark  # a canary: must be nowhere but on the NAS
        self.bodies = {
            "small": mark + secrets.token_bytes(1000),
            "large": mark + secrets.token_bytes(CHUNKED_ACTION_OVER_BYTES + MIB),
        }

    def all(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "the services tier refuses a caller without the key", self.key_required
        yield "sign in", self.sign_in
        yield "upload a small file", lambda: self.upload("small")
        yield "upload a file of more than 10 MB", lambda: self.upload("large")
        yield "both are listed", self.listed
        yield "the small file comes back identical", lambda: self.download("small")
        yield "the large file comes back identical", lambda: self.download("large")
        yield "the small upload is tracked", lambda: self.tracked("small", "file_uploaded_via_stream")
        yield "the large upload is tracked", lambda: self.tracked("large", "file_uploaded_via_stream")
        yield "a chunked upload of more than 10 MB in three phases", self.three_phases
        yield "it is tracked as chunked", lambda: self.tracked("chunked", "file_uploaded_chunked")
        yield "the web tier stored nothing", self.web_stored_nothing
        yield "delete all", self.delete
        yield "deleted files are gone", self.gone

    # --- the checks ------------------------------------------------------------------------------------------

    def key_required(self) -> None:
        status, _ = self.services("GET", "/internal/storage/list?disk=workspace&prefix=", api_key="")
        expect(status == 401, f"answered {status}")

    def sign_in(self) -> None:
        login = json.dumps({"username": self.document["username"], "password": self.document["password"]})
        status, body = self.web("POST", "/session", login.encode(), {"Content-Type": "application/json"})
        expect(status in (200, 201), f"answered {status} {body}")
        self.token = body["token"]

    def upload(self, name: str) -> None:
        data = self.bodies[name]
        query = urllib.parse.urlencode(
            {
                "cohort": "VACS",
                "protocol_year": "2024",
                "file_type": "patient",
                "filename": f"check-{secrets.token_hex(4)}.csv",
            }
        )
        status, body = self.web("PUT", f"/files?{query}", data, {"Content-Type": "text/csv"})
        expect(status == 201, f"answered {status} {body}")
        expect(body["size"] == len(data), f"{body['size']} bytes arrived of {len(data)}")
        expect(body["sha256"] == hashlib.sha256(data).hexdigest(), "another SHA-256")
        self.uploaded[name] = body

    def listed(self) -> None:
        cursor, seen = "", set[str]()
        while True:
            status, body = self.web("GET", "/files?" + urllib.parse.urlencode({"cohort": "VACS", "cursor": cursor}))
            expect(status == 200, f"answered {status}")
            seen |= {item["file_id"] for item in body["files"]}
            cursor = body.get("cursor") or ""
            if not cursor:
                break
        missing = [name for name, file in self.uploaded.items() if file["file_id"] not in seen]
        expect(not missing and len(self.uploaded) == 2, f"missing: {missing or 'the uploads'}")

    def download(self, name: str) -> None:
        status, body = self.web("GET", f"/files/{self.uploaded[name]['file_id']}/content", raw=True)
        expect(status == 200, f"answered {status}")
        expect(body == self.bodies[name], "the content differs")

    def tracked(self, name: str, action: str) -> None:
        status, body = self.services("GET", f"/internal/tracking?file_id={self.uploaded[name]['file_id']}")
        expect(status == 200, f"answered {status}")
        events = [event for event in body["events"] if event["action"] == action]
        outcomes = {event["outcome"] for event in events}
        expect({"intent", "completed"} <= outcomes, f"outcomes {sorted(outcomes) or 'none'} for {action}")
        moved = [event["bytes_transferred"] for event in events if event["outcome"] == "completed"]
        expect(moved == [len(self.bodies[name])], f"bytes_transferred {moved}")

    def three_phases(self) -> None:
        data = self.bodies["large"]
        path = f"submissions/VACS/2024/patient/check-{secrets.token_hex(4)}.csv"
        init = json.dumps({"disk": "submissions", "path": path, "size": len(data)}).encode()
        status, session = self.chunked("init", init, {"Content-Type": "application/json"})
        expect(status == 201, f"init answered {status} {session}")
        upload, offset = {"upload_id": session["upload_id"]}, 0
        while offset < len(data):
            chunk = data[offset : offset + session["chunk_bytes"]]
            binary = {"Content-Type": "application/octet-stream"}
            status, body = self.chunked("chunk", chunk, binary, **upload, offset=str(offset))
            expect(status == 200, f"chunk at {offset} answered {status} {body}")
            expect(body["offset"] > offset, f"the offset stays at {offset}")
            offset = body["offset"]
        status, body = self.chunked("complete", b"", {}, **upload)
        expect(status == 201, f"complete answered {status} {body}")
        expect(body["size"] == len(data), f"{body['size']} bytes arrived of {len(data)}")
        self.bodies["chunked"], self.uploaded["chunked"] = data, body

    def chunked(self, phase: str, body: bytes, headers: Mapping[str, str], **query: str) -> Answer:
        path = "/internal/storage/upload_chunked?" + urllib.parse.urlencode({"phase": phase, **query})
        return self.services("POST", path, body=body, headers=headers)

    def web_stored_nothing(self) -> None:
        left = [path for path in self.web_folder.rglob("*") if path.is_file()]
        expect(not left, f"{len(left)} files in its temporary folder")
        if sys.platform == "linux":
            held = list(_writable_files(int(self.document["pids"]["web"])))
            expect(not held, f"it holds {len(held)} files open for writing")

    def delete(self) -> None:
        for file in self.uploaded.values():
            status, body = self.web("DELETE", f"/files/{file['file_id']}")
            expect(status in (200, 204), f"answered {status} {body}")

    def gone(self) -> None:
        for file in self.uploaded.values():
            status, _ = self.web("GET", f"/files/{file['file_id']}/content")
            expect(status == 404, f"answered {status}")

    # --- HTTP ------------------------------------------------------------------------------------------------

    def web(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        raw: bool = False,
    ) -> Answer:
        signed = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return _call(self.document["web_url"], method, path, body, {**signed, **(headers or {})}, raw=raw)

    def services(
        self,
        method: str,
        path: str,
        *,
        api_key: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        key = self.document["api_key"] if api_key is None else api_key
        return _call(
            self.document["services_url"],
            method,
            path,
            body,
            {**({"X-API-Key": key} if key else {}), **(headers or {})},
        )


def _call(
    base: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, raw: bool = False
) -> Answer:
    """Status and body (JSON parsed, unless `raw`)."""
    parts = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if raw and response.status == 200:
        return response.status, data
    return response.status, json.loads(data) if data.strip() else None


def _writable_files(pid: int) -> Iterator[str]:
    """Regular files that a process holds open for writing (proc(5): fdinfo's octal `flags`)."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
        except FileNotFoundError:  # closed meanwhile
            continue
        flags = int(info.split("flags:", 1)[1].split(maxsplit=1)[0], 8)
        if flags & os.O_ACCMODE != os.O_RDONLY and Path(target).is_file():
            yield target
