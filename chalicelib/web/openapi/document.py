"""The OpenAPI 3.1 document of the web tier's API, made from the routes, their handlers, the error table and `OPERATIONS`.

It is the same for every installation: nothing of settings, disks or hosts is in it. Used by the blueprint and by `depot openapi`.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from chalicelib import errors
from chalicelib.auth import routes
from chalicelib.auth.policy import Permission
from chalicelib.auth.routes import About, Route, Who
from chalicelib.errors import DepotError
from chalicelib.limits import MAX_PARTS
from chalicelib.storage.catalog import FileView
from chalicelib.storage.uploads import UploadStatus
from chalicelib.web.files import HIDDEN
from chalicelib.web.openapi import operations_files, operations_people, operations_uploads
from chalicelib.web.openapi.kinds import Id
from chalicelib.web.openapi.operation import Answer, Operation, Parameter
from chalicelib.web.openapi.schemas import Schema, Schemas, says
from chalicelib.web.tier import COOKIE
from chalicelib.web.tus import TOLD

OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    **operations_files.OPERATIONS,
    **operations_uploads.OPERATIONS,
    **operations_people.OPERATIONS,
}
# What of the WEB tier's routes is no API: pages for people, and what they load.
PAGES: Final = ("/app", "/static/")

# The version of the API: the address has none, as answers only ever gain fields.
VERSION: Final = "1"

_JSON: Final = "application/json"
_UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_SHOWN: Final = {FileView: frozenset(FileView.__slots__) - HIDDEN, UploadStatus: frozenset(TOLD)}
# What can happen to any call that asks the services tier, or that finds the host busy.
_BEHIND: Final = (
    errors.ServicesUnavailable, errors.ServicesInterrupted, errors.StorageError, errors.StorageUnavailable,
    errors.LedgerUnavailable, errors.ServerBusy, errors.ServerStopping,
)  # fmt: skip
_MISSING: Final[Mapping[str, type[DepotError]]] = {"file_id": errors.FileMissing, "upload_id": errors.UploadMissing}
_PATH_KINDS: Final[Mapping[str, Any]] = {"number": Annotated[int, says(minimum=1, maximum=MAX_PARTS)]}

_ABOUT: Final = f"""Files that hold protected health information, on their way to the storage and back.

Sign in with `POST /session` and send the token as `Authorization: Bearer …`; the application's own pages use the cookie
`{COOKIE}` (with the prefix `__Host-` over TLS). Scripts use a personal token (`POST /tokens`). Which role may do what, for
which cohort, is decided by the servers; another cohort's file is 404, as one that does not exist.

Every answer carries `X-Request-ID`; one that is sent along is kept. Every error has the same form, `Error`. Besides the
answers of an operation the server refuses requests that are no HTTP it takes: 400, 405, 408 and 431, in the same form."""

Views = Mapping[tuple[str, str], Callable[..., Any]]


def is_api(path: str) -> bool:
    """Whether a route of the web tier belongs to the API."""
    return not path.startswith(PAGES) and not path.startswith("/internal")


def views_of(app: Any) -> Views:
    """The handlers of an app's routes that belong to the API, by method and path. The testing role has the other tier's, too."""
    return {
        (method, path): entry.view_function
        for path, methods in app.routes.items()
        for method, entry in methods.items()
        if is_api(path)
    }


def document(views: Views) -> dict[str, Any]:
    """The document. Raises `KeyError` for a route that no operation is declared for, or that is not in `auth.routes`."""
    found = _Found()
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for (method, path), view in sorted(views.items()):
        about = _operation(found, method, path, routes.WEB[method, path], view)
        paths[path][method.lower()] = about
    schemas = found.schemas.components
    schemas["Error"] = _error()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Depot", "version": VERSION, "description": _ABOUT},
        # Relative to this document: API Gateway puts a stage before every path.
        "servers": [{"url": "."}],
        "tags": [{"name": name} for name in dict.fromkeys(made.tag for made in OPERATIONS.values())],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": dict(sorted(found.refusals.items())),
            "headers": {"RequestId": {"description": "The request's id.", "schema": {"type": "string"}}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A session's token, or a personal one."},
                "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "For our own pages."},
            },
        },
    }


class _Found:
    """What several operations share, as the document's components."""

    def __init__(self) -> None:
        self.schemas = Schemas(_SHOWN)
        self.refusals: dict[str, Schema] = {}

    def refusal(self, status: int, refusals: Mapping[str, type[DepotError]], *, with_body: bool) -> Schema:
        """A reference to the answer for these errors, which have one status."""
        codes = sorted(refusals)
        name = "_".join([str(status), *codes, *([] if with_body else ["head"])])
        told = "\n".join(f"- `{code}`: {refusals[code].default}" for code in codes)
        made: Schema = {"description": told, "headers": _headers({})}
        if status in _RETRIED:
            made["headers"] |= _headers({"Retry-After": "In how many seconds to ask again."})
        if with_body:
            made["content"] = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
        self.refusals[name] = made
        return {"$ref": f"#/components/responses/{name}"}


