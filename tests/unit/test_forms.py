"""An HTML form read as a stream: fields before the file, one file, and no form that ends early."""

import random

import pytest

from chalicelib.errors import InvalidRequest, TruncatedBody
from chalicelib.storage.streams import BytesReader, IteratorReader, blocks
from chalicelib.web.forms import is_form, read_form

BOUNDARY = "----depot-test"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    out = []
    for name, filename, body in parts:
        extra = f'; filename="{filename}"' if filename is not None else ""
        out.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n'.encode())
        out.append(b"Content-Type: text/csv\r\n\r\n" if filename is not None else b"\r\n")
        out.append(body + b"\r\n")
    return b"".join(out) + f"--{BOUNDARY}--\r\n".encode()


def whole(upload) -> bytes:
    return b"".join(blocks(upload.content))


def test_fields_then_file():
    content = b"a,b\r\n--not-a-boundary\r\n" * 1000
    upload = read_form(TYPE, BytesReader(form(("cohort", None, b"VACS"), ("file", "p.csv", content))))
    assert upload.fields == {"cohort": "VACS"}
    assert (upload.filename, upload.content_type) == ("p.csv", "text/csv")
    assert whole(upload) == content


def test_any_split_of_the_body_gives_the_same_file():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    content = rng.randbytes(5000) + f"\r\n--{BOUNDARY[:-1]}".encode()
    raw = form(("cohort", None, b"VACS"), ("file", "p.bin", content))
    for _ in range(50):
        cuts = sorted(rng.sample(range(1, len(raw)), 20))
        pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
        upload = read_form(TYPE, IteratorReader(pieces))
        assert whole(upload) == content


def test_an_empty_file_is_a_file():
    assert whole(read_form(TYPE, BytesReader(form(("file", "e.csv", b""))))) == b""


def test_a_form_that_ends_early_never_reads_as_a_whole_file():
    raw = form(("cohort", None, b"VACS"), ("file", "p.csv", b"x" * 3000))
    end = raw.rindex(b"--" + BOUNDARY.encode()) + len(BOUNDARY) + 4
    for cut in [*range(200), *range(200, end, 97), end - 1]:
        with pytest.raises((TruncatedBody, InvalidRequest)):
            whole(read_form(TYPE, BytesReader(raw[:cut])))


def test_a_second_file_is_refused_before_the_first_is_taken_as_whole():
    raw = form(("one", "a.csv", b"1"), ("two", "b.csv", b"2"))
    with pytest.raises(InvalidRequest, match="last"):
        whole(read_form(TYPE, BytesReader(raw)))


def test_a_form_without_a_file_says_so():
    with pytest.raises(InvalidRequest, match="no file"):
        read_form(TYPE, BytesReader(form(("cohort", None, b"VACS"))))


def test_fields_are_bounded_and_utf8():
    with pytest.raises(InvalidRequest, match="too long"):
        read_form(TYPE, BytesReader(form(("cohort", None, b"x" * 200_000), ("file", "a", b""))))
    with pytest.raises(InvalidRequest, match="UTF-8"):
        read_form(TYPE, BytesReader(form(("cohort", None, b"\xff\xfe"), ("file", "a", b""))))


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary="])
def test_a_form_without_a_boundary_is_refused(content_type):
    with pytest.raises(InvalidRequest):
        whole(read_form(content_type, BytesReader(form(("file", "a", b"x")))))


def test_what_counts_as_a_form():
    assert is_form(TYPE)
    assert is_form("Multipart/Form-Data; boundary=x")
    assert not is_form("text/csv")
    assert not is_form(None)
