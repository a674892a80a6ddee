"""The stream helpers: each does one thing, and a short read never looks like an end."""

import hashlib
import io
import os
import random
import secrets

import pytest

from chalicelib.errors import LengthMismatch, RangeNotSatisfiable, TruncatedBody
from chalicelib.storage import streams
from chalicelib.storage.base import ByteRange
from nas_gateway.drivers import common
from tests.support.faults import BreakingReader, OddReader, SourceBroke


def drain(reader, size: int) -> bytes:
    return b"".join(iter(lambda: reader.read(size), b""))


@pytest.mark.parametrize("content", ["Zoë", "Zoë".encode(), bytearray("Zoë".encode()), memoryview("Zoë".encode())])
def test_bytes_and_text_have_a_length(content):
    reader, length = streams.as_reader(content)
    assert (length, drain(reader, 2)) == (4, "Zoë".encode())


def test_a_real_file_has_the_length_that_is_left(tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    with open(tmp_path / "f", "rb") as file:
        file.seek(4)
        assert streams.as_reader(file)[1] == 6


def test_a_pipe_and_a_generator_have_none():
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert streams.as_reader(pipe)[1] is None
    reader, length = streams.as_reader(iter([b"ab", b"", b"cde"]))
    assert (length, drain(reader, 2)) == (None, b"abcde")


def test_an_iterator_reader_gives_no_more_than_is_asked_for_and_passes_errors_on():
    def source():
        yield b"abc"
        raise SourceBroke

    reader = streams.IteratorReader(source())
    assert [reader.read(2), reader.read(2)] == [b"ab", b"c"]
    with pytest.raises(SourceBroke):
        reader.read(2)
    assert streams.IteratorReader([b"ab", b"c"]).read() == b"abc"


@pytest.mark.parametrize("size", [-1, 1, 3, 100])
def test_exactly_the_announced_length_passes(size):
    reader = streams.ExactReader(io.BytesIO(b"0123456789"), 10)
    assert len(reader) == 10
    assert (reader.read() if size < 0 else drain(reader, size)) == b"0123456789"


@pytest.mark.parametrize("size", [-1, 1, 3, 100])
def test_less_than_announced_is_truncated(size):
    reader = streams.ExactReader(io.BytesIO(b"0123456789"), 11)
    with pytest.raises(TruncatedBody):
        reader.read() if size < 0 else drain(reader, size)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_more_than_announced_is_refused(size):
    with pytest.raises(LengthMismatch):
        drain(streams.ExactReader(io.BytesIO(b"0123456789"), 9), size)


def test_a_reader_that_gives_more_than_it_was_asked_for_is_refused():
    class Greedy:
        def read(self, size: int = -1, /) -> bytes:
            return b"x" * (size + 1)

    with pytest.raises(LengthMismatch):
        streams.ExactReader(Greedy(), 3).read(3)


def test_a_hashing_reader_counts_and_hashes_what_passes():
    seen: list[int] = []
    reader = streams.HashingReader(io.BytesIO(b"0123456789"), seen.append)
    assert drain(reader, 4) == b"0123456789"
    assert (reader.count, seen) == (10, [4, 4, 2])
    assert reader.hexdigest() == hashlib.sha256(b"0123456789").hexdigest()


def test_read_full_and_fill_make_whole_parts_of_odd_pieces():
    seed = secrets.randbits(32)
    print("seed", seed)
    data = random.Random(seed).randbytes(100_000)
    one, two = OddReader(data, seed, 999), OddReader(data, seed, 999)
    for size in (40_000, 40_000, 20_000, 0):
        buffer, pieces = bytearray(40_000), []
        filled = common.fill(two, memoryview(buffer), lambda piece, pieces=pieces: pieces.append(bytes(piece)))
        part = streams.read_full(one, 40_000)
        assert len(part) == filled == size
        assert part == bytes(buffer[:filled]) == b"".join(pieces)


def test_a_source_that_breaks_is_no_end():
    for call in (
        lambda: streams.read_full(BreakingReader(10), 100),
        lambda: common.fill(BreakingReader(10), memoryview(bytearray(100)), lambda _: None),
        lambda: list(streams.blocks(BreakingReader(10), 3)),
    ):
        with pytest.raises(SourceBroke):
            call()


@pytest.mark.parametrize(
    ("start", "end", "size", "expected"),
    [(0, None, 10, (0, 10)), (3, 3, 10, (3, 1)), (3, 99, 10, (3, 7)), (None, 3, 10, (7, 3)), (None, 99, 10, (0, 10))],
)
def test_ranges_resolve(start, end, size, expected):
    assert ByteRange(start, end).resolve(size) == expected


@pytest.mark.parametrize(
    ("start", "end", "size"), [(10, None, 10), (0, None, 0), (None, 0, 10), (None, 5, 0), (5, 3, 10)]
)
def test_ranges_outside_the_file_are_refused(start, end, size):
    with pytest.raises(RangeNotSatisfiable):
        ByteRange(start, end).resolve(size)


def test_range_headers():
    assert [ByteRange(*span).header() for span in ((0, 5), (3, None), (None, 4))] == [
        "bytes=0-5",
        "bytes=3-",
        "bytes=-4",
    ]
