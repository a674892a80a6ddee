"""The operations of resumable uploads: tus 1.0.0, and presigned multipart as Uppy expects it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from chalicelib import errors
from chalicelib.limits import MAX_PARTS
from chalicelib.storage.uploads import UploadStatus
from chalicelib.web.openapi import answers, bodies
from chalicelib.web.openapi.kinds import Bytes, Digest, Id
from chalicelib.web.openapi.operation import Answer, Operation, Parameter, header
from chalicelib.web.openapi.operations_files import PLACING, STORING
from chalicelib.web.openapi.schemas import says
from chalicelib.web.tus_headers import CHUNK_TYPE, VERSION

_TUS = header("Tus-Resumable", "The protocol's version.", Annotated[str, says(const=VERSION)], required=True)
_CHECKSUM = header("Upload-Checksum", "`sha1` or `sha256`, a space, and the digest of these bytes in base64.")
_IDEMPOTENT = header("Idempotency-Key", "The same key with the same values is the same upload.")
_RECEIPT = {
    "X-Depot-File-Id": "Of a finished upload.",
    "X-Depot-SHA256": "Of a finished upload, once it is known.",
    "X-Depot-Parts-SHA256": "Until then.",
    "X-Depot-Completed-At": "Of a finished upload.",
    "X-Depot-Ledger": "Of a finished upload: where its event stands.",
    "X-Depot-Tracking-Id": "Of a finished upload.",
}
_PROGRESS = {"Tus-Resumable": "The protocol's version.", "Upload-Offset": "How many bytes are durable.", **_RECEIPT}
_PROGRESS["Upload-Expires"] = "Until when it can be gone on with."
_BUSY = (errors.TusVersionUnsupported, errors.UploadEnded, errors.UploadLocked)
_CHUNK = (
    *_BUSY, *STORING, errors.OffsetConflict, errors.LeaseLost, errors.UploadStateConflict, errors.ChecksumMismatch,
    errors.UnsupportedMediaType, errors.UploadLost, errors.Forbidden,
)  # fmt: skip
_OPTIONS = Operation(
    "Uploads with tus",
    "What this server can do",
    {
        204: Answer(
            "In the headers.",
            headers={
                "Tus-Version": "Versions.",
                "Tus-Extension": "Extensions.",
                "Tus-Max-Size": "Bytes of the largest file.",
                "Tus-Checksum-Algorithm": "Algorithms.",
            },
        )
    },
    about="What this server can do with uploads. Needs no sign-in: a browser asks it before it may send a token.",
)
_KEY = Parameter("key", "The upload id again, as Uppy sends it.", Id, required=True)
_DIRECT = (errors.PresigningOff, errors.UploadMissing, errors.UploadEnded, errors.UploadStateConflict)


def _tus(summary: str, about: str, answers: Mapping[int, Answer], *parameters: Parameter, **more: object) -> Operation:
    return Operation("Uploads with tus", summary, answers, (_TUS, *parameters), about=about, **more)  # type: ignore[arg-type]


def _direct(summary: str, answer: Answer, *parameters: Parameter, **more: object) -> Operation:
    more.setdefault("raises", _DIRECT)
    return Operation("Uploads to the storage", summary, {200: answer}, parameters, **more)  # type: ignore[arg-type]


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("OPTIONS", "/uploads"): _OPTIONS,
    ("OPTIONS", "/uploads/{upload_id}"): _OPTIONS,
    ("POST", "/uploads"): _tus(
        "Create an upload",
        "Create an upload, with its first bytes if the client likes; or one file from partial uploads.",
        {201: Answer("It is created.", headers={"Location": "The upload's address.", **_PROGRESS})},
        header("Upload-Length", "The file's size; else it is deferred.", Bytes, example=5),
        header("Upload-Defer-Length", "The size is told later.", Annotated[str, says(const="1")]),
        header(
            "Upload-Metadata",
            "Where the file goes: `cohort`, `filename`, `protocol_year`, `file_type`, …, each in base64.",
            example="cohort VkFDUw==,filename dC5jc3Y=,protocol_year MjAyNA==,file_type cGF0aWVudA==",
        ),
        header("Upload-Concat", "`partial`, or `final;` and the partial uploads."),
        _CHECKSUM,
        _IDEMPOTENT,
        media={CHUNK_TYPE: None},
        body_required=False,
        raises=(
            *_CHUNK,
            errors.UploadMissing,
            errors.IdempotencyMismatch,
            errors.TooManyUploads,
            errors.MethodNotAllowed,
        ),
    ),
    ("PATCH", "/uploads/{upload_id}"): _tus(
        "Send the next bytes",
        "Bytes at `Upload-Offset`. What arrived before the connection broke is kept and counted.",
        {204: Answer("They are durable.", headers=_PROGRESS)},
        header("Upload-Offset", "Where the upload stands.", Bytes, required=True),
        header("Upload-Length", "The size, where it was deferred.", Bytes),
        _CHECKSUM,
        media={CHUNK_TYPE: None},
        body_required=False,
        raises=_CHUNK,
    ),
    ("HEAD", "/uploads/{upload_id}"): _tus(
        "Where an upload stands",
        "The offset, the length, and what the creation said. Of a finished upload also the receipt.",
        {200: Answer("In the headers.", headers={"Upload-Length": "The file's size, once it is told.", **_PROGRESS})},
        raises=_BUSY,
    ),
    ("DELETE", "/uploads/{upload_id}"): _tus(
        "End an upload",
        "Ends an upload that is not finished. A finished one is a file, and has its own way to be deleted.",
        {204: Answer("Nothing of it stays.", headers={"Tus-Resumable": "The protocol's version."})},
        raises=(*_BUSY, errors.UploadStateConflict),
    ),
    ("GET", "/uploads/{upload_id}"): Operation(
        "Uploads with tus",
        "Where an upload stands, as JSON",
        {200: Answer("With the receipt, once it is finished.", UploadStatus)},
        raises=(errors.UploadEnded, errors.UploadLocked),
        about="Not of the protocol: where an upload stands, and its receipt, as JSON. Needs no tus headers.",
    ),
    ("POST", "/uploads/{upload_id}"): _tus(
        "PATCH or DELETE in disguise",
        "For clients that cannot send PATCH or DELETE: does what `X-HTTP-Method-Override` says. (HEAD goes, too.)",
        {204: Answer("It is done.", headers=_PROGRESS)},
        header("X-HTTP-Method-Override", "Which method.", Literal["PATCH", "DELETE"], required=True),
        header("Upload-Offset", "For PATCH: where the upload stands.", Bytes),
        media={CHUNK_TYPE: None},
        body_required=False,
        raises=(*_CHUNK, errors.MethodNotAllowed),
    ),
    ("GET", "/s3/params"): _direct(
        "A form for a small file",
        Answer("The form's address and fields.", answers.UploadForm),
        Parameter("filename", "The file's name.", example="patients.csv"),
        *(
            Parameter(f"metadata[{part.name}]", part.about, part.kind, example=part.example)
            for part in PLACING
            if part.name != "filename"
        ),
        raises=(errors.PresigningOff, errors.InvalidPath),
    ),
    ("POST", "/s3/multipart"): _direct(
        "Begin an upload in parts",
        Answer("The upload.", answers.DirectUpload),
        _IDEMPOTENT,
        body=bodies.AskedDirectUpload,
        raises=(*STORING, errors.PresigningOff, errors.IdempotencyMismatch),
    ),
    ("GET", "/s3/multipart/{upload_id}"): _direct(
        "List the stored parts", Answer("What the storage holds.", list[answers.DirectPart]), _KEY
    ),
    ("DELETE", "/s3/multipart/{upload_id}"): _direct(
        "Give an upload up", Answer("Nothing of it stays.", answers.Nothing), _KEY
    ),
    ("POST", "/s3/multipart/{upload_id}/complete"): _direct(
        "Finish an upload",
        Answer("It is a file.", answers.DirectDone),
        _KEY,
        Parameter("sha256", "The whole file's, to be compared.", Digest),
        media={"application/json": bodies.PartList},
        body_required=False,
        raises=(*_DIRECT, *STORING, errors.UploadLost, errors.LeaseLost),
    ),
    ("GET", "/s3/multipart/{upload_id}/{number}"): _direct(
        "Sign one part",
        Answer("A PUT of this one part.", answers.SignedPart),
        _KEY,
        Parameter("size", "The part's bytes.", Annotated[int, says(minimum=1)]),
        Parameter("sha256", "The part's SHA-256.", Digest),
    ),
}

PART_NUMBER = Annotated[int, says(minimum=1, maximum=MAX_PARTS)]