def _operation(found: _Found, method: str, path: str, route: Route, view: Callable[..., Any]) -> Schema:
    declared, schemas = OPERATIONS[method, path], found.schemas
    made: Schema = {
        "tags": [declared.tag],
        "summary": declared.summary,
        "description": _description(declared, route, view),
        "operationId": _operation_id(method, path),
        "parameters": [*_path_parameters(schemas, path), *(_parameter(schemas, one) for one in declared.parameters)],
        "responses": _responses(found, method, path, route, declared),
        "security": [] if route.permission is Who.PUBLIC else [{"bearer": []}, {"cookie": []}],
    }
    if route.permission is Who.PERSON or route.permission in _BY_PERSONS:
        made["description"] += "\n\nNot with a personal token."
    if declared.body is not None:
        made["requestBody"] = {"required": True, "content": {_JSON: {"schema": schemas.of(declared.body)}}}
    elif declared.media:
        content = {name: {"schema": _media(schemas, kind)} if kind else {} for name, kind in declared.media.items()}
        made["requestBody"] = {"required": declared.body_required, "content": content}
    return made


_BY_PERSONS: Final = frozenset({Permission.ADMIN, Permission.BREAK_GLASS})


def _description(declared: Operation, route: Route, view: Callable[..., Any]) -> str:
    about = declared.about or inspect.cleandoc(view.__doc__ or "")
    if isinstance(route.permission, Permission):
        who = f"Needs the permission `{route.permission.value}` for {route.about.value}."
    else:
        who = f"For {route.permission.value}."
    return f"{about}\n\n{who}"


def _operation_id(method: str, path: str) -> str:
    """Stable, and good as a name in most languages.

    >>> _operation_id("GET", "/files/{file_id}/content")
    'get_files_file_id_content'
    """
    return "_".join([method.lower(), *re.findall(r"[a-z0-9]+", path)])


def _path_parameters(schemas: Schemas, path: str) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": schemas.of(_PATH_KINDS.get(name, Id))}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _parameter(schemas: Schemas, one: Parameter) -> Schema:
    made: Schema = {"name": one.name, "in": one.place, "description": one.about, "schema": schemas.of(one.kind)}
    if one.example is not None:
        made["example"] = one.example
    return {**made, "required": True} if one.required else made


def _media(schemas: Schemas, kind: Any) -> Schema:
    return kind if isinstance(kind, dict) else schemas.of(kind)


# --- answers ----------------------------------------------------------------------------------------------------------


def _responses(found: _Found, method: str, path: str, route: Route, declared: Operation) -> Schema:
    """The answers that were declared, then every refusal by its status."""
    made = {str(status): _answer(found.schemas, method, answer) for status, answer in declared.answers.items()}
    by_status: dict[int, dict[str, type[DepotError]]] = defaultdict(dict)
    for error in (*_refusals(method, path, route, declared), *declared.raises):
        by_status[error.status][error.code] = error
    for status, refusals in sorted(by_status.items()):
        made.setdefault(str(status), found.refusal(status, refusals, with_body=method != "HEAD"))
    return made


_RETRIED: Final = (423, 429, 503)


def _refusals(method: str, path: str, route: Route, declared: Operation) -> Iterable[type[DepotError]]:
    """What follows from the route alone: who may use it, what its path names, whether it takes a body."""
    yield errors.InvalidRequest
    yield errors.TooManyRequests
    if route.permission is not Who.PUBLIC:
        yield errors.NotSignedIn
        yield from _BEHIND
        if method in _UNSAFE:
            yield errors.CrossSiteRequest
    if route.permission is Who.PERSON or route.permission in _BY_PERSONS:
        yield errors.SignInRequired
    if isinstance(route.permission, Permission) or route.permission is Who.REPORT:
        yield errors.Forbidden
    if declared.body is not None:
        yield errors.PayloadTooLarge
    names = re.findall(r"{(\w+)}", path)
    if names or route.about in (About.FILE, About.OWN):
        yield _MISSING.get(names[0], errors.NotFound) if names else errors.NotFound
    if method in _UNSAFE and not path.startswith("/session/oidc"):
        yield errors.LedgerUnavailable
        yield errors.ServicesUnavailable
        yield errors.ServerBusy


def _answer(schemas: Schemas, method: str, answer: Answer) -> Schema:
    made: Schema = {
        "description": answer.about,
        "headers": _headers(answer.headers),
    }
    if method == "HEAD":
        return made
    content: Schema = {}
    if answer.body is not None:
        content[_JSON] = {"schema": schemas.of(answer.body)}
    for name, kind in answer.media.items():
        content[name] = {"schema": schemas.of(kind)} if kind is not None else {}
    return {**made, "content": content} if content else made


def _headers(told: Mapping[str, str]) -> Schema:
    made: Schema = {name: {"description": about, "schema": {"type": "string"}} for name, about in told.items()}
    return {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}, **made}


def _error() -> Schema:
    """The one form of every error, with every code of the table."""
    text = {"type": "string"}
    inner = {
        "type": "object",
        "properties": {
            "code": {"enum": sorted(errors.table()), "description": "For programs: it does not change."},
            "message": {**text, "description": "For people: what to do next."},
            "request_id": {**text, "description": "As in `X-Request-ID`."},
        },
        "required": ["code", "message", "request_id"],
    }
    about = "Every refusal. Which codes are worth another try: docs/errors.md."
    return {"type": "object", "description": about, "properties": {"error": inner}, "required": ["error"]}


def status_text(status: str) -> str:
    """A status as people read it.

    >>> status_text("404"), status_text("460")
    ('404 Not Found', '460')
    """
    try:
        return f"{status} {HTTPStatus(int(status)).phrase}"
    except ValueError:
        return status
