"""tus 1.0.0: what each request header may say, and what it is refused for."""

import base64
import hashlib

import pytest

from chalicelib.errors import InvalidRequest, PayloadTooLarge
from chalicelib.storage.uploads import Checksum
from chalicelib.web import tus_headers as tus

HOST, BASE = "depot.example", "/uploads"


def b64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


# --- numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("70", 70), ("5497558138880", 5 * 2**40), ("007", 7)])
def test_a_byte_count_is_plain_digits(text, number):
    assert tus.whole_number({"upload-offset": text}, "Upload-Offset") == number


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1.0", "1e3", "0x10", " 1", "1 ", "1_000", "one", "٣", "²", "1" * 20, "1, 1"]
)
def test_anything_else_is_refused_and_the_header_named(text):
    with pytest.raises(InvalidRequest, match="Upload-Offset must be a whole number"):
        tus.whole_number({"upload-offset": text}, "Upload-Offset")


def test_a_count_that_is_not_there_is_none():
    assert tus.whole_number({}, "Upload-Offset") is None


@pytest.mark.parametrize(
    ("headers", "size"),
    [({"upload-length": "100"}, 100), ({"upload-length": "0"}, 0), ({"upload-defer-length": "1"}, None)],
)
def test_a_creation_says_the_length_or_that_it_comes_later(headers, size):
    assert tus.announced_size(headers, 1000) == size


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"upload-length": "100", "upload-defer-length": "1"},
        {"upload-defer-length": "0"},
        {"upload-defer-length": "true"},
        {"upload-length": "100", "upload-defer-length": "0"},
    ],
)
def test_not_both_not_neither_and_no_other_value_than_1(headers):
    with pytest.raises(InvalidRequest):
        tus.announced_size(headers, 1000)


def test_a_length_over_the_maximum_is_413_and_the_maximum_itself_is_taken():
    assert tus.announced_size({"upload-length": "1000"}, 1000) == 1000
    with pytest.raises(PayloadTooLarge, match="1000 bytes"):
        tus.announced_size({"upload-length": "1001"}, 1000)


# --- checksums ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_checksum_is_an_algorithm_and_its_digest_in_base64(algorithm):
    digest = hashlib.new(algorithm, b"hello world").digest()
    assert tus.checksum({"upload-checksum": f"{algorithm} {b64(digest)}"}) == Checksum(algorithm, digest)


def test_the_specifications_own_example():
    found = tus.checksum({"upload-checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="})
    assert found == Checksum("sha1", hashlib.sha1(b"hello world").digest())


def test_no_checksum_is_none():
    assert tus.checksum({}) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha1",
        "md5 XrY7u+Ae7tCTyyK7j1rNww==",
        "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0",
        "sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 Kq5sNclPz7QV2-lfQIuc6R7oRu0=",
        "sha256 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 ünicode",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=, sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
    ],
)
def test_another_algorithm_or_a_digest_that_is_none_is_refused(text):
    with pytest.raises(InvalidRequest, match="Upload-Checksum"):
        tus.checksum({"upload-checksum": text})


# --- metadata -------------------------------------------------------------------------------------------------


def test_metadata_is_pairs_of_key_and_base64():
    raw = f"filename {b64('Патиенты 2024.csv')},cohort {b64('VACS')}"
    assert tus.metadata(raw) == {"filename": "Патиенты 2024.csv", "cohort": "VACS"}


@pytest.mark.parametrize("raw", ["", " "])
def test_an_empty_header_is_no_metadata(raw):
    assert tus.metadata(raw) == {}


@pytest.mark.parametrize("raw", ["purpose", "purpose ", f"purpose,cohort {b64('A')}", f"cohort {b64('A')},purpose "])
def test_a_value_may_be_empty_with_or_without_its_space(raw):
    assert tus.metadata(raw)["purpose"] == ""


def test_header_lines_that_a_proxy_joined_are_read_too():
    assert tus.metadata(f"cohort {b64('A')}, filename {b64('b')}") == {"cohort": "A", "filename": "b"}


def test_keys_that_mean_nothing_here_may_hold_any_bytes():
    assert tus.metadata(f"relativePath {b64('null')},thumbnail {b64(bytes(range(256)))},x-é".replace("é", "e")) == {}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (f"cohort {b64('A')},cohort {b64('A')}", "twice"),
        (f"other {b64('A')},other {b64('B')}", "twice"),
        (f"cohort {b64('A')},", "key is empty"),
        (f",cohort {b64('A')}", "key is empty"),
        (",", "key is empty"),
        (f"cohört {b64('A')}", "not ASCII"),
        ("cohort VACS!", "not base64"),
        ("cohort VAC", "not base64"),
        (f"cohort {b64('A')} {b64('B')}", "not base64"),
        (f"cohort  {b64('A')}", "not base64"),
        (f"cohort\t{b64('A')}", "key is empty, or not ASCII"),
        ("thumbnail ====", "not base64"),
        (f"filename {b64(bytes([0xFF, 0xFE]))}", "filename is not UTF-8"),
        (f"cohort {b64(bytes([0xC0, 0x80]))}", "cohort is not UTF-8"),
    ],
)
def test_malformed_metadata_is_refused_and_says_why(raw, says):
    with pytest.raises(InvalidRequest, match=says) as caught:
        tus.metadata(raw)
    assert "Upload-Metadata" in caught.value.message


