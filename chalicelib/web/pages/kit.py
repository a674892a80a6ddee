"""What the pages share: who is signed in, the frame around every page, errors as pages, and forms as browsers send them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final
from urllib.parse import parse_qsl, quote

from chalice.app import Blueprint, Response

from chalicelib.auth.policy import ROLES, Permission, Principal, report_scope
from chalicelib.errors import DepotError, InvalidRequest, NotSignedIn, PayloadTooLarge
from chalicelib.hosting.answers import as_depot_error
from chalicelib.hosting.chalice_app import body_reader
from chalicelib.limits import MAX_JSON_BYTES
from chalicelib.observability import current_record, current_request_id
from chalicelib.web.pages import render
from chalicelib.web.tier import Tier

FORM: Final = "application/x-www-form-urlencoded"
HOME: Final = "/app/files"
SIGN_IN: Final = "/app/sign-in"


Handler = Callable[..., Response]


class Kit:
    """One a blueprint. `tier` is made on first use."""

    def __init__(self, bp: Blueprint, tier: Tier) -> None:
        self._bp, self._tier = bp, tier

    @property
    def request(self) -> Any:
        return self._bp.current_request

    @property
    def query(self) -> dict[str, str]:
        return dict(self.request.query_params or {})

    def sign_in(self) -> Principal:
        """Raises `NotSignedIn`, which `page` turns into the way to the sign-in page."""
        return self._tier().sign_in(self.request)

    def page(self, handler: Handler) -> Handler:
        """Around a handler: whatever it raises becomes a page. Put it directly under the route."""

        @wraps(handler)
        def answered(**arguments: str) -> Response:
            try:
                return handler(**arguments)
            except NotSignedIn:
                # Only a page can be come back to; a form's content would be lost, and is not sent again unasked.
                back = f"?next={quote(self.request.path)}" if self.request.method == "GET" else ""
                return render.see_other(SIGN_IN + back)
            except Exception as error:  # noqa: BLE001 -- a person gets a page, whatever happened
                return self.failed(as_depot_error(error))

        return answered

    def failed(self, error: DepotError) -> Response:
        """The page for an error, with what to do next and the id that an operator can look for."""
        record = current_record()
        if record is not None:
            record.error_code = error.code
        return self.show("error.html", error.status, error=error, principal=self._maybe())

    def show(
        self,
        template: str,
        status: int = 200,
        *,
        principal: Principal | None,
        connect: tuple[str, ...] = (),
        **values: Any,
    ) -> Response:
        """A page in its frame."""
        frame = {
            "principal": principal,
            "places": places(principal),
            "here": self.request.path,
            "request_id": current_request_id(),
        }
        return render.html(template, {**frame, **values}, status, connect=connect)

    def form(self) -> dict[str, str]:
        """The fields of a form without files. Raises `InvalidRequest`, `PayloadTooLarge`."""
        reader, data = body_reader(self.request), bytearray()
        while block := reader.read(MAX_JSON_BYTES + 1 - len(data)):
            data += block
            if len(data) > MAX_JSON_BYTES:
                raise PayloadTooLarge
        try:
            return dict(parse_qsl(data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200))
        except ValueError:
            raise InvalidRequest("The form is malformed.") from None

    def _maybe(self) -> Principal | None:
        try:
            return self.sign_in()
        except DepotError:
            return None


def places(principal: Principal | None) -> list[tuple[str, str]]:
    """What the navigation offers to somebody."""
    if principal is None:
        return []
    return [(where, name) for where, name, offered in _PLACES if offered(principal)]


def can(principal: Principal, permission: Permission) -> bool:
    """Whether somebody has a permission for any cohort at all."""
    rule = ROLES.get(principal.role)
    return rule is not None and permission in rule.permissions and (rule.everywhere or bool(principal.cohorts))


# What the navigation offers, and to whom.
_PLACES: Final[tuple[tuple[str, str, Callable[[Principal], bool]], ...]] = (
    ("/app/upload", "Upload", lambda who: can(who, Permission.UPLOAD)),
    ("/app/files", "Files", lambda who: can(who, Permission.LIST)),
    ("/app/audit", "Audit trail", lambda who: can(who, Permission.LEDGER)),
    ("/app/report", "Report", lambda who: report_scope(who) != frozenset()),
    ("/app/cleanup", "Clean-up", lambda who: who.may(Permission.CLEANUP, None)),
    ("/app/holds", "Holds", lambda who: who.may(Permission.LEDGER, None)),
    ("/app/people", "People", lambda who: who.may(Permission.ADMIN, None)),
    ("/app/system", "System", lambda who: who.may(Permission.CLEANUP, None)),
)


def cohorts_of(principal: Principal, permission: Permission) -> list[str] | None:
    """The cohorts to choose from, in order; None is any, by its name."""
    scope = principal.scope(permission)
    return None if scope is None else sorted(scope)


def following(values: Mapping[str, str], cursor: str | None) -> str | None:
    """The query of the next page; None on the last."""
    if cursor is None:
        return None
    kept = {name: value for name, value in values.items() if value and name != "cursor"}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in {**kept, "cursor": cursor}.items())
