"""The API's document: valid, complete, and made of the code's own tables. What the tiers answer: functional/test_openapi.py."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from chalicelib import errors
from chalicelib.auth import routes
from chalicelib.auth.routes import Who
from chalicelib.storage.audit import FIELDS, Question
from chalicelib.storage.catalog import FileView, Listing
from chalicelib.storage.uploads import Receipt, SignedRequest, UploadStatus
from chalicelib.web.files import HIDDEN
from chalicelib.web.openapi.answers import StoredFile
from chalicelib.web.openapi.document import OPERATIONS, Views, document, is_api, views_of
from chalicelib.web.openapi.schemas import Schemas, says
from chalicelib.web.pages import assets, docs
from chalicelib.web.tus import TOLD

ROOT = Path(__file__).parents[2]
API = {key: route for key, route in routes.WEB.items() if is_api(key[1])}


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    """That of app.py in the web role."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVER_ROLE", "web")
        patch.delitem(sys.modules, "app", raising=False)
        yield importlib.import_module("app").app
        sys.modules.pop("app", None)


@pytest.fixture(scope="module")
def views(app: Any) -> Views:
    return views_of(app)


@pytest.fixture(scope="module")
def told(views: Views) -> dict[str, Any]:
    return document(views)


def operations(told: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            yield (method.upper(), path), operation


def test_it_is_a_valid_openapi_3_1_document(told: dict[str, Any]) -> None:
    assert told["openapi"] == "3.1.0"
    assert list(OpenAPIV31SpecValidator(told).iter_errors()) == []


def test_every_route_has_an_operation_and_every_operation_a_route(views: Views, told: dict[str, Any]) -> None:
    assert set(views) == set(OPERATIONS) == set(API) == {key for key, _ in operations(told)}


def test_a_route_without_an_operation_and_one_outside_the_table_fail(views: Views) -> None:
    for stray in (("GET", "/nowhere"), ("TRACE", "/files")):
        with pytest.raises(KeyError):
            document({**views, stray: lambda: None})


def test_pages_and_static_files_are_left_out(told: dict[str, Any], app: Any) -> None:
    assert not [path for path in told["paths"] if path.startswith(("/app", "/static", "/internal"))]
    assert {"/app/files", "/static/{version}/{name}"} <= set(app.routes)


def test_who_may_use_a_route_is_said_and_its_refusals_follow(told: dict[str, Any]) -> None:
    for key, operation in operations(told):
        route = API[key]
        public = route.permission is Who.PUBLIC
        assert operation["security"] == ([] if public else [{"bearer": []}, {"cookie": []}]), key
        assert public or "401" in operation["responses"], key
        assert public == ("For anybody." in operation["description"])
        if not isinstance(route.permission, Who):
            assert f"`{route.permission.value}`" in operation["description"]
            assert "403" in operation["responses"], key
        if route.about in (routes.About.FILE, routes.About.OWN) and "{" in key[1]:
            assert "404" in operation["responses"], key
        assert "500" not in operation["responses"], "nobody plans to fail like that"


def test_every_operation_is_explained_by_its_handler(told: dict[str, Any], views: Views) -> None:
    for key, operation in operations(told):
        assert operation["summary"], key
        first = operation["description"].split("\n\n")[0]
        assert len(first) > 5, f"{key} has no docstring"
        if not OPERATIONS[key].about:
            assert first in (views[key].__doc__ or "").replace("\n        ", "\n"), key


def test_a_path_parameter_is_declared_once(told: dict[str, Any]) -> None:
    for (_, path), operation in operations(told):
        named = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
        assert named == re.findall(r"{(\w+)}", path)
        every = [(one["in"], one["name"]) for one in operation["parameters"]]
        assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (FileView, {field.name for field in dataclasses.fields(FileView)} - HIDDEN),
        (UploadStatus, set(TOLD)),
        (Receipt, {field.name for field in dataclasses.fields(Receipt)}),
        (SignedRequest, {field.name for field in dataclasses.fields(SignedRequest)}),
    ],
)
def test_no_field_of_a_dataclass_is_missing(told: dict[str, Any], kind: type, fields: set[str]) -> None:
    schema = told["components"]["schemas"][kind.__name__]
    assert set(schema["properties"]) == set(schema["required"]) == fields
    assert fields <= {field.name for field in dataclasses.fields(kind)}


