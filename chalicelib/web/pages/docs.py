"""`/docs`: the API for people. The same document as `/openapi.json`, in the application's frame, without script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from chalice.app import Blueprint, Response
from markupsafe import Markup

from chalicelib.auth.policy import Principal
from chalicelib.errors import DepotError
from chalicelib.web import openapi
from chalicelib.web.openapi.document import status_text
from chalicelib.web.pages import render
from chalicelib.web.pages.kit import Kit
from chalicelib.web.tier import Tier

Described = Mapping[str, Any]


def blueprint(tier: Tier) -> Blueprint:
    """The blueprint over a web tier that is made on first use."""
    bp = Blueprint(__name__)
    kit = Kit(bp, tier)

    def somebody() -> Principal | None:
        try:
            return kit.sign_in()
        except DepotError:  # the page is for everybody; who is signed in only sees the navigation
            return None

    @bp.route("/docs", methods=["GET"])
    @kit.page
    def docs() -> Response:
        """This API as a page."""
        return kit.show("docs.html", principal=somebody(), body=_body(bp.current_app))

    return bp


@cache
def _body(app: Any) -> Markup:
    """All of the page but its frame: 30 ms of work, which no stranger may ask for again and again."""
    described = openapi.described(app)
    values = {
        "about": described["info"]["description"].split("\n\n"),
        "groups": list(groups(described)),
        "shapes": [shape(name, schema) for name, schema in described["components"]["schemas"].items()],
    }
    return render.fragment("docs_body.html", values)


def groups(described: Described) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every operation, by its tag, in the order of the tags."""
    operations = [
        operation(described, method.upper(), path, told)
        for path, methods in described["paths"].items()
        for method, told in methods.items()
    ]
    for tag in described["tags"]:
        if found := [told for told in operations if told["tag"] == tag["name"]]:
            yield tag["name"], found


def operation(described: Described, method: str, path: str, told: Described) -> dict[str, Any]:
    """One operation as the page shows it."""
    return {
        "tag": told["tags"][0],
        "id": told["operationId"],
        "method": method,
        "path": path,
        "summary": told["summary"],
        "about": told["description"].split("\n\n"),
        "parameters": [{**one, "kind": kind(one["schema"])} for one in told["parameters"]],
        "bodies": content(told.get("requestBody", {})),
        "answers": [answer(described, status, one) for status, one in told["responses"].items()],
    }


def answer(described: Described, status: str, told: Described) -> dict[str, Any]:
    """One answer; a refusal is one line for each code."""
    if "$ref" in told:
        told = described["components"]["responses"][told["$ref"].rsplit("/", 1)[1]]
        lines = [line.removeprefix("- ") for line in told["description"].split("\n")]
        return {"status": status_text(status), "lines": lines, "content": [], "headers": {}}
    headers = {name: one["description"] for name, one in told["headers"].items() if "$ref" not in one}
    return {"status": status_text(status), "lines": [told["description"]], "content": content(told), "headers": headers}


def content(told: Described) -> list[tuple[str, tuple[str, str]]]:
    """Media types, each with its kind."""
    return [(name, kind(one.get("schema", {}))) for name, one in told.get("content", {}).items()]


def shape(name: str, schema: Described) -> dict[str, Any]:
    """An object's fields."""
    needed = set(schema.get("required", ()))
    fields = [
        {"name": field, "kind": kind(one), "required": field in needed, "about": one.get("description", "")}
        for field, one in schema.get("properties", {}).items()
    ]
    return {"name": name, "about": schema.get("description", "").split("\n\n"), "fields": fields}


def kind(schema: Described) -> tuple[str, str]:
    """A schema in words, and the name of the object that it is made of, or "".

    >>> kind({"type": ["string", "null"], "format": "date-time"}), kind({"type": "array", "items": {"$ref": "#/x/File"}})
    (('string or null, date-time', ''), ('list of File', 'File'))
    """
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return name, name
    if "anyOf" in schema:
        told = [kind(one) for one in schema["anyOf"]]
        return " or ".join(text for text, _ in told), next((name for _, name in told if name), "")
    if schema.get("type") == "array":
        text, name = kind(schema["items"])
        return f"list of {text}", name
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"]), ""
    if "const" in schema:
        return f"always {schema['const']}", ""
    types = schema.get("type", "anything")
    text = " or ".join(types) if isinstance(types, list) else types
    limits = [f"at least {schema['minimum']}"] if "minimum" in schema else []
    limits += [f"at most {schema['maximum']}"] if "maximum" in schema else []
    limits += [f"default {schema['default']}"] if "default" in schema else []
    return ", ".join([text, *([schema["format"]] if "format" in schema else []), *limits]), ""
