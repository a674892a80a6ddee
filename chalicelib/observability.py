"""The one logger and tracer, the request's identity, and the PHI redaction. May be imported from everywhere.

Lines are JSON on stderr. What is logged passes an allow-list of keys: ids, sizes, durations, codes and counts. A key
that is not on it is dropped, so that a name or a path put there by mistake never reaches a log. Messages of exceptions
that are not Depot's own are never logged (they may hold a path); their type and code location are.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO, cast

from chalicelib import metrics as metrics_table

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger, Tracer

SERVICE = "depot"

# The keys that may be logged. Identifiers here are opaque ones that Depot made; none is derived from a name.
ALLOWED_KEYS = frozenset(
    """
    request_id file_id tracking_id upload_id part_number cohort_id user_id event_id lease_epoch plan_id run_id
    role disk driver method route status error_code error_type raised_at retryable attempt signal pid port
    bytes_in bytes_out size offset length count total skipped failed deleted found parts
    duration_ms latency_ms timeout_ms age_seconds hours
    landlock landlock_abi rlimit_fsize write_attempts action outcome state rule setting version
    shard seq checkpoint job
    """.split()  # noqa: SIM905 -- one key a line would hide the groups
)
_MAX_TEXT = 200  # characters of one logged string; a longer one is no id

# What a metric tells apart: a client may send any word as its method.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


@dataclass(slots=True)
class RequestRecord:
    """What the access line of one request is made of. Sizes in bytes; `started` is `time.monotonic()`."""

    request_id: str
    method: str = "-"
    route: str = "-"
    status: int = 0
    error_code: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    started: float = field(default_factory=time.monotonic)


_record: ContextVar[RequestRecord | None] = ContextVar("depot_request_record", default=None)


def request_id_from(header: str | None) -> str:
    """The caller's `X-Request-ID` where it has the form of an id (8 to 64 of A-Z a-z 0-9 _ -), else a new one."""
    return header if header and _REQUEST_ID.fullmatch(header) else uuid.uuid4().hex


def begin_request(record: RequestRecord) -> Token[RequestRecord | None]:
    """Make `record` the one of the request that runs in this context, until `end_request` with what this returns."""
    return _record.set(record)


def end_request(token: Token[RequestRecord | None]) -> None:
    _record.reset(token)


def current_record() -> RequestRecord | None:
    return _record.get()


def current_request_id() -> str:
    """The id of the request that runs in this context, or "-" outside any request."""
    record = _record.get()
    return record.request_id if record else "-"


class _Stderr:
    """Writes to whatever `sys.stderr` is now: a logger outlives redirections of it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@cache
def logger() -> Logger:
    from aws_lambda_powertools import Logger

    # Python 3.12 and later put the asyncio task's name on every line of the event loop; it says nothing to anybody.
    logging.logAsyncioTasks = False  # type: ignore[attr-defined]
    # Powertools' `location` would always name this file; None drops that key from every line.
    return Logger(service=SERVICE, level="INFO", stream=cast(TextIO, _Stderr()), location=None)


@cache
def tracer() -> Tracer:
    """Capturing responses and errors stays off: both can hold PHI."""
    from aws_lambda_powertools import Tracer

    return Tracer(service=SERVICE)


def redact(fields: dict[str, Any]) -> dict[str, Any]:
    """Only allowed keys, and of their values only numbers, booleans and short strings."""
    return {
        key: value[:_MAX_TEXT] if isinstance(value, str) else value
        for key, value in fields.items()
        if key in ALLOWED_KEYS and isinstance(value, (str, int, float, bool))
    }


def _write(level: int, event: str, fields: dict[str, Any]) -> None:
    log = logger()
    write = log.error if level >= logging.ERROR else log.warning if level >= logging.WARNING else log.info
    write(event, extra=fields)


def log_event(event: str, /, level: int = logging.INFO, **fields: Any) -> None:
    """One line. `event` is a constant of the code, such as "upload_completed"; `fields` pass the allow-list."""
    kept = redact(fields)
    kept.setdefault("request_id", current_request_id())
    _write(level, event, kept)


def trace_locations(error: BaseException, deepest: int = 12) -> str:
    """The traceback as `module:function:line`, innermost first, at most `deepest`; never a path of the machine."""
    places, trace = list[str](), error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        # Jinja names a template's module after its file.
        module = str(frame.f_globals.get("__name__", "?")).rpartition("/")[2]
        places.append(f"{module}:{frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(reversed(places[-deepest:]))


def log_exception(event: str, error: BaseException, **fields: Any) -> None:
    """An error nobody expected: its type and where it came from, never its message."""
    kept = redact(fields)
    kept["error_type"] = type(error).__qualname__
    kept["raised_at"] = trace_locations(error)
    kept.setdefault("request_id", current_request_id())
    _write(logging.ERROR, event, kept)


def log_access(record: RequestRecord) -> None:
    """The one line that each request leaves, and its count. The route's template, never the path or the query."""
    method = record.method if record.method in _METHODS else "other"
    metrics_table.count("depot_requests_total", method=method, status=str(record.status))
    metrics_table.count("depot_bytes_in_total", record.bytes_in)
    metrics_table.count("depot_bytes_out_total", record.bytes_out)
    log_event(
        "request",
        request_id=record.request_id,
        method=record.method,
        route=record.route,
        status=record.status,
        error_code=record.error_code,
        bytes_in=record.bytes_in,
        bytes_out=record.bytes_out,
        duration_ms=round((time.monotonic() - record.started) * 1000, 1),
    )
