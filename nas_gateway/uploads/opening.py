"""Opening a session: the intent is recorded, the path taken, the store told. Or the one that is there already is found.

Used by `service` and `concatenation`.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

from pynamodb.transactions import TransactWrite

from chalicelib.errors import DepotError, FileExists, InvalidRequest, LeaseLost, UploadInProgress, UploadStateConflict
from chalicelib.storage.uploads import NewUpload, Receipt
from nas_gateway.files.access import Call
from nas_gateway.files.placement import Placement, Purpose, place
from nas_gateway.files.tables import State
from nas_gateway.uploads import direct, keys, rows
from nas_gateway.uploads.finishing import action_of
from nas_gateway.uploads.tables import Kind, UploadSession

if TYPE_CHECKING:
    from nas_gateway.uploads.service import Uploads

# The path of a session is free for others after a quarter of an hour without a chunk.
PATH_HOLD_SECONDS = 15 * 60
_MAX_NOTE_BYTES = 8 * 1024


class Opener:
    """Opens sessions for `uploads`. `scratch_disk` takes partial ones."""

    def __init__(self, uploads: Uploads, scratch_disk: str) -> None:
        self._uploads, self._transfers, self._scratch = uploads, uploads.transfers, scratch_disk

    def open(
        self, call: Call, new: NewUpload, kind: str, *, sources: list[str] | None = None, again: bool = False
    ) -> tuple[UploadSession, Receipt | None]:
        """Open a session of any kind, or find the one that its idempotency key opened. `again`: it was tried before."""
        _check(new)
        key = keys.key_of(call.principal.username, new.idempotency_key)
        payload = keys.payload_of(new, sources)
        found = keys.find(key, payload, self._transfers.clock()) if key else keys.Found()
        if found.upload_id:
            return self._known(call, found.upload_id, new)
        upload_id = uuid.uuid4().hex
        where = self._place(new, upload_id)
        now = self._transfers.clock()
        session = rows.new_row(
            upload_id=upload_id,
            file_id=upload_id,  # so that who holds the path leads to the session
            tracking_id=uuid.uuid4().hex,
            disk=where.disk,
            path=where.path,
            state=State.INTENT,
            kind=kind,
            owner=call.principal.username,
            created_at=now,
            expires_at=int(now + rows.SESSION_SECONDS),
            hold_until=now + PATH_HOLD_SECONDS,
            lease_until=now + self._uploads.lease,  # until it is open
            part_bytes=direct.part_bytes(new),
            size=new.size,
            sha256=new.sha256,
            note=dict(new.note) or None,
            sources=sources,
            key=key,
        )
        saved = keys.saved(key, payload, session, found.over) if key else None

        def also(transaction: TransactWrite) -> None:
            transaction.save(session)
            if saved is not None:
                saved(transaction)

        try:
            file, intent = self._transfers.announce(
                call,
                where,
                action_of(new.size),
                if_absent=new.if_absent,
                hold_seconds=PATH_HOLD_SECONDS,
                upload_id=upload_id,
                size=new.size,
                file_id=session.file_id,
                tracking_id=session.tracking_id,
                also=also,
                unplaced=new.partial,
            )
        except (FileExists, UploadInProgress) as refused:
            # The same creation, sent twice at once: the other one was first.
            found = keys.find(key, payload, now) if key else found
            if found.upload_id:
                return self._known(call, found.upload_id, new)
            if not again and isinstance(refused, UploadInProgress) and self._cleared(call, where):
                return self.open(call, new, kind, sources=sources, again=True)
            raise
        try:
            self._begin(session, where)
        except LeaseLost:  # who took over goes on with it, or has ended it
            raise
        except BaseException as error:
            self._transfers.withdraw(file, intent, error, 0, also=rows.ended(session, State.FAILED))
            raise
        receipt = self._uploads.settle(call, upload_id) if new.size == 0 and kind != Kind.DIRECT else None
        return (session, receipt) if receipt is None else (rows.get(upload_id, call.principal), receipt)

    def _cleared(self, call: Call, where: Placement) -> bool:
        """Whether an upload of the same sender that never got a byte has made way for the next attempt.

        A client whose creation was answered into a broken connection knows no address of it, and creates again. (Going on
        with the old one instead could mix two files that differ only in their bytes.)
        """
        claim = self._transfers.registry.claim(where.disk, where.path)
        try:
            old = rows.get(claim.pending, call.principal) if claim is not None and claim.pending else None
            if (
                old is None
                or not old.note
                or int(old.offset)
                or old.kind != Kind.STREAM
                or old.owner != call.principal.username
            ):
                return False
            old = self._uploads.take(call, old.upload_id, (State.INTENT, State.OPEN), offset=0, wait=0)
        except DepotError:
            return False
        with rows.released(old):
            self._uploads.discard(old, State.ABORTED, UploadStateConflict("Its sender began the upload anew."))
        return True

    def _begin(self, session: UploadSession, where: Placement) -> None:
        storage = self._transfers.disk(where.disk)
        handle = storage.create_parts(where.path, where.content_type, where.metadata)
        try:
            rows.opened(session, handle)
        except LeaseLost:
            storage.abort_parts(where.path, handle)  # the one that the row names, if any, is another
            raise

    def _known(self, call: Call, upload_id: str, new: NewUpload) -> tuple[UploadSession, Receipt | None]:
        session = rows.get(upload_id, call.principal)
        if session.state == State.INTENT:
            # A crash before it was open; or the call that opens it is still at it, and holds it.
            session = self._uploads.take(call, upload_id, (State.INTENT, State.OPEN))
            with rows.released(session):
                if session.state == State.INTENT:
                    self._begin(session, self._place(new, upload_id))
        if all_there(session):  # whose sender may take it for finished, so it has to be
            receipt = self._uploads.settle(call, upload_id)
            return rows.get(upload_id, call.principal), receipt
        return session, self._uploads.finisher.receipt(session) if session.state == State.AVAILABLE else None

    def _place(self, new: NewUpload, upload_id: str) -> Placement:
        if not new.partial:
            return place(new.disk, new.path, content_type=new.content_type, metadata=new.metadata)
        metadata = {**new.metadata, "purpose": Purpose.SCRATCH.value}
        return place(self._scratch, f"scratch/concat_{upload_id}/part", metadata=metadata)


def all_there(session: UploadSession) -> bool:
    """Whether every byte is acknowledged and only the end is missing."""
    return (
        session.state in (State.OPEN, State.COMPLETING)
        and session.kind in (Kind.STREAM, Kind.PARTIAL)
        and int(session.offset) == rows.size_of(session)
    )


def kind_of(new: NewUpload) -> str:
    """How its bytes will come. Raises `InvalidRequest`."""
    if new.partial and new.direct:
        raise InvalidRequest("A partial upload cannot be a direct one.")
    return Kind.PARTIAL if new.partial else Kind.DIRECT if new.direct else Kind.STREAM


def _check(new: NewUpload) -> None:
    if new.size is not None and new.size < 0:
        raise InvalidRequest("size must be a whole number of bytes, or left out.")
    if len(json.dumps(dict(new.note)).encode()) > _MAX_NOTE_BYTES:
        raise InvalidRequest(f"The metadata of an upload takes at most {_MAX_NOTE_BYTES} bytes.")
