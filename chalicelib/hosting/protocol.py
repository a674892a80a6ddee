"""HTTP/1.1 on one connection: uvicorn's httptools protocol, stricter and with time and size limits.

Added to uvicorn 0.54: refusals of `framing` before the application runs, a header timeout and size limit, trailers that
cannot become headers, no data after `Connection: close`, an answer's write that stalls, larger reads, and no request or
exception text in logs. Used by `server` only.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveEvent, HTTPDisconnectEvent, HTTPRequestEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from chalicelib.errors import DepotError, HeadersTooLarge, HeaderTimeout, InvalidRequest
from chalicelib.hosting.asgi import StreamingHost
from chalicelib.hosting.bridge import WHOLE_BYTES
from chalicelib.hosting.exchange import MALFORMED
from chalicelib.hosting.framing import check
from chalicelib.limits import MAX_HEADER_BYTES, MIB
from chalicelib.observability import RequestRecord, log_access, log_exception, request_id_from

# Read from the socket ahead of the bridge. uvicorn's 64 KiB stop and restart reading for every block of uvloop's 256 KiB.
READ_AHEAD_BYTES = MIB

# What may wait in a socket's write buffer before a download's handler is held up.
WRITE_AHEAD_BYTES = MIB

# How long a refused peer may take to read why, while what it sends is dropped; then the connection is closed.
LINGER_SECONDS = 1.0

# A cut connection still gets out what was written before the cut, but does not wait for a peer that reads nothing.
CUT_SECONDS = 5.0


class Cycle(RequestResponseCycle):
    """One request on a connection. Its body gathers as blocks; `broken` says that its framing is malformed."""

    def __init__(self, protocol: DepotProtocol, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._protocol = protocol
        self.blocks: list[bytes] = []
        self.size = 0
        self.broken = self._told_end = False

    async def run_asgi(self, app: ASGI3Application) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001 -- uvicorn would log it with its message, which may hold a path
            log_exception("exchange_failed", error)
        finally:
            if not self.response_complete and not self.disconnected:
                self._protocol.cut()
            self.on_response = lambda: None

    async def receive(self) -> ASGIReceiveEvent:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while not (self.blocks or self.disconnected or self.response_complete or self.broken or self._end_is_news):
            # Requests that wait behind this one have been read already: no more until their turn.
            if not self._protocol.pipeline:
                self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        # What had arrived before the connection broke is handed out first: an upload that can go on keeps it.
        if self.response_complete or (self.disconnected and not self.blocks):
            return {"type": "http.disconnect"}
        if self.broken and not self.blocks:
            return cast(HTTPDisconnectEvent, {"type": "http.disconnect", MALFORMED: True})
        # Large blocks go on one by one: joining them would only copy them once more.
        if len(self.blocks) > 1 and len(self.blocks[0]) >= WHOLE_BYTES:
            body = self.blocks.pop(0)
            self.size -= len(body)
            return {"type": "http.request", "body": body, "more_body": True}
        body = self.blocks[0] if len(self.blocks) == 1 else b"".join(self.blocks)
        self.blocks, self.size = [], 0
        more = self.more_body
        self._told_end = not more
        message: HTTPRequestEvent = {"type": "http.request", "body": body, "more_body": more}
        return message

    @property
    def _end_is_news(self) -> bool:
        return not self.more_body and not self._told_end


class DepotProtocol(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn lets data follow `Connection: close`; nothing may.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        host = self.config.app
        assert isinstance(host, StreamingHost)
        self._host, self._settings = host, host.settings
        self._in_headers = self._refused = self._upgraded = False
        self._refusal: DepotError | None = None
        self._header_bytes = self._body_bytes = self._overhead = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    # --- the connection --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # The default (64 KiB) lets the socket run dry while the next block of up to 1 MiB is fetched from its thread.
        transport.set_write_buffer_limits(high=WRITE_AHEAD_BYTES, low=WRITE_AHEAD_BYTES // 2)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        for cycle, _ in self.pipeline:
            cycle.disconnected = True
            cycle.message_event.set()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    @property
    def _in_flight(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        if self._refused or self._upgraded:
            return
        self._unset_keepalive_if_required()
        if not self._in_flight and self._header_timer is None:
            self._start_header_timer()  # the first byte of a request, or an empty line before it
        began_in_headers, body_before = self._in_headers, self._body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # A request that only offered to switch is answered in HTTP/1.1; what follows it is not ours to read.
            self._upgraded = True
            self.cycle.keep_alive = False
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or InvalidRequest("The request is not well-formed HTTP/1.1."))
            return
        if self._in_headers:
            # Where in `data` the headers began is not told, so they count from the next read on.
            self._header_bytes += len(data) if began_in_headers else 0
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse(HeadersTooLarge())
        elif self._body_bytes == body_before:
            # Neither headers nor body: chunk extensions or trailers without an end.
            self._overhead += len(data)
            if self._overhead > MAX_HEADER_BYTES:
                self._refuse(HeadersTooLarge())
        else:
            self._overhead = 0

    def eof_received(self) -> None:
        # Returning None closes the connection: a peer that has sent its end can still have its answer only if the
        # request was complete, and then HTTP clients do not half-close.
        return

    # --- the parser's calls ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers, self._header_bytes, self._overhead = True, 0, 0
        if self._header_timer is None:
            self._start_header_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:
            super().on_header(name, value)
        # Else a trailer: never to be taken for a header, and nothing here reads any.

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_header_timer()
        try:
            cycle = self._new_cycle()
        except DepotError as error:
            self._refusal = error
            raise
        before, self.cycle = self.cycle, cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _new_cycle(self) -> Cycle:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEADER_BYTES:
            raise HeadersTooLarge
        version, upgrade = self.parser.get_http_version(), self.parser.should_upgrade()
        method = self.parser.get_method().decode("ascii")
        framing = check(method, version, self.headers, upgrade=upgrade)
        try:
            url = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            raise InvalidRequest("The address is malformed.") from None
        raw_path = url.path or b"/"
        self.scope["method"] = method
        self.scope["http_version"] = version
        self.scope["path"] = unquote(raw_path.decode("ascii", "replace"))
        self.scope["raw_path"] = raw_path
        self.scope["query_string"] = url.query or b""
        return Cycle(
            self,
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and framing.has_body and version == "1.1",
            keep_alive=version != "1.0" and self.parser.should_keep_alive() and not upgrade,
            on_response=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        cycle = cast(Cycle, self.cycle)
        self._body_bytes += len(body)
        if cycle.response_complete:
            return
        cycle.blocks.append(body)
        cycle.size += len(body)
        if cycle.size > READ_AHEAD_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    # --- refusing, cutting -----------------------------------------------------------------------------------

    def _refuse(self, error: DepotError) -> None:
        """Answer and close; or, with an answer under way, close after that one."""
        self._stop_header_timer()
        self._refused = True
        if self._in_flight:
            cycle = cast(Cycle, self.cycle)
            cycle.keep_alive = False
            if cycle.more_body:
                cycle.broken = True
                cycle.message_event.set()
            return
        record = RequestRecord(request_id_from(None), status=error.status, error_code=error.code)
        body = json.dumps(error.to_body(record.request_id), separators=(",", ":")).encode()
        record.bytes_out = len(body)
        fields = (
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {record.request_id}",
            "connection: close",
        )
        self.transport.write(STATUS_LINE[error.status] + "\r\n".join(fields).encode() + b"\r\n\r\n" + body)
        log_access(record)
        # Closing with unread data would reset the connection, and the peer might never read the answer.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def cut(self) -> None:
        """End the connection without ending the answer."""
        if self._host.stopping:
            self.transport.abort()
            return
        self.transport.close()
        self.loop.call_later(CUT_SECONDS, self.transport.abort)

    # --- timers ----------------------------------------------------------------------------------------------

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self._settings.header_timeout, self._headers_late)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_late(self) -> None:
        self._header_timer = None
        if self._in_flight:  # the late request waits behind another, whose turn it is
            self._start_header_timer()
        elif self._in_headers:
            self._refuse(HeaderTimeout())
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self._settings.body_stall_timeout, self._check_write)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _check_write(self) -> None:
        """A peer that took no byte for `body_stall_timeout` is gone."""
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        self._write_timer = self.loop.call_later(self._settings.body_stall_timeout, self._check_write)
