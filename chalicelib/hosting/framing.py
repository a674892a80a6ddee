"""Which requests are refused for how they are framed, before anything else looks at them. Imports errors only.

llhttp (strict, as httptools 0.9 builds it) already refuses: length together with chunked, a second or malformed or negative
Content-Length, `chunked` that is not last, bare LF anywhere, obs-fold, control characters in values, white space
before the colon, malformed chunk sizes. What it lets through is refused here; the tests send every shape to the
whole host, so that a parser that grows lenient is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chalicelib.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Framing:
    """How the body comes: `length` in bytes where it was announced, else None; `chunked` excludes it."""

    length: int | None
    chunked: bool

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)


def check(method: str, version: str, headers: Iterable[tuple[bytes, bytes]], *, upgrade: bool = False) -> Framing:
    """The framing of a request with these (lower-case) header names. Raises `InvalidRequest`; then close."""
    lengths, codings, hosts = list[bytes](), list[bytes](), 0
    for name, value in headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"host":
            hosts += 1
    if version not in ("1.1", "1.0"):
        raise InvalidRequest("Only HTTP/1.1 is spoken here.")
    # RFC 9112, section 3.2: a server answers 400 to a 1.1 request without, or any request with several, Host lines.
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise InvalidRequest("A request has exactly one Host header.")
    if lengths and codings:
        raise InvalidRequest("Content-Length and Transfer-Encoding exclude each other.")
    if len(lengths) > 1 or any(not value.isdigit() or len(value) > 18 for value in lengths):
        raise InvalidRequest("Content-Length is malformed or given more than once.")
    if codings and (version != "1.1" or [value.lower() for value in codings] != [b"chunked"]):
        raise InvalidRequest("The only Transfer-Encoding is 'chunked', once, over HTTP/1.1.")
    framing = Framing(int(lengths[0]) if lengths else None, bool(codings))
    # After CONNECT or Upgrade the parser takes what follows for another protocol, and would skip the body.
    if method == "CONNECT" or (upgrade and framing.has_body):
        raise InvalidRequest("This server does not switch protocols.")
    return framing