def test_an_event_has_the_fields_of_the_ledger_and_a_stored_file_those_of_a_receipt(told: dict[str, Any]) -> None:
    assert tuple(told["components"]["schemas"]["Event"]["properties"]) == FIELDS
    assert set(StoredFile.__annotations__) == {field.name for field in dataclasses.fields(Receipt)} - {
        "parts_sha256",
        "etag",
    }


@pytest.mark.parametrize(
    ("path", "kind", "besides"),
    [("/files", Listing, {"cohort", "limit", "cursor"}), ("/audit", Question, {"limit", "cursor"})],
)
def test_every_filter_is_a_parameter(told: dict[str, Any], path: str, kind: type, besides: set[str]) -> None:
    named = {one["name"] for one in told["paths"][path]["get"]["parameters"]}
    # An operation of the services tier's own, which nobody outside knows.
    assert named == {field.name for field in dataclasses.fields(kind)} - {"tracking_id"} | besides


def test_every_code_of_the_error_table_is_known_and_stands_under_its_own_status(told: dict[str, Any]) -> None:
    codes = told["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"]
    assert set(codes) == set(errors.table())
    for name, answer in told["components"]["responses"].items():
        for code in re.findall(r"^- `(\w+)`", answer["description"], re.MULTILINE):
            assert name.startswith(f"{errors.table()[code].status}_")


def test_what_may_be_tried_again_says_when(told: dict[str, Any]) -> None:
    for name, answer in told["components"]["responses"].items():
        assert ("Retry-After" in answer["headers"]) == name.startswith(("423", "429", "503")), name


def test_no_answer_to_head_has_a_body(told: dict[str, Any]) -> None:
    for (method, _), operation in operations(told):
        if method == "HEAD":
            for answer in operation["responses"].values():
                named = answer.get("$ref", "_head")
                assert named.endswith("_head")
                assert "content" not in answer


def test_nothing_of_an_installation_is_in_it(told: dict[str, Any]) -> None:
    text = json.dumps(told)
    source = (ROOT / "chalicelib" / "config.py").read_text()
    settings = set(re.findall(r'"([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)"', source))
    assert len(settings) > 15
    assert [name for name in settings if name in text] == []
    assert not re.search(r"https?://", text)


def test_the_command_prints_it_whatever_the_role_of_the_environment(told: dict[str, Any]) -> None:
    command = [sys.executable, "-c", "import sys; from chalicelib.cli import main; sys.exit(main(['openapi']))"]
    done = subprocess.run(
        command, cwd=ROOT, env={"SERVER_ROLE": "services"}, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == told


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_groups_every_operation_under_its_tag(told: dict[str, Any]) -> None:
    shown = {(one["method"], one["path"]) for _, found in docs.groups(told) for one in found}
    assert shown == set(API)
    assert all(len(one["answers"]) > 1 for _, found in docs.groups(told) for one in found if one["method"] != "OPTIONS")


@pytest.mark.parametrize("module", [sys.modules[document.__module__], docs, assets])
def test_the_examples_in_docstrings_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


# --- types ------------------------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class Thing:
    """A thing."""

    size: Annotated[int, "How large.", says(minimum=0)]
    parts: list[Part]
    hidden: str = ""


class Part(TypedDict):
    colour: NotRequired[Colour | None]
    names: dict[str, str]
    outer: Thing | None
    way: Literal["up", "down"]
    size: NotRequired[Annotated[int | None, says(enum=(1, None))]]


def test_types_become_schemas() -> None:
    made = Schemas({Thing: ("size", "parts")})
    assert made.of(list[Thing]) == {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}
    assert made.components == {
        "Thing": {
            "type": "object",
            "properties": {
                "size": {"type": "integer", "description": "How large.", "minimum": 0},
                "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}},
            },
            "required": ["size", "parts"],
            "description": "A thing.",
        },
        "Part": {
            "type": "object",
            "properties": {
                "colour": {"anyOf": [{"enum": ["red"]}, {"type": "null"}]},
                "names": {"type": "object", "additionalProperties": {"type": "string"}},
                "outer": {"anyOf": [{"$ref": "#/components/schemas/Thing"}, {"type": "null"}]},
                "way": {"enum": ["up", "down"]},
                "size": {"type": ["integer", "null"], "enum": [1, None]},
            },
            "required": ["names", "outer", "way"],
        },
    }


@pytest.mark.parametrize("kind", [bytes, Callable, set[str]])
def test_a_type_that_json_does_not_have_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="no JSON Schema"):
        Schemas().of(kind)
