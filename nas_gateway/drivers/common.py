"""What the drivers share: sources, checks of arguments, cursors, the health round trip. For `nas_gateway.drivers` only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import quote

from chalicelib.errors import (
    DepotError,
    DigestMismatch,
    InvalidPath,
    InvalidRequest,
    ObjectCorrupt,
    RangeNotSatisfiable,
    UploadStateConflict,
)
from chalicelib.limits import BLOCK_BYTES, MAX_PARTS
from chalicelib.storage.base import ByteRange, Content, Health, ObjectInfo, Page, Part, Reader, Storage
from chalicelib.storage.paths import normalise
from chalicelib.storage.seal import forwarded_of
from chalicelib.storage.streams import ExactReader, as_reader

DEFAULT_CONTENT_TYPE = "application/octet-stream"

# Amazon S3 user guide, "Working with object metadata": 2 KB of user-defined metadata, names and values together.
MAX_METADATA_BYTES = 2048
# RFC 6838, 4.2: 127 characters each side of the slash; the rest leaves room for parameters.
MAX_CONTENT_TYPE_CHARS = 512

MAX_PAGE = 1000

WRONG_PARTS = "The parts named are not the parts that the storage holds. Ask which parts are there."

SMALL_PART = "A part other than the last is smaller than the 5 MiB that the storage asks for."

_META_KEY = re.compile(r"[a-z0-9](?:[a-z0-9_]{0,62}[a-z0-9])?")
_CONTENT_TYPE = re.compile(r"[!-~][ -~]*")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
# 5 TiB has 13 digits.
_TAIL = re.compile(r"[0-9a-f]{32}/[0-9]{1,15}-([0-9a-f]{64})")
# Drivers keep their own fields beside the caller's.
_RESERVED_KEY = "depot_"


def source(content: Content) -> tuple[Reader, int | None]:
    """A reader and its length where known; then fewer bytes raise `TruncatedBody`, more `LengthMismatch`."""
    reader, length = as_reader(content)
    return (reader if length is None else ExactReader(reader, length)), length


class Whole:
    """The SHA-256 of a whole content that is being read. A pass is spared where its reader hashes what it gives anyway."""

    def __init__(self, content: Content) -> None:
        seen = forwarded_of(content)
        self._digest = hashlib.sha256() if seen is None else seen.digest
        self._spared = seen is not None

    def update(self, block: bytes | memoryview) -> None:
        if not self._spared:
            self._digest.update(block)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def fill(reader: Reader, into: memoryview, on_block: Callable[[memoryview], None]) -> int:
    """Read until `into` is full or the source ends; the bytes read. `on_block` sees each piece while it is in the cache."""
    filled, size = 0, len(into)
    while filled < size:
        block = reader.read(min(BLOCK_BYTES, size - filled))
        if not block:
            break
        piece = into[filled : filled + len(block)]
        piece[:] = block
        on_block(piece)
        filled += len(block)
    return filled


def read_range(storage: Storage, path: str, start: int, size: int, sha256: str | None) -> bytearray:
    """`size` bytes from `start` of a file. Raises `ObjectCorrupt` unless they have this SHA-256 (None: not compared)."""
    if start < 0 or size < 1:
        raise InvalidRequest("A copied part begins at 0 or later and has at least one byte.")
    expected, found = check_sha256(sha256), hashlib.sha256()
    into = bytearray(size)
    with storage.open(path, ByteRange(start, start + size - 1)) as download:
        if download.count != size:
            raise RangeNotSatisfiable
        fill(download, memoryview(into), found.update)
    if expected not in (None, found.hexdigest()):
        raise ObjectCorrupt
    return into


# --- arguments ------------------------------------------------------------------------------------------------


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """A copy that every store can keep. Keys: lower-case letters, digits, inner `_`, 64 at most. Raises `InvalidRequest`."""
    kept = {}
    for key, value in (metadata or {}).items():
        if not _META_KEY.fullmatch(key) or key.startswith(_RESERVED_KEY):
            raise InvalidRequest(
                "Metadata keys are lower-case letters, digits and underscores, 64 at most, not beginning with 'depot_'."
            )
        if not str(value).isprintable():
            raise InvalidRequest("Metadata values hold no control characters.")
        kept[key] = str(value)
    if (
        sum(len(key) + len(quote(value, safe="", errors="surrogatepass")) for key, value in kept.items())
        > MAX_METADATA_BYTES
    ):
        raise InvalidRequest(f"Metadata takes at most {MAX_METADATA_BYTES} bytes, percent-encoded.")
    return kept


def check_content_type(content_type: str | None) -> str:
    """The content type or the default. Raises `InvalidRequest` for anything that could not be a header's value."""
    if not content_type:
        return DEFAULT_CONTENT_TYPE
    if len(content_type) > MAX_CONTENT_TYPE_CHARS or not _CONTENT_TYPE.fullmatch(content_type):
        raise InvalidRequest("The content type must be printable ASCII.")
    return content_type


