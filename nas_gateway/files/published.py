"""The ledger's signed checkpoints and its public key, for whoever may read the whole ledger. Imported by the API and wiring.

A checkpoint tells of every cohort at once, so a right to one cohort's trail is not enough.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from chalicelib.auth.policy import Permission
from chalicelib.errors import CheckpointsOff
from chalicelib.storage.checkpoints import CheckpointPage
from nas_gateway.files.access import Access, Call
from nas_gateway.ledger.checkpoints import first_key
from nas_gateway.ledger.stores import CheckpointStore


class Published:
    """`store` and `key` (the signing key's public half) are made at the first call; None where the settings name none."""

    def __init__(
        self, access: Access, store: Callable[[], CheckpointStore] | None, key: Callable[[], str] | None
    ) -> None:
        self._access, self._store, self._key = access, store, key

    def page(self, call: Call, after: int, limit: int) -> CheckpointPage:
        """The lines above `after`. Raises `Forbidden` (recorded), `CheckpointsOff`, `StorageError`."""
        store = self._allowed(call)
        found = [line.decode().removesuffix("\n") for line in islice(store.read(after), limit)]
        return CheckpointPage(found, after + limit if len(found) == limit else None)

    def public_key(self, call: Call) -> str:
        """The key of checkpoint 1: all later ones follow from it. Raises as `page` does, and `LedgerBroken`."""
        store = self._allowed(call)
        if (first := first_key(store)) is not None:
            return first
        if self._key is None:
            raise CheckpointsOff
        return self._key()

    def _allowed(self, call: Call) -> CheckpointStore:
        if not call.is_service and not call.principal.may(Permission.LEDGER, None):
            self._access.deny(call, Permission.LEDGER, "", "", None)
        if self._store is None:
            raise CheckpointsOff
        return self._store()


class LocalCheckpoints:
    """`Checkpoints` without a network between: for the testing role, where both tiers are one process."""

    def __init__(self, published: Published, call: Callable[[], Call]) -> None:
        self._published, self._call = published, call

    def page(self, after: int, limit: int) -> CheckpointPage:
        return self._published.page(self._call(), after, limit)

    def public_key(self) -> str:
        return self._published.public_key(self._call())
