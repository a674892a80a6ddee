"""The storage report as the web tier asks for it. The services tier makes it, for what the signed-in user may see.

`RemoteReports` asks over the transport; in the testing role the services tier's own object stands in its place.
"""

from __future__ import annotations

from typing import Any, Protocol

from chalicelib.storage.remote import Transport


class StorageReports(Protocol):
    def storage(self) -> dict[str, Any]:
        """The report, as docs/reports.md has it. Raises `Forbidden` (recorded), `LedgerUnavailable`."""
        ...


class RemoteReports:
    """The reports of the services tier, for the user whose assertion the transport forwards."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def storage(self) -> dict[str, Any]:
        return self._transport.json("GET", "/internal/reports/storage")
