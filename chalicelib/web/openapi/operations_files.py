"""The operations on files and the ledger. What a handler takes besides its path is declared here, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from chalicelib import errors
from chalicelib.limits import PRESIGN_MAX_SECONDS
from chalicelib.storage.catalog import FileView
from chalicelib.storage.uploads import SignedRequest
from chalicelib.web import audit_text
from chalicelib.web.openapi import answers, answers_upkeep
from chalicelib.web.openapi.kinds import Digest, Id
from chalicelib.web.openapi.operation import Answer, Operation, Parameter, header
from chalicelib.web.openapi.schemas import says
from chalicelib.web.target import PURPOSES

CURSOR = Parameter("cursor", "Where the last page ended: its `cursor`.")
LIMIT = Parameter("limit", "How many at most.", Annotated[int, says(minimum=1, maximum=1000, default=100)])
BINARY = "application/octet-stream"

# Where an upload goes, as `target` reads it.
PLACING = (
    Parameter(
        "purpose",
        "A submission, or a temporary file.",
        Annotated[str, says(enum=PURPOSES, default=PURPOSES[0])],
    ),
    Parameter("cohort", "Whose data it is.", example="VACS"),
    Parameter("filename", "The file's name; a form's file brings its own.", example="patients.csv"),
    Parameter("protocol_year", "Needed for submissions.", example="2024"),
    Parameter("file_type", "Needed for submissions.", example="patient"),
    Parameter("precheck_id", "The folder of a file for a precheck; without it a new one."),
    Parameter("audit_id", "The folder of a scratch file; without it a new one."),
    Parameter(
        "overwrite",
        "Replace a file of the same name, which needs the right to delete.",
        Annotated[str, says(enum=("1", "true", "yes", "0", "false", "no"))],
    ),
)
STORING = (
    errors.InvalidPath, errors.TruncatedBody, errors.LengthMismatch, errors.BodyStalled, errors.PayloadTooLarge,
    errors.QuotaExceeded, errors.TooManyUploads, errors.FileExists, errors.UploadInProgress, errors.OnHold, errors.DigestMismatch,
    errors.ForwardedDiffers, errors.StorageFull,
)  # fmt: skip
_RANGES = (
    header("Range", "One range of bytes."),
    header("If-Range", "The `ETag` that the range belongs to."),
    header("If-None-Match", "An `ETag`: 304 when it is still that."),
)
_FORM = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
_FORM["properties"] |= {part.name: {"type": "string"} for part in PLACING}  # type: ignore[operator]

_STORE = Operation(
    "Files",
    "Store a file",
    {
        201: Answer(
            "It is stored, and recorded.",
            answers.StoredFile,
            headers={"Location": "The file's address.", "ETag": "As a download gives it."},
        )
    },
    (*PLACING, header("X-Content-SHA256", "Compared before the file is kept.", Digest)),
    media={BINARY: None, "multipart/form-data": _FORM},
    body_required=False,
    raises=STORING,
)
_DESCRIBE = Operation("Files", "Describe a file", {200: Answer("The description.", FileView)})
_CONTENT = Operation(
    "Files",
    "Download a file",
    {
        200: Answer(
            "The bytes, always as an attachment.",
            media={"*/*": None},
            headers={"ETag": "The SHA-256, where it is known."},
        ),
        206: Answer(
            "The bytes of the range.", media={"*/*": None}, headers={"Content-Range": "Which bytes, of how many."}
        ),
        304: Answer("It is the one that `If-None-Match` names."),
        307: Answer(
            "Too large for this host to answer: it is there, for a while.", headers={"Location": "A presigned address."}
        ),
    },
    _RANGES,
    raises=(errors.RangeNotSatisfiable, errors.ResponseTooLarge, errors.ObjectCorrupt),
)
_FILTERS = (
    Parameter("cohort", "Whose trail; may be left out by who reads all, or one cohort only.", example="VACS"),
    Parameter("user", "Who did it."),
    Parameter("action", "What was done, such as `file_uploaded_via_stream`."),
    Parameter("outcome", "How it ended.", Literal["intent", "completed", "failed", "unknown"]),
    Parameter("file_id", "To which file.", Id),
    Parameter("since", "From when on, ISO 8601."),
    Parameter("until", "Until when, not included; ISO 8601."),
    CURSOR,
)

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("GET", "/"): Operation(
        "This server",
        "What this is",
        {
            200: Answer("Where things are.", answers.FrontDoor),
            303: Answer("For a browser: the application.", headers={"Location": "Where."}),
        },
    ),
    ("GET", "/health"): Operation(
        "This server",
        "Whether it can do its job",
        {
            200: Answer("It can.", answers.Health),
            503: Answer("It cannot: the services tier does not answer.", answers.Health),
        },
    ),
    ("GET", "/config"): Operation(
        "This server", "What a client must know", {200: Answer("Sizes and ways.", answers.ClientConfig)}
    ),
    ("GET", "/openapi.json"): Operation(
        "This server", "This document", {200: Answer("OpenAPI 3.1.", dict[str, object])}
    ),
    ("GET", "/docs"): Operation(
        "This server", "This document to read", {200: Answer("A page.", media={"text/html": str})}
    ),
    ("GET", "/files"): Operation(
        "Files",
        "List a cohort's files",
        {
            200: Answer(
                "A page of files. With filters it may be short, or empty, and still have a cursor, which is null on the last.",
                answers.Files,
            )
        },
        (
            Parameter("cohort", "Whose files; may be left out by who belongs to one only.", example="VACS"),
            Parameter("order", "Which first.", Annotated[str, says(enum=("oldest", "newest"), default="oldest")]),
            Parameter("file_type", "Only those."),
            Parameter("protocol_year", "Only those."),
            Parameter("name", "Only those with this in their names, in which case matters."),
            LIMIT,
            CURSOR,
        ),
    ),
    ("POST", "/files"): _STORE,
    ("PUT", "/files"): _STORE,
    ("GET", "/files/{file_id}"): _DESCRIBE,
    ("HEAD", "/files/{file_id}"): _DESCRIBE,
    ("DELETE", "/files/{file_id}"): Operation(
        "Files",
        "Delete a file",
        {200: Answer("It is gone.", answers.DeletedFile)},
        raises=(errors.OnHold, errors.UploadInProgress, errors.OperationEnded, errors.StorageFull),
    ),
    ("GET", "/files/{file_id}/content"): _CONTENT,
    ("HEAD", "/files/{file_id}/content"): _CONTENT,
    ("GET", "/files/{file_id}/url"): Operation(
        "Files",
        "A presigned address of a file",
        {200: Answer("A request that gets the file from the storage.", SignedRequest)},
        (
            Parameter(
                "expires_in", "For how many seconds.", Annotated[int, says(minimum=1, maximum=PRESIGN_MAX_SECONDS)]
            ),
        ),
        raises=(errors.PresigningOff, errors.ObjectCorrupt),
    ),
    ("GET", "/audit"): Operation(
        "Ledger", "Read the audit trail", {200: Answer("A page of events.", answers.Events)}, (*_FILTERS, LIMIT)
    ),
    ("GET", "/audit/export"): Operation(
        "Ledger",
        "Export the audit trail",
        {
            200: Answer(
                "The events as a file. Where a host answers 4 MiB at most, `Link` leads to the rest.",
                media={_type.split(";")[0]: str for _type in audit_text.TYPES.values()},
                headers={"Link": "The rest, `rel=next`.", "X-Depot-Next-Cursor": "The cursor of the rest."},
            )
        },
        (Parameter("format", "The file's form.", Literal["csv", "jsonl"]), *_FILTERS),
    ),
    ("GET", "/ledger/checkpoints"): Operation(
        "Ledger",
        "Download the signed checkpoints",
        {
            200: Answer(
                "JSON Lines, as they are kept.",
                media={"application/x-ndjson": str},
                headers={"Link": "The rest, `rel=next`."},
            )
        },
        (Parameter("after", "Those above this number.", Annotated[int, says(minimum=0, default=0)]),),
        raises=(errors.CheckpointsOff,),
    ),
    ("GET", "/ledger/public-key"): Operation(
        "Ledger",
        "The key that signs checkpoints",
        {200: Answer("The public key.", answers.PublicKey)},
        raises=(errors.CheckpointsOff,),
    ),
    ("GET", "/reports/storage"): Operation(
        "Ledger",
        "The storage report",
        {200: Answer("The report.", answers_upkeep.StorageReport, media={"text/plain": str, "text/html": str})},
        (Parameter("format", "JSON without it, a page for browsers.", Literal["text", "json", "html"]),),
    ),
}
