"""From types to JSON Schema (2020-12, which OpenAPI 3.1 takes as it is): dataclasses, typed dictionaries, and what is in them.

A class becomes a component under its own name, with its docstring as the description. `Annotated[…, "text"]` describes a
value, `Annotated[…, says(…)]` adds keywords of JSON Schema. Knows nothing of the API.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

Schema = dict[str, Any]

_PLAIN: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
}


@dataclass(frozen=True, slots=True)
class Says:
    """Keywords of JSON Schema. Hashable, as unions of types need it."""

    keywords: tuple[tuple[str, Any], ...]


def says(**keywords: Any) -> Says:
    """Keywords for an `Annotated` type; lists are given as tuples."""
    return Says(tuple(keywords.items()))


class Schemas:
    """Collects the components of one document. `shown`: the fields of a class that are told, where not all of them are."""

    def __init__(self, shown: Mapping[type, Collection[str]] | None = None) -> None:
        self.components: dict[str, Schema] = {}
        self._shown = shown or {}

    def of(self, kind: Any) -> Schema:
        """The schema of a type; a reference for a class. Raises `TypeError` for a type that JSON does not have."""
        origin, within = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._annotated(*within)
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        if origin is Literal:
            return {"enum": list(within)}
        if origin in (Union, types.UnionType):
            return self._union(within)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [member.value for member in kind]}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(within[1])}
        if isinstance(origin, type) and issubclass(origin, Sequence):
            return {"type": "array", "items": self.of(within[0])}
        if is_typeddict(kind) or is_dataclass(kind):
            return self._component(kind)
        raise TypeError(f"no JSON Schema for {kind!r}")

    def _annotated(self, kind: Any, *more: object) -> Schema:
        schema = self.of(kind)
        for extra in more:
            if isinstance(extra, Says):
                schema |= {name: list(value) if isinstance(value, tuple) else value for name, value in extra.keywords}
            else:
                schema["description"] = str(extra)
        return schema

    def _union(self, kinds: Sequence[Any]) -> Schema:
        """`anyOf`, or where it can be said shorter a list of types."""
        schemas = [self.of(kind) for kind in kinds]
        if schemas[1:] == [{"type": "null"}] and set(schemas[0]) & {"type"}:
            return {**schemas[0], "type": [schemas[0]["type"], "null"]}
        return {"anyOf": schemas}

    def _component(self, kind: Any) -> Schema:
        name = kind.__name__
        if name not in self.components:
            self.components[name] = {}  # one that holds itself ends here
            hints = get_type_hints(kind, include_extras=True)
            told = [name for name in hints if name in self._shown.get(kind, hints)]
            optional = {name for name in told if get_origin(hints[name]) is NotRequired}
            hints |= {name: get_args(hints[name])[0] for name in optional}
            made: Schema = {"type": "object", "properties": {name: self.of(hints[name]) for name in told}}
            if needed := [name for name in told if name not in optional]:
                made["required"] = needed
            if about := _about(kind):
                made["description"] = about
            self.components[name] = made
        return {"$ref": f"#/components/schemas/{name}"}


def _about(kind: Any) -> str:
    """The class's own docstring; not the one that dataclasses make up, nor dict's."""
    text = kind.__doc__ or ""
    return "" if text.startswith((f"{kind.__name__}(", "dict(")) else inspect.cleandoc(text)
