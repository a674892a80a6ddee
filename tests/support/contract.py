"""Compares calls and answers with the API's own document: statuses, content types, bodies, parameters."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from openapi_schema_validator import OAS31Validator

Document = dict[str, Any]


class Contract:
    """An object may hold nothing that the document does not name, so that a forgotten field is found."""

    def __init__(self, document: Document) -> None:
        self.document = copy.deepcopy(document)
        for schema in self.document["components"]["schemas"].values():
            _close(schema)
        self.seen: set[tuple[str, str, int]] = set()

    def operation(self, method: str, path: str) -> Document:
        told: Document = self.document["paths"][path][method.lower()]
        return told

    def check_call(self, method: str, path: str, *, query: Mapping[str, Any], body: Any = None) -> None:
        """A call that came off: its parameters are declared, and its JSON body is of the declared form."""
        operation = self.operation(method, path)
        known = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
        assert set(query) <= known, f"{method} {path}: undeclared parameters {sorted(set(query) - known)}"
        if body is not None:
            self._validate(
                operation["requestBody"]["content"]["application/json"]["schema"], body, f"{method} {path}: body"
            )

    def check_answer(self, method: str, path: str, status: int, content_type: str, body: bytes) -> None:
        """Whatever was answered is declared, and of the declared form."""
        what = f"{method} {path} {status}"
        operation = self.operation(method, path)
        assert str(status) in operation["responses"], f"{what}: undeclared status"
        self.seen.add((method, path, status))
        declared = operation["responses"][str(status)]
        if "$ref" in declared:
            declared = self.document["components"]["responses"][declared["$ref"].rsplit("/", 1)[1]]
        content = declared.get("content", {})
        if not content:
            assert body == b"", f"{what}: undeclared body"
            return
        media = content_type.split(";")[0]
        assert media in content or "*/*" in content, f"{what}: undeclared type {media}"
        if media == "application/json" and media in content:
            self._validate(content[media]["schema"], json.loads(body), what)

    def _validate(self, schema: Document, value: Any, what: str) -> None:
        whole = {**schema, "components": self.document["components"]}
        errors = [f"{error.json_path}: {error.message}" for error in OAS31Validator(whole).iter_errors(value)]
        assert not errors, f"{what}: {errors[:5]}"


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            _close(value)
    elif isinstance(schema, list):
        for value in schema:
            _close(value)
