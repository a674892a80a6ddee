"""The path rules: what is normalised, what is refused, where files live."""

import unicodedata

import pytest

from chalicelib.errors import InvalidPath
from chalicelib.storage import paths
from tests.support.conformance import BAD_PATHS, BAD_PREFIXES


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
def test_bad_paths_are_refused_without_repeating_them(path):
    with pytest.raises(InvalidPath) as caught:
        paths.normalise(path)
    assert "passwd" not in str(caught.value)


@pytest.mark.parametrize("character", ["\x01", "\x7f", "\x85", "\u2028", "\u2029", "\u200d", "\u2066", "\ufeff", "\t"])
def test_control_and_invisible_characters_are_refused(character):
    with pytest.raises(InvalidPath):
        paths.normalise(f"a/{character}b")


@pytest.mark.parametrize("path", [" ", "a/ /b", "a/.. /b", "a/ ./b", None, 5, b"a"])
def test_blank_dotted_and_foreign_values_are_refused(path):
    with pytest.raises(InvalidPath):
        paths.normalise(path)


@pytest.mark.parametrize("path", ["a", "a/b.csv", "é/日本/😀", "a..b", "..a", "a b", ".hidden", "%2e%2e", "e" * 255])
def test_plain_names_stay_as_they_are(path):
    assert paths.normalise(path) == path


def test_twins_become_one():
    apart = unicodedata.normalize("NFD", "Zoë/é.csv")
    assert paths.normalise(apart) == "Zoë/é.csv" != apart


def test_the_length_counts_in_bytes_after_normalising():
    longest = "/".join(["é" * 100] * 5) + "/" + "e" * 19
    assert len(longest.encode()) == 1024
    assert paths.normalise(unicodedata.normalize("NFD", longest)) == longest
    with pytest.raises(InvalidPath):
        paths.normalise(longest + "e")


@pytest.mark.parametrize("path", [".depot", ".depot-stage/x", ".depotfoo/y"])
def test_bookkeeping_names_are_reserved_at_the_top_only(path):
    with pytest.raises(InvalidPath):
        paths.normalise(path)
    assert paths.normalise("a/" + path) == "a/" + path


def test_a_prefix_is_a_folder():
    assert paths.normalise_prefix("a/b") == paths.normalise_prefix("a/b/") == "a/b/"
    assert paths.normalise_prefix("", allow_empty=True) == ""
    with pytest.raises(InvalidPath):
        paths.normalise_prefix("")


@pytest.mark.parametrize("prefix", BAD_PREFIXES.values(), ids=BAD_PREFIXES)
@pytest.mark.parametrize("allow_empty", [True, False])
def test_bad_prefixes_are_refused(prefix, allow_empty):
    with pytest.raises(InvalidPath):
        paths.normalise_prefix(prefix, allow_empty=allow_empty)


def test_where_files_live():
    assert paths.submission_path("VACS", "2024", "patient", "p v2.csv") == "submissions/VACS/2024/patient/p v2.csv"
    assert paths.precheck_path("42", "d.csv") == "upload_prechecks/42/d.csv"
    assert paths.scratch_path("7", "d.csv") == "scratch/audit_7/d.csv"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a\0"])
def test_no_part_of_a_layout_can_leave_its_folder(name):
    good = ("VACS", "2024", "patient", "f.csv")
    for index in range(4):
        with pytest.raises(InvalidPath):
            paths.submission_path(*good[:index], name, *good[index + 1 :])
    for build in (paths.precheck_path, paths.scratch_path):
        with pytest.raises(InvalidPath):
            build(name, "f.csv")
        with pytest.raises(InvalidPath):
            build("1", name)


def test_an_error_says_which_part_is_wrong():
    with pytest.raises(InvalidPath, match="protocol_year"):
        paths.submission_path("VACS", "", "patient", "f.csv")
