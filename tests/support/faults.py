"""Sources that misbehave, and answers a store never gave: what tests put between our code and the world."""

from __future__ import annotations

import io
import random
from typing import Any

from botocore.awsrequest import AWSResponse


class SourceBroke(OSError):
    """What `BreakingReader` raises: an `OSError`, as sockets do, and none of ours."""


class BreakingReader:
    """Gives `after` bytes, then raises instead of ending."""

    def __init__(self, after: int, error: BaseException | None = None) -> None:
        self._left, self._error = after, error or SourceBroke("the source broke")

    def read(self, size: int = -1, /) -> bytes:
        if not self._left:
            raise self._error
        count = self._left if size < 0 else min(size, self._left)
        self._left -= count
        return b"b" * count


class ShortReader(io.BytesIO):
    """Says it is longer than it is (`claimed` bytes), and ends early without a word."""

    def __init__(self, data: bytes, claimed: int) -> None:
        super().__init__(data)
        self._claimed = claimed

    def __len__(self) -> int:
        return self._claimed


class OddReader:
    """Gives what is asked for in pieces of random size, as sockets do. Repeatable by its seed."""

    def __init__(self, data: bytes, seed: int, largest: int = 300_000) -> None:
        self._data, self._at, self._random, self._largest = data, 0, random.Random(seed), largest

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            size = len(self._data)
        end = self._at + min(size, self._random.randint(1, self._largest))
        block, self._at = self._data[self._at : end], min(end, len(self._data))
        return block


class Body(io.BytesIO):
    """A response's body as botocore reads it."""

    def stream(self, amount: int = 1 << 16, **_: Any) -> Any:
        while block := self.read(amount):
            yield block


class StoreAnswers:
    """Puts answers or events in place of a store's reply to one S3 operation, at botocore's own transport hook.

    `replies` are used up one a request: a (status, body) is the reply and nothing is sent; a callable is called first, with
    the request, and its result used likewise, None letting the request through. After the last, requests pass.
    """

    def __init__(self, client: Any, operation: str, *replies: Any) -> None:
        self._replies, self.seen = list(replies), 0
        client.meta.events.register_first(f"before-send.s3.{operation}", self._reply)

    def _reply(self, request: Any, **_: Any) -> AWSResponse | None:
        self.seen += 1
        reply = self._replies.pop(0) if self._replies else None
        if callable(reply):
            reply = reply(request)
        if reply is None:
            return None
        if isinstance(reply, BaseException):
            raise reply
        status, body = reply
        return AWSResponse(request.url, status, {"Content-Type": "application/xml"}, Body(body))


def s3_error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>canary-key</Message></Error>'.encode()
