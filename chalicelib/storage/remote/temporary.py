"""Temporary files through the services tier: `storage.workspace.TemporaryStorage` of the remote driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chalicelib.storage.base import Content, SavedPath
from chalicelib.storage.paths import normalise
from chalicelib.storage.remote.transport import Transport
from chalicelib.storage.seal import SealedBody
from chalicelib.storage.streams import as_reader


class RemoteTemporary:
    """The part of the remote driver that is about deadlines and clean-up. The services tier does all of it."""

    disk: str
    _transport: Transport

    def save_temporary(
        self, path: str, content: Content, content_type: str | None = None, *, cleanup_hours: float | None = None
    ) -> SavedPath:
        query = {"disk": self.disk, "path": normalise(path)}
        if cleanup_hours is not None:
            query["cleanup_hours"] = str(cleanup_hours)
        headers = {"Content-Type": content_type or "application/octet-stream"}
        reader, length = as_reader(content)
        body = SealedBody.of(reader, length)
        return self._saved(self._transport.json("POST", "/internal/workspace/files", query, headers=headers, body=body))

    def delete_temporary(self, path: str, *, user: str | None = None) -> str:
        asked = {"disk": self.disk, "path": normalise(path), **({"user": user} if user else {})}
        return str(self._transport.json("POST", "/internal/workspace/files/delete", json=asked)["tracking_id"])

    def _saved(self, answer: Mapping[str, Any]) -> SavedPath:
        raise NotImplementedError  # the driver's

    def usage(self) -> dict[str, Any]:
        return self._transport.json("GET", "/internal/workspace/usage")

    def cleanup(self, hours: float, *, dry_run: bool) -> dict[str, Any]:
        return self._transport.json("POST", "/internal/storage/cleanup", json={"hours": hours, "dry_run": dry_run})
