"""tus 1.0.0, concatenation: partial uploads, side by side, become one file in the order that the last request names."""

import random
import threading

import pytest

from chalicelib.limits import MIB
from tests.support.client import code, fresh_name
from tests.support.tus_client import Tus, about


@pytest.fixture(scope="module")
def tus(web) -> Tus:
    return Tus(web)


def partial(tus: Tus, body: bytes) -> str:
    path = tus.opened(len(body), upload_metadata=None, upload_concat="partial")
    if body:
        answer = tus.patch(path, 0, body)
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(len(body))), answer.text
    return path


def joined(tus: Tus, paths, **told):
    return tus.create(None, upload_concat="final;" + " ".join(paths), **told)


def test_partial_uploads_become_one_file_in_the_order_named(tus, web):
    first, second = partial(tus, b"hello"), partial(tus, b" world")
    raw = about()
    final = joined(tus, [first, second], upload_metadata=raw)
    assert final.status_code == 201, final.text
    assert tus.content(final) == b"hello world"
    head = tus.head(final.headers["Location"])
    assert head.headers["Upload-Length"] == head.headers["Upload-Offset"] == "11"
    assert head.headers["Upload-Concat"] == f"final;{first} {second}"
    assert head.headers["Upload-Metadata"] == raw
    other = joined(tus, [partial(tus, b" world"), partial(tus, b"hello")])
    assert tus.content(other) == b" worldhello"


def test_a_partial_upload_says_that_it_is_one_and_needs_no_metadata(tus):
    path = tus.opened(11, upload_metadata=None, upload_concat="partial")
    tus.patch(path, 0, b"hello")
    head = tus.head(path)
    assert (head.headers["Upload-Concat"], head.headers["Upload-Offset"]) == ("partial", "5")


def test_first_bytes_and_deferred_lengths_work_for_partial_uploads_too(tus):
    first = tus.create(5, b"hello", upload_metadata=None, upload_concat="partial")
    second = tus.opened(None, upload_metadata=None, upload_concat="partial", upload_defer_length=1)
    tus.patch(second, 0, b" world", upload_length=6)
    final = joined(tus, [first.headers["Location"], second])
    assert tus.content(final) == b"hello world"


def test_pieces_of_any_size_sent_side_by_side(web, tus):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pieces = [rng.randbytes(size) for size in (5 * MIB + 3, 1, 9 * MIB, 100)]
    paths: dict[int, str] = {}

    def send(number: int) -> None:
        own = Tus(type(web)(web.url, dict(web.session.headers)))
        paths[number] = partial(own, pieces[number])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(pieces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    final = joined(tus, [web.url + paths[number] for number in range(len(pieces))])
    assert final.status_code == 201, final.text
    assert tus.content(final) == b"".join(pieces)


def test_a_final_upload_takes_no_bytes(tus):
    final = joined(tus, [partial(tus, b"hello"), partial(tus, b" world")])
    path = final.headers["Location"]
    for offset, body in ((11, b"!"), (11, b""), (0, b"hello"), (5, b"")):
        answer = tus.patch(path, offset, body)
        assert (answer.status_code, code(answer)) == (403, "forbidden")
    assert tus.content(final) == b"hello world"


@pytest.mark.parametrize("told", [{"upload_length": 5}, {"upload_defer_length": 1}])
def test_a_final_upload_must_not_say_a_length(tus, told):
    answer = joined(tus, [partial(tus, b"hello")], **told)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


def test_a_final_upload_must_not_bring_bytes(tus):
    answer = tus.create(None, b"x", upload_concat=f"final;{partial(tus, b'hello')}")
    assert (answer.status_code, code(answer)) == (400, "invalid_request")


@pytest.mark.parametrize(
    "what",
    [
        "an empty one",
        "an unfinished one",
        "an ordinary one",
        "another user's",
        "no upload",
        "another server's",
        "a file",
    ],
)
def test_only_finished_partial_uploads_of_ones_own_are_joined(tus, as_user, what):
    finished = partial(tus, b"hello")
    if what == "an empty one":
        wrong = tus.opened(5, upload_metadata=None, upload_concat="partial")
    elif what == "an unfinished one":
        wrong = tus.opened(5, upload_metadata=None, upload_concat="partial")
        assert tus.patch(wrong, 0, b"hell").status_code == 204
    elif what == "an ordinary one":
        wrong = tus.opened(5)
    elif what == "another user's":
        wrong = partial(Tus(as_user("uploader", "VACS")), b"hello")
    else:
        addresses = {"another server's": "https://other.example/uploads/a", "a file": "/files/a"}
        wrong = addresses.get(what, "/uploads/" + "0" * 32)
    answer = joined(tus, [finished, wrong])
    assert answer.status_code == 400, answer.headers
    assert code(answer) == "invalid_request"
    assert tus.content(joined(tus, [finished])) == b"hello"


def test_a_concatenation_asked_for_twice_is_the_same_file(tus):
    paths = [partial(tus, b"hello"), partial(tus, b" world")]
    asked = {"upload_metadata": about(), "idempotency_key": fresh_name("")}
    first, again = joined(tus, paths, **asked), joined(tus, paths, **asked)
    assert (again.status_code, again.headers["Location"]) == (201, first.headers["Location"])
    assert again.headers["X-Depot-File-Id"] == first.headers["X-Depot-File-Id"]
    assert tus.content(again) == b"hello world"


def test_the_final_uploads_metadata_is_checked_and_so_is_the_permission(tus, as_user):
    own = Tus(as_user("uploader", "SITE-3"))
    path = partial(own, b"hello")
    assert joined(own, [path], upload_metadata=None).status_code == 400
    assert joined(own, [path], upload_metadata=about(cohort="VACS")).status_code == 403
    assert joined(own, [path], upload_metadata=about(cohort="SITE-3")).status_code == 201


def test_who_may_upload_nowhere_may_not_store_partial_uploads_either(as_user):
    for role in ("reader", "auditor", "operator"):
        answer = Tus(as_user(role, "VACS")).create(5, upload_metadata=None, upload_concat="partial")
        assert (answer.status_code, code(answer)) == (403, "forbidden"), role


def test_a_partial_upload_can_be_terminated_before_and_after_its_end(tus):
    begun = tus.opened(5, upload_metadata=None, upload_concat="partial")
    for path in (begun, partial(tus, b"hello")):
        assert tus.delete(path).status_code == 204
        assert tus.head(path).status_code in (404, 410)
