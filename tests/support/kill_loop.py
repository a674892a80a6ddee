"""A tus client whose server is killed under it: sends a file, kills a tier at given offsets, and goes on from where it is told.

For the kill loops of tests/functional/test_kill.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import requests

from chalicelib.limits import MIB
from tests.support.stack import wait_until
from tests.support.tus_client import Tus, about
from tests.support.tus_trial import PATIENCE

BLOCK = 64 * 1024
# The whole rest (None); around the size of a part and of the smallest part; what API Gateway takes.
CHUNKS = (None, 4 * MIB, MIB, 5 * MIB - 1, 8 * MIB + 1)
# Answers after which a client asks where it stands and goes on: in conflict, locked, a tier away or just back.
PASSING = frozenset({409, 423, 502, 503})


class Body:
    """Bytes `start` to `end` of a file; calls `at_offset` before each block with how far the file has been handed over."""

    def __init__(self, data: bytes, start: int, end: int, at_offset: Callable[[int], None]) -> None:
        self._data, self._at, self._end, self._at_offset, self._length = data, start, end, at_offset, end - start

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        self._at_offset(self._at)
        end = min(self._end, self._at + (BLOCK if size < 0 else min(size, BLOCK)))
        block, self._at = self._data[self._at : end], end
        return block


@dataclass
class KilledUpload:
    """One file, during which `kill` is called so many times: at random offsets, each in a request of its own, so that the
    tier is up and at it, and the last when all is handed over.

    `told` is the largest offset that any answer acknowledged; no later answer may be below it (I1).
    """

    tus: Tus
    data: bytes
    kills: int
    kill: Callable[[], None]
    rng: random.Random
    path: str = ""
    told: int = 0
    offsets: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    file_id: str = ""
    _target: int | None = None
    _at_the_end: threading.Timer | None = None

    def run(self) -> None:
        """Until the file is there. Raises `AssertionError` when what was acknowledged is not remembered."""
        size = len(self.data)
        key = f"kill-{self.rng.getrandbits(64):x}"
        made = self._patiently(lambda: self.tus.create(size, upload_metadata=about(), idempotency_key=key), 201)
        self.path = made.headers["Location"]
        while not self.file_id:
            if self._head() < size:
                self._aim()
                self._patch()
        if self._at_the_end is not None:
            self._at_the_end.join()
            self._head()

    def _head(self) -> int:
        answer = self._patiently(lambda: self.tus.head(self.path), 200)
        self._acknowledged(answer)
        if self.told == len(self.data):
            self.file_id = answer.headers["X-Depot-File-Id"]
        return self.told

    def _aim(self) -> None:
        """At an offset that may be several requests away; so that on average all kills come before the end."""
        left = self.kills - len(self.offsets)
        if self._target is None and left:
            ahead = max(1, 2 * (len(self.data) - self.told) // left)
            self._target = (
                len(self.data) if left == 1 else min(self.told + self.rng.randrange(ahead), len(self.data) - 1)
            )

    def _patch(self) -> None:
        start, chunk = self.told, self.rng.choice(CHUNKS)
        end = len(self.data) if chunk is None else min(start + chunk, len(self.data))
        answer = self._asked(lambda: self.tus.patch(self.path, start, Body(self.data, start, end, self._reached)))
        if answer is not None and answer.status_code == 204:
            # Also where it was killed meanwhile: the other tier may still have had the whole chunk, and asked again.
            self._acknowledged(answer)

    def _reached(self, offset: int) -> None:
        if self._target is None or offset < self._target:
            return
        self._target = None
        self.offsets.append(offset)
        if offset < len(self.data):
            self.kill()
        else:
            # All is handed over: the tiers are storing, completing, recording. Any of that is to be hit.
            self._at_the_end = threading.Timer(self.rng.uniform(0, 0.15), self.kill)
            self._at_the_end.start()

    def _acknowledged(self, answer: requests.Response) -> None:
        offset = int(answer.headers["Upload-Offset"])
        assert offset >= self.told, f"told {self.told} before and {offset} now"
        self.told = offset

    def _asked(self, ask: Callable[[], requests.Response]) -> requests.Response | None:
        """The answer, or None where the connection broke. Any refusal must be one of those that pass."""
        try:
            answer = ask()
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout) as error:
            self.answers["no answer" if isinstance(error, requests.Timeout) else "broken"] += 1
            return None
        self.answers[str(answer.status_code)] += 1
        assert answer.status_code < 400 or answer.status_code in PASSING, f"{answer.status_code} {answer.text}"
        return answer

    def _patiently(self, ask: Callable[[], requests.Response], expected: int) -> requests.Response:
        def probe() -> requests.Response | None:
            answer = self._asked(ask)
            return answer if answer is not None and answer.status_code == expected else None

        answer: requests.Response = wait_until(probe, 2 * PATIENCE, f"an answer {expected}")
        return answer

    def arrived(self) -> None:
        """I2: what is on the NAS is what was sent."""
        digest = hashlib.sha256()
        with self.tus.client.content(self.file_id, stream=True) as answer:
            assert answer.status_code == 200, answer.text
            for block in answer.iter_content(MIB):
                digest.update(block)
        assert digest.digest() == hashlib.sha256(self.data).digest()


def after(moment: float) -> None:
    """Wait until the clock shows a time (`time.time()`): leases end by it."""
    with contextlib.suppress(InterruptedError):
        wait_until(lambda: time.time() > moment, PATIENCE, "a lease's end")