def check_sha256(sha256: str | None) -> str | None:
    """The digest in lower case. Raises `InvalidRequest`."""
    if sha256 is None:
        return None
    if not _SHA256.fullmatch(sha256):
        raise InvalidRequest("A SHA-256 is 64 hexadecimal digits.")
    return sha256.lower()


def check_part(number: int, offset: int) -> None:
    """Raises `InvalidRequest`."""
    if not 1 <= number <= MAX_PARTS or offset < 0:
        raise InvalidRequest(f"Parts are numbered 1 to {MAX_PARTS}, and their offset is not negative.")


def tail_digest(name: str) -> str:
    """The SHA-256 that a tail's name holds. Raises `InvalidRequest` for any other name, so it can name nothing else."""
    match = _TAIL.fullmatch(name)
    if match is None:
        raise InvalidRequest("A tail is named by upload id, offset and SHA-256.")
    return match.group(1)


def is_tail(name: str) -> bool:
    return _TAIL.fullmatch(name) is not None


def check_tail(name: str, data: bytes | bytearray | memoryview) -> None:
    """Raises `InvalidRequest` for a bad name, `DigestMismatch` for bytes that are not those it names."""
    if hashlib.sha256(data).hexdigest() != tail_digest(name):
        raise DigestMismatch


def intact_tail(name: str, data: bytes) -> bytes:
    """The bytes that a store gave for a tail. Raises `ObjectCorrupt` unless they are those it names."""
    if hashlib.sha256(data).hexdigest() != tail_digest(name):
        raise ObjectCorrupt
    return data


def in_order(parts: Sequence[Part]) -> list[Part]:
    """The parts by number. Raises `UploadStateConflict` unless they follow on from one another without a gap in bytes.

    A gap in the numbers is allowed: one is skipped when a writer that may still be writing it lost its lease.
    """
    ordered = sorted(parts, key=lambda part: part.number)
    offset, last = 0, 0
    for part in ordered:
        if part.number <= last or part.offset != offset:
            raise UploadStateConflict(
                "A part of the upload is missing, doubled or out of place. Ask which parts are there."
            )
        offset, last = offset + part.size, part.number
    return ordered


# --- listing --------------------------------------------------------------------------------------------------


def is_ours(path: str) -> bool:
    """Whether a name found in the store is one that Depot could have written. Others cannot be asked for: not listed."""
    try:
        return normalise(path) == path
    except InvalidPath:
        return False


def check_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit is 1 to {MAX_PAGE}.")
    return limit


def to_cursor(path: str) -> str:
    """The opaque cursor that goes on after `path`."""
    return base64.urlsafe_b64encode(b"1" + path.encode()).decode().rstrip("=")


def from_cursor(cursor: str | None, prefix: str) -> str | None:
    """The path a cursor stands for. Raises `InvalidRequest` unless it was made for a listing of the same prefix."""
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        path = normalise(raw[1:].decode())
    except (binascii.Error, ValueError):
        path = ""
    if not path.startswith(prefix) or not path or to_cursor(path) != cursor:
        raise InvalidRequest("The cursor is not one that this listing gave out. Begin again without one.")
    return path


def pages(fetch: Callable[[str | None], Page]) -> Iterator[ObjectInfo]:
    """Every item of a paged listing."""
    cursor: str | None = None
    while True:
        page = fetch(cursor)
        yield from page.items
        if (cursor := page.cursor) is None:
            return


# --- health ---------------------------------------------------------------------------------------------------


def round_trip(
    save: Callable[[str, bytes], object], read: Callable[[str], bytes], delete: Callable[[str], object]
) -> Health:
    """Save, read back and delete a small file under a name of our own. Reports `DepotError`, never raises it."""
    name, body = f".depot-health-{uuid.uuid4().hex}", uuid.uuid4().bytes
    latency: dict[str, float] = {}

    def timed(step: str, call: Callable[[], object]) -> object:
        begun = time.monotonic()
        result = call()
        latency[step] = round((time.monotonic() - begun) * 1000, 3)
        return result

    try:
        timed("save", lambda: save(name, body))
        if timed("read", lambda: read(name)) != body:
            return Health(False, latency, ObjectCorrupt.code)
        timed("delete", lambda: delete(name))
    except DepotError as error:
        return Health(False, latency, error.code)
    return Health(True, latency)
