"""The seal behind a forwarded body: what both tiers count, and what comes of a difference."""

from __future__ import annotations

import random

import pytest

from chalicelib.errors import ClientDisconnected, ForwardedDiffers, InvalidRequest, TruncatedBody
from chalicelib.limits import BLOCK_BYTES
from chalicelib.storage.seal import SEAL_BYTES, SealedBody, SteadyBody, Unsealed, unsealed
from chalicelib.storage.streams import BytesReader, IteratorReader, length_of


class Sliced:
    """A reader that gives `data` in slices of random length, and then raises `error` where there is one."""

    def __init__(self, data: bytes, seed: int = 0, most: int = 3000, error: Exception | None = None) -> None:
        self._data, self._random, self._most, self._error = data, random.Random(seed), most, error

    def read(self, size: int = -1, /) -> bytes:
        if not self._data and self._error is not None:
            raise self._error
        size = min(self._random.randint(1, self._most), len(self._data) if size < 0 else size)
        block, self._data = self._data[:size], self._data[size:]
        return block


class Alarm:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def sent(body: SealedBody) -> tuple[bytes, str]:
    return b"".join(body), body.headers()["X-Depot-Sealed"]


def received(wire: bytes, header: str, *, seed: int = 0, alarm: Alarm | None = None, most: int = 3000) -> Unsealed:
    return unsealed(Sliced(wire, seed, most), header, alarm or Alarm())


def drain(reader: Unsealed, sizes: random.Random | None = None) -> bytes:
    data = b""
    while block := reader.read(sizes.randint(1, 5000) if sizes else BLOCK_BYTES):
        data += block
    return data


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
@pytest.mark.parametrize("size", [0, 1, 40, 41, 42, 82, 83, 5000, 30_000])
def test_what_was_sent_arrives_and_is_confirmed(size: int, known: bool) -> None:
    for seed in range(10):
        data = random.Random(seed).randbytes(size)
        wire, header = sent(SealedBody.of(Sliced(data, seed), size if known else None))
        reader = received(wire, header, seed=seed, most=random.Random(seed).choice([1, 41, 50, 10_000]))
        assert length_of(reader) == (size if known else None)
        assert drain(reader, random.Random(seed)) == data, seed
        assert reader.forwarded.confirmed, seed
        assert reader.forwarded.count == size, seed
        assert reader.read(1) == b""


def test_a_body_in_memory_has_a_length_and_keeps_to_it() -> None:
    body = SealedBody.of(BytesReader(b"0123456789"), 10)
    assert isinstance(body, SteadyBody)
    assert len(body) == 10 + SEAL_BYTES
    pieces = []
    while piece := body.read(7):
        assert len(piece) <= 7
        pieces.append(piece)
    wire = b"".join(pieces)
    assert len(wire) == 10 + SEAL_BYTES
    reader = received(wire, "10")
    assert drain(reader) == b"0123456789"
    assert reader.forwarded.confirmed


def test_reading_without_a_size_gives_all_of_it() -> None:
    data = bytes(range(256)) * 20_000
    wire = SealedBody.of(Sliced(data), None).read()
    assert drain(received(wire, "*", most=100_000)) == data


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
def test_any_single_change_on_the_way_is_found(known: bool) -> None:
    data = random.Random(1).randbytes(300)
    wire, header = sent(SealedBody.of(Sliced(data), len(data) if known else None))
    for place in range(len(wire)):
        alarm = Alarm()
        broken = bytearray(wire)
        broken[place] ^= 1 << (place % 8)
        with pytest.raises(ForwardedDiffers):
            drain(received(bytes(broken), header, seed=place, alarm=alarm))
        assert alarm.times == 1, place


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
@pytest.mark.parametrize("what", ["doubled", "dropped", "appended", "swapped"])
def test_blocks_that_are_lost_doubled_or_swapped_are_found(what: str, known: bool) -> None:
    data = random.Random(2).randbytes(10_000)
    wire, header = sent(SealedBody.of(Sliced(data), len(data) if known else None))
    altered = {
        "doubled": wire[:4096] + wire[:4096] + wire[4096:],
        "dropped": wire[:4096] + wire[8192:],
        "appended": wire + b"more",
        "swapped": wire[4096:8192] + wire[:4096] + wire[8192:],
    }[what]
    with pytest.raises(ForwardedDiffers):
        drain(received(altered, header))


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
def test_the_last_block_is_not_handed_on_before_the_seal_was_compared(known: bool) -> None:
    """A consumer that stops at the announced length, as the writer of sessions does, must not miss the difference."""
    data = b"x" * 5000
    wire, header = sent(SealedBody.of(Sliced(data), len(data) if known else None))
    reader = received(b"y" + wire[1:], header, most=10_000)
    got = b""
    with pytest.raises(ForwardedDiffers):
        while len(got) < len(data) + (not known):
            got += reader.read(1000)
    assert len(got) < len(data) + (not known)


def test_a_length_that_does_not_belong_to_the_body_is_found() -> None:
    wire, _ = sent(SealedBody.of(Sliced(b"x" * 100), None))
    for length in (0, 99, 101, 1000):
        with pytest.raises(ForwardedDiffers):
            drain(received(wire, str(length)))


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
def test_what_came_before_a_break_is_confirmed_and_then_the_break_is_told(known: bool) -> None:
    data = random.Random(3).randbytes(7000)
    body = SealedBody.of(Sliced(data, error=ClientDisconnected()), 10_000 if known else None)
    wire, header = sent(body)
    assert isinstance(body.error, ClientDisconnected)
    reader = received(wire, header)
    got = b""
    with pytest.raises(ClientDisconnected):
        while block := reader.read(1000):
            got += block
    assert got == data
    assert reader.forwarded.confirmed
    with pytest.raises(ClientDisconnected):
        reader.read(1)


def test_a_source_that_ends_early_is_a_break_and_not_an_end() -> None:
    body = SealedBody.of(Sliced(b"x" * 10), 20)
    wire, header = sent(body)
    assert isinstance(body.error, TruncatedBody)
    with pytest.raises(ClientDisconnected):
        drain(received(wire, header))


def test_a_break_cannot_be_turned_into_an_end() -> None:
    wire, header = sent(SealedBody.of(Sliced(b"x" * 10, error=ClientDisconnected()), 20))
    ended = wire[:-SEAL_BYTES] + b"\x00" + wire[len(wire) - SEAL_BYTES + 1 :]
    with pytest.raises(ForwardedDiffers):
        drain(received(ended, header))


@pytest.mark.parametrize("missing", [1, 20, SEAL_BYTES])
def test_a_body_without_a_whole_seal_is_cut(missing: int) -> None:
    wire, header = sent(SealedBody.of(IteratorReader([b"abc"]), None))
    with pytest.raises((TruncatedBody, ForwardedDiffers)):
        drain(received(wire[:-missing], header))


@pytest.mark.parametrize("header", ["", "-1", "1.5", "x", "\u0661", "9" * 20, "**"])
def test_a_header_that_says_nothing_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest):
        unsealed(BytesReader(b""), header, Alarm())


def test_an_error_of_our_own_making_breaks_the_connection_instead() -> None:
    """What is no Depot error says nothing about the bytes: no seal, so that the other tier sees a cut."""
    body = SealedBody.of(Sliced(b"x" * 10, error=ValueError()), 20)
    with pytest.raises(ValueError):
        sent(body)
    assert isinstance(body.error, ValueError)
