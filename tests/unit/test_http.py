"""Ranges, validators, header-safe names, metadata headers."""

import pytest

from chalicelib import http
from chalicelib.errors import InvalidRequest, RangeNotSatisfiable
from chalicelib.storage.base import ByteRange


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-4", (0, 5)),
        ("bytes=5-", (5, 5)),
        ("bytes=-3", (7, 3)),
        ("bytes=-99", (0, 10)),
        ("bytes=9-9", (9, 1)),
        ("bytes=0-99", (0, 10)),
    ],
)
def test_one_range_of_a_ten_byte_file(header, expected):
    found = http.parse_range(header)
    assert found is not None
    assert found.resolve(10) == expected


@pytest.mark.parametrize(
    "header", [None, "", "bytes=", "bytes=-", "bytes=4-2", "bytes=0-1,3-4", "items=0-1", "bytes=a-b"]
)
def test_what_is_no_single_range_is_ignored(header):
    assert http.parse_range(header) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=0-0", 0), ("bytes=-1", 0), ("bytes=-0", 10)])
def test_a_range_outside_the_file_is_not_satisfiable(header, size):
    found = http.parse_range(header)
    assert found is not None
    with pytest.raises(RangeNotSatisfiable):
        found.resolve(size)


def test_a_range_reads_back_as_its_header():
    for header in ("bytes=0-4", "bytes=5-", "bytes=-3"):
        found = http.parse_range(header)
        assert found is not None
        assert found.header() == header
    assert ByteRange(0, 4).header() == "bytes=0-4"


def test_if_none_match_compares_weakly_and_knows_the_star():
    assert http.matches('W/"a", "b"', '"a"')
    assert http.matches("*", '"a"')
    assert not http.matches('"b"', '"a"')
    assert not http.matches(None, '"a"')


def test_if_range_compares_strongly():
    assert http.range_applies(None, '"a"')
    assert http.range_applies('"a"', '"a"')
    assert not http.range_applies('W/"a"', '"a"')


@pytest.mark.parametrize(
    "name", ['a".html', "a\\b", "naïve Ünïcode 文件.csv", "x; filename=evil.exe", "a%22b", "'quoted'.csv", "new\nline"]
)
def test_no_file_name_breaks_out_of_content_disposition(name):
    value = http.content_disposition(name)
    assert value.isascii()
    assert value.isprintable()
    assert value.count('"') == 2
    assert value.startswith('attachment; filename="')
    quoted, _, extended = value.removeprefix('attachment; filename="').partition('"')
    assert ";" not in quoted
    assert extended.startswith("; filename*=UTF-8''")
    assert not set(extended.removeprefix("; filename*=UTF-8''")) & set(' ;"\\,')


def test_metadata_survives_the_way_through_headers():
    metadata = {"cohort": "VACS", "protocol_year": "2024", "note": "naïve 100% = 文件\r\nX-Evil: 1", "a": ""}
    headers = http.metadata_headers(metadata)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert http.metadata_from_headers(headers) == metadata


@pytest.mark.parametrize("key", ["", "Upper", "with-dash", "_edge", "edge_", "a b", "k" * 65, "é"])
def test_a_metadata_key_that_cannot_travel_is_refused(key):
    with pytest.raises(InvalidRequest):
        http.metadata_headers({key: "value"})


def test_a_digest_is_64_hex_digits_or_nothing():
    assert http.check_sha256("AB" * 32) == "ab" * 32
    assert http.check_sha256("") is None
    for bad in ("abc", "g" * 64, "a" * 63):
        with pytest.raises(InvalidRequest):
            http.check_sha256(bad)


def test_page_limits():
    assert http.page_limit(None) == 100
    assert http.page_limit("7") == 7
    for bad in ("0", "1001", "-1", "x", "١"):
        with pytest.raises(InvalidRequest):
            http.page_limit(bad)
