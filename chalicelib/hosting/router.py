"""From a raw request path to the route template and its parameters, as API Gateway does it. Imports errors only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from chalicelib.errors import InvalidPath

_PARAMETER: Final = object()


class Router:
    """Matches segment by segment: a fixed segment is preferred to a `{parameter}`, and a parameter is one segment.

    Each segment is percent-decoded once, after splitting, so `%2F` never makes a new segment. A greedy `{name+}` is
    refused: no file path belongs in a URL.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        self._tree: dict[object, object] = {}
        for template in templates:
            node = self._tree
            for part in template.strip("/").split("/"):
                if part.endswith("+}"):
                    raise ValueError("greedy path parameters are not supported")
                key: object = _PARAMETER if part.startswith("{") else part
                node = node.setdefault(key, {})  # type: ignore[assignment]
            if None in node:
                raise ValueError("two routes differ in parameter names only")
            node[None] = template

    def match(self, raw_path: bytes) -> tuple[str, dict[str, str]] | None:
        """The template and its decoded parameters, or None. Raises `InvalidPath` for what is not UTF-8."""
        if not raw_path.startswith(b"/"):
            return None
        try:
            parts = [unquote_to_bytes(part).decode() for part in raw_path[1:].split(b"/")]
        except UnicodeDecodeError:
            raise InvalidPath("The address is not UTF-8.") from None
        template = self._find(self._tree, parts, 0)
        if template is None:
            return None
        names = template.strip("/").split("/")
        return template, {name[1:-1]: part for name, part in zip(names, parts, strict=True) if name.startswith("{")}

    def _find(self, node: object, parts: list[str], at: int) -> str | None:
        assert isinstance(node, dict)
        if at == len(parts):
            found = node.get(None)
            return found if isinstance(found, str) else None
        fixed = node.get(parts[at])
        if fixed is not None and (found := self._find(fixed, parts, at + 1)) is not None:
            return found
        # An empty segment is no parameter: `/files/` is not `/files/{file_id}`.
        if parts[at] and (below := node.get(_PARAMETER)) is not None:
            return self._find(below, parts, at + 1)
        return None
