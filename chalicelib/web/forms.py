"""An HTML form upload (`multipart/form-data`, RFC 7578) read as a stream: text fields first, then one file.

Parsed by the `multipart` package's incremental parser, which keeps nothing; here at most one block is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from chalicelib.errors import InvalidRequest, TruncatedBody
from chalicelib.limits import BLOCK_BYTES, MAX_JSON_BYTES
from chalicelib.storage.base import Reader
from chalicelib.storage.streams import IteratorReader

_ORDER = "Put the file last in the form: its fields (cohort, file_type, …) must come before it."


@dataclass(frozen=True, slots=True)
class FormUpload:
    """The form's text fields and its file, whose reader raises `TruncatedBody` unless the form ends as it should."""

    fields: dict[str, str]
    filename: str
    content_type: str | None
    content: Reader


def is_form(content_type: str | None) -> bool:
    return bool(parse_options_header(content_type or "")[0] == "multipart/form-data")


def read_form(content_type: str, body: Reader) -> FormUpload:
    """Read up to the beginning of the file. Raises `InvalidRequest`, `TruncatedBody`."""
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    events = _events(boundary, body)
    fields: dict[str, str] = {}
    segment: MultipartSegment | None = None
    text = b""
    for event in events:
        if isinstance(event, MultipartSegment):
            if event.filename is not None:
                return FormUpload(fields, event.filename, event.content_type, IteratorReader(_file(events)))
            segment, text = event, b""
        elif event is None:
            if segment is not None and segment.name:
                fields[segment.name] = _decode(text)
        else:
            text += event
            if len(text) > MAX_JSON_BYTES:
                raise InvalidRequest("A text field of the form is too long.")
    raise InvalidRequest("The form holds no file. Add one as an input of type file.")


def _events(boundary: str, body: Reader) -> Iterator[MultipartSegment | bytes | None]:
    """The parser's events; a body that ends before the closing boundary raises `TruncatedBody`."""
    try:
        # Not `strict`: that refuses the line end after the closing boundary when it comes in a block of its own.
        parser = PushMultipartParser(boundary, max_segment_count=64)
        while block := body.read(BLOCK_BYTES):
            for event in parser.parse(block):
                yield bytes(event) if isinstance(event, bytearray) else event
    except MultipartError as error:
        raise InvalidRequest("The form is not well-formed multipart/form-data.") from error
    try:
        parser.close()
    except MultipartError as error:
        raise TruncatedBody from error


def _file(events: Iterator[MultipartSegment | bytes | None]) -> Iterator[bytes]:
    for event in events:
        if isinstance(event, bytes):
            yield event
        elif event is None:
            break
    for event in events:
        if isinstance(event, MultipartSegment):
            raise InvalidRequest(_ORDER)


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("A text field of the form is not UTF-8.") from None
