"""Health and scheduled jobs of the services tier, as the web tier asks for them on behalf of the signed-in user."""

from __future__ import annotations

from typing import Any, Protocol

from chalicelib.storage.remote import Transport


class SystemCalls(Protocol):
    """`jobs` and `run` raise `Forbidden` (recorded); the remote one `ServicesUnavailable` besides."""

    def health(self) -> dict[str, Any]:
        """The services tier's own health, healthy or not (docs/api.md)."""
        ...

    def jobs(self) -> dict[str, Any]: ...

    def run(self, name: str) -> dict[str, Any]:
        """Run a job now and wait for it: its record. Raises `JobRunning`."""
        ...


class RemoteSystem:
    """The services tier's."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def health(self) -> dict[str, Any]:
        return self._transport.json("GET", "/internal/storage/health", accept=(503,))

    def jobs(self) -> dict[str, Any]:
        return self._transport.json("GET", "/internal/jobs")

    def run(self, name: str) -> dict[str, Any]:
        return self._transport.json("POST", f"/internal/jobs/{name}/run")