def test_metadata_is_bounded():
    fits = "note " + "A" * (tus.MAX_METADATA_BYTES - 5 - 3)
    fits += "A" * (-(len(fits) - 5) % 4)
    assert tus.metadata(fits[: tus.MAX_METADATA_BYTES]) == {}
    with pytest.raises(InvalidRequest, match="at most 4096 bytes"):
        tus.metadata("note " + "A" * tus.MAX_METADATA_BYTES)


def test_uppys_type_and_the_usual_filetype_are_the_content_type():
    assert tus.media_type({"type": "text/csv"}) == "text/csv"
    assert tus.media_type({"filetype": "text/csv; charset=utf-8", "type": "application/json"}).startswith("text/csv")
    assert tus.media_type({"type": "", "filetype": ""}) is None


@pytest.mark.parametrize(
    "told", ["patient", "text/csv\r\nX-Evil: 1", "text/csv\n", "text/", "a/b/c", "text/csv;", "té/xt"]
)
def test_a_filetype_that_is_no_media_type_is_refused(told):
    with pytest.raises(InvalidRequest, match="media type"):
        tus.media_type({"filetype": told})


def test_a_digest_of_the_whole_file_is_64_hexadecimal_digits():
    assert tus.sha256({"sha256": "AB" * 32}) == "ab" * 32
    assert tus.sha256({}) is tus.sha256({"sha256": ""}) is None
    for wrong in ("ab" * 31, "xy" * 32, "ab" * 32 + "\n"):
        with pytest.raises(InvalidRequest, match="sha256"):
            tus.sha256({"sha256": wrong})


def test_an_idempotency_key_is_visible_ascii():
    assert tus.idempotency_key({"idempotency-key": "a-1"}) == "a-1"
    assert tus.idempotency_key({}) is None
    for wrong in ("", "a b", "a" * 256, "é"):
        with pytest.raises(InvalidRequest, match="Idempotency-Key"):
            tus.idempotency_key({"idempotency-key": wrong})


# --- concatenation --------------------------------------------------------------------------------------------


def test_no_header_is_an_ordinary_upload():
    assert tus.concat(None, HOST, BASE) is None


def test_partial_is_partial():
    assert tus.concat("partial", HOST, BASE) == tus.Concat(final=False)


@pytest.mark.parametrize(
    "listed",
    [
        "/uploads/a /uploads/b",
        "https://depot.example/uploads/a http://depot.example/uploads/b",
        "https://depot.example:443/uploads/a http://depot.example:80/uploads/b",
        "//depot.example/uploads/a https://DEPOT.example/uploads/b",
        "uploads/a ./uploads/b",
    ],
)
def test_final_names_uploads_by_path_or_by_address_in_their_order(listed):
    assert tus.concat(f"final;{listed}", HOST, BASE) == tus.Concat(final=True, upload_ids=("a", "b"))


def test_a_stage_before_the_path_counts_and_so_does_a_port():
    found = tus.concat(
        "final;/api/uploads/a http://depot.example:8000/api/uploads/b", "depot.example:8000", "/api/uploads"
    )
    assert found.upload_ids == ("a", "b")


def test_a_port_that_a_proxy_did_not_pass_on_is_no_obstacle():
    assert tus.concat("final;https://depot.example:8443/uploads/a", HOST, BASE).upload_ids == ("a",)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "final",
        "final;",
        "final; ",
        "Final;/uploads/a",
        "partial;",
        "PARTIAL",
        "final;/uploads/a,/uploads/b",
        "final;/uploads/a  /uploads/b",
        "final;/uploads/",
        "final;/uploads",
        "final;/files/a",
        "final;/uploads/a/b",
        "final;/uploads/a?x=1",
        "final;/uploads/a#x",
        "final;/uploads/a%2fb",
        "final;/uploads/..",
        "final;/uploads/a\t",
        "final;https://other.example/uploads/a",
        "final;https://depot.example.evil/uploads/a",
        "final;https://depot.example@evil.example/uploads/a",
        "final;https://user@depot.example/uploads/a",
        "final;ftp://depot.example/uploads/a",
        "final;javascript:/uploads/a",
        "final;https://depot.example:nine/uploads/a",
        "final;https://[depot.example/uploads/a",
        "final;/uploads/é",
    ],
)
def test_other_servers_and_malformed_lists_are_refused(raw):
    with pytest.raises(InvalidRequest, match="Upload-Concat"):
        tus.concat(raw, HOST, BASE)


def test_two_ports_are_two_servers():
    with pytest.raises(InvalidRequest):
        tus.concat("final;http://127.0.0.1:8001/uploads/a", "127.0.0.1:8000", BASE)


def test_the_same_partial_twice_is_refused_because_it_is_gone_after_the_first_time():
    with pytest.raises(InvalidRequest, match="twice"):
        tus.concat("final;/uploads/a /uploads/b /uploads/a", HOST, BASE)


def test_the_list_is_bounded_and_sixty_four_partial_uploads_fit():
    paths = [f"/uploads/{number:032x}" for number in range(64)]
    assert len(tus.concat("final;" + " ".join(paths), HOST, BASE).upload_ids) == 64
    with pytest.raises(InvalidRequest, match="Fewer"):
        tus.concat("final;" + " ".join(paths * 2), HOST, BASE)
