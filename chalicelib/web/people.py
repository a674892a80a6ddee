"""`/users`, `/cohorts`, `/tokens`, `/sessions`, `/break-glass`, and one's own password and second factor.

Every call is forwarded to the services tier, which decides again, changes the tables and writes the ledger. The calls are
those of `auth.people`, their permissions those of `auth.routes`.
"""

from __future__ import annotations

from typing import Any

from chalice.app import Blueprint, Response

from chalicelib.auth import routes
from chalicelib.auth.people import CALLS, PeopleCall
from chalicelib.auth.policy import Permission
from chalicelib.errors import NotFound
from chalicelib.hosting.chalice_app import json_body
from chalicelib.web.session import cookie
from chalicelib.web.target import is_id
from chalicelib.web.tier import Tier


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)

    def forward(name: str, call: PeopleCall) -> None:
        needed = routes.WEB[call.method, call.path].permission

        def view(**where: str) -> Response:
            request = bp.current_request
            principal = tier().sign_in(request)
            if isinstance(needed, Permission):
                principal.require(needed, None)
            if not all(is_id(value) for value in where.values()):
                raise NotFound
            values: dict[str, Any] = dict(request.query_params or {}) if not call.body else json_body(request)
            answer = tier().people.ask(name, values, **where)
            headers: dict[str, Any] = {"Cache-Control": "no-store"}
            if name == "end_sessions":
                headers["Set-Cookie"] = cookie(tier, "", 0)
            return Response(answer, status_code=call.status, headers=headers)

        view.__name__, view.__doc__ = name, call.about
        bp.route(call.path, methods=[call.method])(view)

    for name, call in CALLS.items():
        forward(name, call)
    return bp
