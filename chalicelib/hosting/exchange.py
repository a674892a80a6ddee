"""One request and its answer: the loop's side (`run`), the pump that feeds the body, and the thread's side (`_work`).

Part of `asgi`; nothing else imports it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from chalicelib import metrics
from chalicelib.errors import ClientDisconnected, DepotError, InvalidRequest, ServerBusy, ServerStopping
from chalicelib.hosting import exposition
from chalicelib.hosting.answers import StreamedBody, as_depot_error, error_answer
from chalicelib.hosting.bridge import BodyPipe, BodyReader, PeerGone, ResponsePipe, SizedBodyReader
from chalicelib.hosting.events import Answer, HostContext, proxy_event, streamed_answer, whole_answer
from chalicelib.hosting.framing import Framing, check
from chalicelib.limits import MIB
from chalicelib.observability import RequestRecord, begin_request, request_id_from

if TYPE_CHECKING:
    from chalicelib.hosting.asgi import StreamingHost

# An answer given before the body has ended: how much of the rest is read, so that the peer gets to read the answer
# instead of a reset. What comes after that is cut.
DRAIN_BYTES = 64 * MIB
DRAIN_SECONDS = 5.0
STOPPING_DRAIN_SECONDS = 0.5

# In a disconnect message of our protocol: the body's framing is malformed, but the connection is there to answer on.
MALFORMED = "depot.malformed"


class Exchange:
    def __init__(
        self,
        host: StreamingHost,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        self._host, self._scope, self._receive, self._send = host, scope, receive, send
        self._loop = asyncio.get_running_loop()
        headers = dict(scope["headers"])
        request_id = request_id_from(headers.get(b"x-request-id", b"").decode("latin-1"))
        self.record = RequestRecord(request_id, method=scope["method"])
        self._is_head = scope["method"] == "HEAD"
        self._expects = headers.get(b"expect", b"").lower() == b"100-continue"
        self._framing = Framing(None, False)
        self._body: BodyPipe = BodyPipe(self._loop, 0, 0, self._start_pump)
        self._out = ResponsePipe(self._loop)
        self._answer: asyncio.Future[Answer] = self._loop.create_future()
        self._pump_task: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()  # nothing of the body is left to be read and dropped
        self._gone = False  # the peer has left, or the exchange is over

    async def run(self) -> None:
        try:
            self._begin()
        except DepotError as error:
            self._refuse(error)
        try:
            await self._respond(await self._answer)
        finally:
            self._leave()
            if self._pump_task is not None:
                self._pump_task.cancel()

    def stop(self) -> None:
        """The server stops and has waited long enough."""
        self._body.fail(ServerStopping)
        if self._answer.done():
            self.record.error_code = ServerStopping.code
            self._out.abandon()

    def _leave(self) -> None:
        self._gone = True
        self._body.fail(ClientDisconnected)
        self._out.abandon()
        self.record.bytes_in = self._body.received

    # --- the request -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Check, make the event, and give it to a thread. Raises the `DepotError` to answer instead."""
        host, scope = self._host, self._scope
        self._framing = check(scope["method"], scope["http_version"], scope["headers"])
        length, stall = self._framing.length, host.settings.body_stall_timeout
        self._body = BodyPipe(self._loop, length, stall, self._start_pump)
        if host.stopping:
            raise ServerStopping
        if scope["raw_path"] == exposition.PATH.encode():
            self.record.route = exposition.PATH
            token = host.settings.metrics_token
            self._answer.set_result(exposition.answer(scope, token, self.record.request_id, metrics.registry))
            return
        event = proxy_event(scope, host.router, self.record.request_id)
        self.record.route = event["resource"]
        if self._framing.chunked:
            event["body"] = BodyReader(self._body)
        elif length:
            event["body"] = SizedBodyReader(self._body, length)
        # A copy, so that what one request sets is not seen by the next.
        if not host.pool.try_submit(partial(contextvars.copy_context().run, self._work, event)):
            raise ServerBusy
        if not self._framing.has_body:
            self._start_pump()  # only to learn when the client goes away

    def _refuse(self, error: DepotError) -> None:
        begin_request(self.record)  # this task's own context
        answer = error_answer(error, self.record.request_id).to_dict()
        answer["headers"]["X-Request-ID"] = self.record.request_id
        self._answer.set_result(whole_answer(answer, head=self._is_head))

    def _start_pump(self) -> None:
        if self._pump_task is None and not self._gone:
            self._pump_task = self._loop.create_task(self._pump())

    async def _pump(self) -> None:
        """From the connection into the body pipe, and then until the client is gone.

        Asking the connection is what sends `100 Continue`, so this starts when the handler first reads.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                if message.get(MALFORMED):
                    self._body.fail(InvalidRequest)
                else:
                    self._leave()
                self._drained.set()
                return
            if (block := message.get("body")) and self._body.feed(block):
                await self._body.room()
            if self._body.dropped > DRAIN_BYTES:
                self._drained.set()
                return
            if not message.get("more_body"):
                self._body.finish()
                self._drained.set()

    # --- the thread ------------------------------------------------------------------------------------------

    def _work(self, event: dict[str, Any]) -> None:
        if self._gone:  # while it waited for a thread
            self._resolve(Answer(400, [], b""))
            return
        begin_request(self.record)
        stream = None
        try:
            answer = self._host.app(event, HostContext(self.record.request_id))
            body = answer["body"]
            stream = body if isinstance(body, StreamedBody) else None
            if stream is None:
                self._resolve(whole_answer(answer, head=self._is_head))
                return
            made = streamed_answer(answer, head=self._is_head)
            if made.body is None and made.length is None and self._scope["http_version"] == "1.0":
                # Only closing could end such a body, and a cut would look the same.
                raise InvalidRequest("The length of this answer is not known: ask over HTTP/1.1.")
            self._resolve(made)
            if made.body is None:
                self._out.end(complete=self._stream(stream))
        except Exception as error:  # noqa: BLE001 -- the request must be answered, or it would hang for ever
            failed = error_answer(as_depot_error(error), self.record.request_id)
            self._resolve(whole_answer(failed.to_dict(), head=self._is_head))
        finally:
            if stream is not None:
                stream.close()

    def _stream(self, stream: StreamedBody) -> bool:
        """Send it all; False when it broke. The status has gone out, so a failure can only be shown by a cut."""
        try:
            for block in stream.blocks:
                self._out.put(block)
        except PeerGone:
            return False
        except Exception as error:  # noqa: BLE001 -- as above
            self.record.error_code = as_depot_error(error).code
            return False
        return True

    def _resolve(self, answer: Answer) -> None:
        def resolve() -> None:
            if not self._answer.done():
                self._answer.set_result(answer)

        try:
            self._loop.call_soon_threadsafe(resolve)
        except RuntimeError:  # the loop is closed: the process is ending
            self._out.abandon()

    # --- the answer ------------------------------------------------------------------------------------------

    async def _respond(self, answer: Answer) -> None:
        """Send it. Returning without having sent the last message makes the protocol cut the connection."""
        self.record.status = answer.status
        if self._gone:
            return
        early = await self._is_early()
        headers = [*answer.headers, (b"connection", b"close")] if early else answer.headers
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        last = answer.body or b""
        if answer.body is None and not await self._send_stream(answer.length):
            self.record.error_code = self.record.error_code or "response_cut"
            return
        if early:
            if last:
                await self._send({"type": "http.response.body", "body": last, "more_body": True})
            self.record.bytes_out += len(last)
            await self._drain()
            last = b""
        await self._send({"type": "http.response.body", "body": last, "more_body": False})
        self.record.bytes_out += len(last)

    async def _send_stream(self, length: int | None) -> bool:
        """All blocks but no end; False when the body broke, or is not as long as was announced."""
        sent = 0
        while (block := await self._out.take()) is not None:
            sent += len(block)
            if length is not None and sent > length:
                return False
            await self._send({"type": "http.response.body", "body": block, "more_body": True})
            self.record.bytes_out = sent
        return self._out.complete and (length is None or sent == length)

    async def _is_early(self) -> bool:
        """Whether bytes of the request are still to come although it is being answered."""
        if not self._framing.has_body or self._body.ended:
            return False
        self._body.discard()
        if not self._expects:
            self._start_pump()
            # What has arrived is at hand, so a body that came with its headers ends here, and the connection lives on.
            for _ in range(3):
                await asyncio.sleep(0)
        return not self._body.ended

    async def _drain(self) -> None:
        self._start_pump()
        try:
            await asyncio.wait_for(
                self._drained.wait(), STOPPING_DRAIN_SECONDS if self._host.stopping else DRAIN_SECONDS
            )
        except TimeoutError:
            return
