"""The ledger's signed checkpoints as the web tier hands them out: each one line, exactly as it is kept.

An auditor who keeps what was downloaded can show later that the ledger was written anew. Nothing in a checkpoint is PHI:
numbers, times, hashes, keys. Imports the contract only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chalicelib.storage.remote import Transport


@dataclass(frozen=True, slots=True)
class CheckpointPage:
    """Lines without their ends, ascending, without gaps. `next` goes on after them; None when there are no more."""

    lines: Sequence[str]
    next: int | None


class Checkpoints(Protocol):
    """Each call is on behalf of the signed-in user, who must be allowed to read the ledger everywhere.

    Raise `Forbidden` (recorded), `CheckpointsOff`, `StorageError`; the remote one `ServicesUnavailable` besides.
    """

    def page(self, after: int, limit: int) -> CheckpointPage:
        """The checkpoints above number `after`, at most `limit` of them."""
        ...

    def public_key(self) -> str:
        """The public key (base64) that signed the first checkpoint, or will sign it."""
        ...


class RemoteCheckpoints:
    """Those of the services tier, for the user whose assertion the transport forwards."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def page(self, after: int, limit: int) -> CheckpointPage:
        query = {"after": str(after), "limit": str(limit)}
        answer = self._transport.json("GET", "/internal/ledger/checkpoints", query)
        return CheckpointPage(answer["checkpoints"], answer["next"])

    def public_key(self) -> str:
        return str(self._transport.json("GET", "/internal/ledger/public-key")["public_key"])
