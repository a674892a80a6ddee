"""Who may do what to which file, on the services tier: checked again for every call, denials recorded.

To a user, a file of another cohort, and one that no row knows, is not there. Imported by the use-cases of this folder.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from chalicelib.auth.policy import SERVICE, Permission, Principal
from chalicelib.errors import FileMissing, Forbidden, TooManyRequests
from nas_gateway.files.placement import Placement
from nas_gateway.files.quotas import Throttle
from nas_gateway.files.registry import Registry
from nas_gateway.files.tables import State, TrackedFile
from nas_gateway.ledger.events import Action, Operation, Outcome
from nas_gateway.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and under which request id. Without a user it is the services tier itself."""

    principal: Principal = SERVICE
    request_id: str | None = None

    @property
    def is_service(self) -> bool:
        return self.principal is SERVICE


# Of the last refusal of a minute that is recorded: what the user tries after it is refused with 429.
LAST_DENIAL = {"more": "not recorded in this minute"}


def under_glass(call: Call, file: TrackedFile | None) -> dict[str, str]:
    """What an event says of a use that counts for a broken glass."""
    grant = call.principal.grant(file.cohort) if file is not None else None
    return {"break_glass": grant} if grant else {}


class Access:
    """The checks. Each raises `Forbidden` or `FileMissing`, or returns."""

    def __init__(self, ledger: Ledger, registry: Registry, throttle: Throttle | None = None) -> None:
        self._ledger, self._registry, self.throttle = ledger, registry, throttle

    def upload(self, call: Call, place: Placement, *, if_absent: bool, unplaced: bool = False) -> None:
        """`unplaced`: a piece whose cohort is told when it is put together; any right to upload will do until then."""
        if call.is_service:
            return
        if self.throttle is not None:
            self.throttle.upload(call.principal)
        scope = call.principal.scope(Permission.UPLOAD)
        allowed = call.principal.may(Permission.UPLOAD, place.cohort)
        if unplaced and place.cohort is None:
            allowed = scope is None or bool(scope)
        if not allowed:
            self.deny(call, Permission.UPLOAD, place.disk, place.path, place.cohort)
        # Replacing is deleting, of what may be another cohort's.
        old = None if if_absent else self._registry.at(place.disk, place.path)
        if old is not None and not call.principal.may(Permission.DELETE, old.cohort):
            self.deny(call, Permission.DELETE, place.disk, place.path, old.cohort)

    def file(self, call: Call, permission: Permission, disk: str, path: str) -> TrackedFile | None:
        """The row of the file at a path, once the caller may do this to it.

        To a user, a file of another cohort, and one that no row knows, is not there.
        """
        file = self._registry.at(disk, path)
        if file is not None and file.state == State.DELETING and permission is not Permission.DELETE:
            raise FileMissing  # only its deletion can go on
        if call.is_service or (file is None and call.principal.scope(permission) is None):
            return file
        if file is None or not call.principal.may(Permission.LIST, file.cohort):
            self._note_hidden(call, permission, disk, path, file.cohort if file else None)
            raise FileMissing
        if not call.principal.may(permission, file.cohort):
            self.deny(call, permission, disk, path, file.cohort)
        return file

    def deny(self, call: Call, permission: Permission, disk: str, path: str, cohort: str | None) -> NoReturn:
        """Record a refusal, and refuse: raises `Forbidden`. Without a path it is about no one file."""
        self._note(call, permission, disk, path, cohort)
        raise Forbidden

    def hide(self, call: Call, permission: Permission, file: TrackedFile) -> NoReturn:
        """Record a refusal, and say that there is no such file: raises `FileMissing`."""
        self._note_hidden(call, permission, file.disk, file.path, file.cohort, file.file_id)
        raise FileMissing

    def _note_hidden(self, *about: Any) -> None:
        # 429 here and 404 for what is not there would tell the two apart: past the limit it is only not recorded.
        with suppress(TooManyRequests):
            self._note(*about)

    def _note(
        self, call: Call, permission: Permission, disk: str, path: str, cohort: str | None, file_id: str | None = None
    ) -> None:
        """Raises `TooManyRequests` where so much was refused to this user that it is no longer recorded."""
        last = self.throttle is not None and self.throttle.denial(call.principal)
        operation = Operation(
            action=Action.ACCESS_DENIED,
            user=call.principal.username,
            cohort=cohort,
            file_id=file_id,
            disk=disk,
            file_path=path,
            metadata={"permission": permission.value, **(LAST_DENIAL if last else {})},
            request_id=call.request_id,
        )
        self._ledger.record(operation, Outcome.FAILED)

    def prefix(self, call: Call, permission: Permission, prefix: str) -> None:
        """Listing a folder of the NAS itself: a user may see below `submissions/{cohort}/` of a permitted cohort."""
        parts = prefix.split("/")
        cohort = parts[1] if parts[0] == "submissions" and len(parts) > 1 else None
        if not call.is_service and not call.principal.may(permission, cohort):
            self.deny(call, permission, "", prefix, cohort)
