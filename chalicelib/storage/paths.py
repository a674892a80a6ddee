"""Path rules, and where each kind of file lives. The one place that builds or checks a path.

Design, section 4; layouts from the seeds: `submissions/{cohort}/{protocol_year}/{file_type}/{filename}`,
`upload_prechecks/{id}/…`, `scratch/audit_{id}/…`.
"""

from __future__ import annotations

import unicodedata

from chalicelib.errors import InvalidPath
from chalicelib.limits import MAX_PATH_BYTES, MAX_SEGMENT_BYTES

# Unicode bidi controls (UAX #9) and the zero-width/BOM characters that make two names look alike.
_INVISIBLE = frozenset(
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\u061c"
)

# Names that drivers use for their own bookkeeping (staged files); no caller may reach into them.
RESERVED_PREFIX = ".depot"


def _check_text(text: str) -> None:
    if "\\" in text:
        raise InvalidPath("Backslashes are not allowed in a path or file name.")
    for char in text:
        # Cc control, Cs lone surrogate, Zl/Zp line and paragraph separators: none can be typed on purpose.
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _INVISIBLE:
            raise InvalidPath("Control, bidirectional and invisible characters are not allowed in a path or file name.")


def normalise(path: str) -> str:
    """The one form of a path: NFC, relative, no climbing. Raises `InvalidPath`; never repairs anything but NFC."""
    if not isinstance(path, str) or not path:
        raise InvalidPath("The path is empty.")
    path = unicodedata.normalize("NFC", path)
    _check_text(path)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidPath(f"The path is longer than {MAX_PATH_BYTES} bytes in UTF-8.")
    for segment in path.split("/"):
        if not segment:
            raise InvalidPath("The path is absolute or has an empty segment.")
        if segment in (".", "..") or segment.strip() in ("", ".", ".."):
            raise InvalidPath("The path climbs ('.' or '..' as a segment).")
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise InvalidPath(f"A folder or file name is longer than {MAX_SEGMENT_BYTES} bytes in UTF-8.")
    if path.split("/", 1)[0].startswith(RESERVED_PREFIX):
        raise InvalidPath(f"Names that begin with '{RESERVED_PREFIX}' are reserved.")
    return path


def normalise_prefix(prefix: str, *, allow_empty: bool = False) -> str:
    """A folder prefix in the form `a/b/`, or "" for everything where that is allowed. Raises `InvalidPath`."""
    if prefix == "" and allow_empty:
        return ""
    return normalise(prefix.removesuffix("/")) + "/"


def segment(text: str, what: str) -> str:
    """One name inside a path (a cohort, a file type, a file name). Raises `InvalidPath` that names `what`."""
    if not text:
        raise InvalidPath(f"{what} is missing.")
    if "/" in text:
        raise InvalidPath(f"{what} must not contain '/'.")
    try:
        return normalise(text)
    except InvalidPath as error:
        raise InvalidPath(f"{what}: {error.message}") from None


def submission_path(cohort: str, protocol_year: str, file_type: str, filename: str) -> str:
    """`submissions/{cohort}/{protocol_year}/{file_type}/{filename}`; each part checked. Raises `InvalidPath`."""
    return normalise(
        "/".join(
            (
                "submissions",
                segment(cohort, "cohort"),
                segment(protocol_year, "protocol_year"),
                segment(file_type, "file_type"),
                segment(filename, "filename"),
            )
        )
    )


def precheck_path(precheck_id: str, filename: str) -> str:
    """`upload_prechecks/{id}/{filename}`. Raises `InvalidPath`."""
    return normalise(f"upload_prechecks/{segment(precheck_id, 'precheck id')}/{segment(filename, 'filename')}")


def scratch_path(audit_id: str, filename: str) -> str:
    """`scratch/audit_{id}/{filename}`. Raises `InvalidPath`."""
    return normalise(f"scratch/audit_{segment(audit_id, 'audit id')}/{segment(filename, 'filename')}")
