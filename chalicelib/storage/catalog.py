"""What files there are, as the web tier asks it: by id and by cohort. The services tier owns the answer.

`RemoteCatalog` asks over the transport; in the testing role the services tier's own catalog stands in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

from chalicelib.errors import InvalidRequest
from chalicelib.limits import MAX_SEGMENT_BYTES
from chalicelib.storage.remote import Transport


@dataclass(frozen=True, slots=True)
class FileView:
    """One stored file. `created_at` is ISO 8601 in UTC, `size` bytes, `sha256` hex or None while not yet known.

    `state` is AVAILABLE, or CORRUPT: its bytes are not what was stored, and are not handed out.
    """

    file_id: str
    disk: str
    path: str
    filename: str
    purpose: str
    cohort: str | None
    protocol_year: str | None
    file_type: str | None
    content_type: str
    size: int
    sha256: str | None
    etag: str
    owner: str
    created_at: str
    tracking_id: str
    cleanup_due: str | None = None
    state: str = "AVAILABLE"

    @property
    def corrupt(self) -> bool:
        return self.state == "CORRUPT"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{name: values.get(name) for name in cls.__slots__})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class FilePage:
    """One page of a listing; `cursor` is None on the last."""

    files: Sequence[FileView]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """How a cohort's files are listed: `order` is `oldest` or `newest` first; the others must match ("" is any).

    `name` is a part of the file name, in which case matters.
    """

    order: str = "oldest"
    file_type: str = ""
    protocol_year: str = ""
    name: str = ""

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """From a query; other names are passed over. Raises `InvalidRequest`."""
        made = cls(**{name: values[name].strip() for name in cls.__slots__ if values.get(name)})
        if made.order not in ("oldest", "newest"):
            raise InvalidRequest("order must be oldest or newest.")
        if any(len(value) > MAX_SEGMENT_BYTES for value in made.filters.values()):
            raise InvalidRequest(f"A filter has at most {MAX_SEGMENT_BYTES} characters.")
        return made

    @property
    def filters(self) -> dict[str, str]:
        """What must match, by name."""
        values = {"file_type": self.file_type, "protocol_year": self.protocol_year, "name": self.name}
        return {name: value for name, value in values.items() if value}

    def to_query(self) -> dict[str, str]:
        return {**self.filters, **({"order": self.order} if self.order != "oldest" else {})}


# No filter, the oldest first.
EVERYTHING = Listing()


class Catalog(Protocol):
    def file(self, file_id: str) -> FileView:
        """Raises `FileMissing`, also for a file of a cohort that is not the caller's."""
        ...

    def files(
        self, cohort: str, cursor: str | None = None, limit: int = 100, *, listing: Listing = EVERYTHING
    ) -> FilePage:
        """Available files of a cohort. Raises `Forbidden`, `InvalidRequest` for a bad cursor.

        With filters a page may be short, or empty, and still have a cursor: the search stops after so many reads.
        """
        ...


class RemoteCatalog:
    """The catalog of the services tier, for the user whose assertion the transport forwards."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def file(self, file_id: str) -> FileView:
        return FileView.from_json(self._transport.json("GET", f"/internal/files/{file_id}"))

    def files(
        self, cohort: str, cursor: str | None = None, limit: int = 100, *, listing: Listing = EVERYTHING
    ) -> FilePage:
        query = {"cohort": cohort, "limit": str(limit), **listing.to_query()}
        if cursor:
            query["cursor"] = cursor
        answer = self._transport.json("GET", "/internal/files", query)
        return FilePage([FileView.from_json(item) for item in answer["files"]], answer["cursor"])
