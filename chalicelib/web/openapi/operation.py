"""What is said of one operation, and its parameters: the pieces of which `operations` makes its table. For this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chalicelib.errors import DepotError


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value in a query or in the headers. `kind` is a type, as `schemas` takes it. Examples of one call fit together."""

    name: str
    about: str
    kind: Any = str
    place: str = "query"
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes when all is well. `body` is a type; `media` maps other media types to it, or to None for bytes or text."""

    about: str
    body: Any = None
    media: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """`about` stands in for the handler's docstring where one handler serves several methods.

    `raises`: refusals besides those that follow from who may use the route, its path and its body.
    """

    tag: str
    summary: str
    answers: Mapping[int, Answer]
    parameters: Sequence[Parameter] = ()
    body: Any = None
    media: Mapping[str, Any] = field(default_factory=dict)
    body_required: bool = True
    raises: Sequence[type[DepotError]] = ()
    about: str = ""


def header(name: str, about: str, kind: Any = str, *, required: bool = False, example: Any = None) -> Parameter:
    return Parameter(name, about, kind, "header", required, example)
