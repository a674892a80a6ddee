"""A copy before the deletion (`CLEANUP_BACKUP_DISK`): read back and compared, or nothing is deleted. For this package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from chalicelib.errors import FileMissing, ObjectCorrupt
from chalicelib.storage.base import Storage
from nas_gateway.cleanup.tracked import BACKUP_OF
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.tables import TrackedFile
from nas_gateway.files.transfers import Transfers
from nas_gateway.ledger.events import Action


@dataclass(frozen=True, slots=True)
class Backup:
    """Copies to `disk` that are due themselves after `hours`."""

    transfers: Transfers
    disk: str
    hours: float

    def copy(self, disk: str, path: str, ident: str, file: TrackedFile | None) -> None:
        """Copy what is about to be deleted; a copy of a copy is never made, and of what is not there none can be.

        Raises `ObjectCorrupt` when the copy's digest, read anew, is not the source's or the source's is not the one on
        record; and what the stores and the ledger raise.
        """
        if file is not None and BACKUP_OF in (file.metadata or {}):
            return
        metadata = {BACKUP_OF: ident, "purpose": "scratch"}
        if file is not None and file.cohort:
            metadata["cohort"] = file.cohort
        where = place(self.disk, f"scratch/backup_{ident}/{path.rsplit('/', 1)[-1]}", metadata=metadata)
        try:
            source = self.transfers.disk(disk).open(path)
        except FileMissing:
            return
        with source:
            saved = self.transfers.upload(Call(), where, source, action=Action.BACKUP_CREATED, cleanup_hours=self.hours)
        known = file.sha256 if file is not None else None
        if known not in (None, saved.sha256) or digest_of(self.transfers.disk(self.disk), where.path) != saved.sha256:
            raise ObjectCorrupt("The backup copy is not what it was made from. Nothing was deleted.")


def digest_of(storage: Storage, path: str) -> str:
    """SHA-256 (hex) of a stored file, by reading it."""
    digest = hashlib.sha256()
    with storage.open(path) as download:
        for block in download:
            digest.update(block)
    return digest.hexdigest()
