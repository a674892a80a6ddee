"""The parts of `depot upload` and `download` that need no server."""

from __future__ import annotations

import doctest
import io
import json
import os
import random
import threading
from pathlib import Path

import pytest

from chalicelib.cli.client import failures, names, pieces, signin, tus
from chalicelib.cli.client.failures import Failure, Stopped
from chalicelib.cli.client.jobs import Stop, in_order
from chalicelib.cli.client.progress import LINE_SECONDS, Lines, Task
from chalicelib.cli.client.retry import LONGEST_ASKED, Retry
from chalicelib.cli.client.signin import Credentials, Terminal, credentials, server_url
from chalicelib.errors import SettingsError

BROKEN = Failure("connection_broken", "It broke.", retryable=True)


def test_the_examples_in_the_documentation_hold() -> None:
    for module in (names, pieces):
        assert doctest.testmod(module).failed == 0


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_any_name_becomes_one_plain_segment(seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    alphabet = "ab./\\:\0\n\x1b\u202e\u200b~*?é漢 "
    for _ in range(2000):
        name = names.safe_name("".join(chance.choices(alphabet, k=chance.randrange(300))), "fallback")
        assert name == os.path.basename(name)
        assert "\\" not in name
        assert not name.startswith(".")
        assert 1 <= len((name + names.PART_SUFFIX).encode()) <= 255
        assert names.shown(name) == name


def test_a_long_name_keeps_its_extension() -> None:
    name = names.safe_name("ü" * 300 + ".csv", "id")
    assert name.endswith("ü.csv")
    assert 240 <= len(name.encode()) <= 250


# --- retry -----------------------------------------------------------------------------------------------------------


def retry_with(limit: int, stopped: bool = False) -> tuple[Retry, list[float], list[str]]:
    waits: list[float] = []
    notices: list[str] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return stopped

    return Retry(limit, wait, notices.append, uniform=lambda low, high: high), waits, notices


def test_waits_double_up_to_half_a_minute_and_the_last_failure_is_raised() -> None:
    retry, waits, notices = retry_with(9)
    for _ in range(9):
        retry.failed(BROKEN)
    with pytest.raises(Failure, match="It broke"):
        retry.failed(BROKEN)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert notices[0] == "It broke. Trying again in 0.5 s (1 of 9)."


def test_progress_sets_the_count_back() -> None:
    retry, waits, _ = retry_with(1)
    for _ in range(5):
        retry.failed(BROKEN)
        retry.progress()
    assert waits == [0.5] * 5


def test_what_cannot_be_cured_is_raised_at_once() -> None:
    retry, waits, _ = retry_with(9)
    with pytest.raises(Failure):
        retry.failed(Failure("forbidden", "No.", status=403))
    assert waits == []


def test_the_server_may_ask_for_a_longer_wait_within_reason() -> None:
    retry, waits, _ = retry_with(9)
    for asked in (7.0, 1e9):
        retry.failed(Failure("x", "x", retryable=True, retry_after=asked))
    assert waits == [7.0, LONGEST_ASKED]


def test_a_wait_ends_when_the_run_is_stopped() -> None:
    retry, _, _ = retry_with(9, stopped=True)
    with pytest.raises(Stopped):
        retry.failed(BROKEN)


# --- what an answer means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable"),
    [
        (503, {"error": {"code": "storage_unavailable", "message": "Busy."}}, "storage_unavailable", True),
        (409, {"error": {"code": "upload_locked", "message": "Wait."}}, "upload_locked", True),
        (409, {"error": {"code": "file_exists", "message": "Taken."}}, "file_exists", False),
        (502, "<html>", "http_502", True),
        (404, "<html>", "http_404", False),
        (403, [], "http_403", False),
        (429, {"error": "text"}, "http_429", True),
    ],
)
def test_an_answer_says_whether_to_try_again(status: int, body: object, code: str, retryable: bool) -> None:
    failure = failures.of_answer(status, {}, json.dumps(body).encode())
    assert (failure.code, failure.retryable, failure.status) == (code, retryable, status)


def test_a_message_cannot_move_the_cursor() -> None:
    body = json.dumps({"error": {"code": "x", "message": "\x1b[2J\u202eNo.", "request_id": "\x07"}})
    failure = failures.of_answer(400, {"Retry-After": "nonsense"}, body.encode())
    assert failure.message == "?[2J?No. (request ?)"
    assert failure.retry_after is None


def test_metadata_is_base64_of_utf_8() -> None:
    assert tus.encoded({"filename": "Ü.csv", "cohort": "VACS"}) == "filename w5wuY3N2,cohort VkFDUw=="


# --- where and who ----------------------------------------------------------------------------------------------------------


def terminal(*answers: str, usable: bool = True) -> Terminal:
    left = list(answers)
    return Terminal(lambda: usable, lambda prompt: left.pop(0), lambda prompt: left.pop(0))


def test_who_signs_in_is_found_in_this_order() -> None:
    full = {"DEPOT_TOKEN": " t ", "DEPOT_USERNAME": "u", "DEPOT_PASSWORD": "p"}
    assert credentials(full, terminal()) == Credentials(token="t")
    assert credentials({**full, "DEPOT_TOKEN": ""}, terminal()) == Credentials(username="u", password="p")
    assert credentials({"DEPOT_USERNAME": "u"}, terminal("asked")) == Credentials(username="u", password="asked")
    assert credentials({}, terminal("me", "asked")) == Credentials(username="me", password="asked")


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, terminal(usable=False)),
        ({}, terminal("", "p")),
        ({}, terminal("u", "")),
        ({"DEPOT_TOKEN": "a b"}, terminal()),
    ],
)
def test_nobody_to_sign_in_is_a_setting_that_is_missing(environ: dict[str, str], asked: Terminal) -> None:
    with pytest.raises(SettingsError):
        credentials(environ, asked)


def test_secrets_do_not_show() -> None:
    assert "secret" not in repr(Credentials("secret", "secret", "secret"))


def test_where_the_server_is_is_found_in_this_order(tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text('{"web_url": "http://127.0.0.1:7"}')
    environ = {"DEPOT_URL": "https://env.example/"}
    assert server_url("https://option.example/", environ, tmp_path, insecure=False) == "https://option.example"
    assert server_url(None, environ, tmp_path, insecure=False) == "https://env.example"
    assert server_url(None, {}, tmp_path, insecure=False) == "http://127.0.0.1:7"
    with pytest.raises(SettingsError, match="--url or DEPOT_URL"):
        server_url(None, {}, tmp_path / "none", insecure=False)


@pytest.mark.parametrize(
    "url",
    [
        "depot",
        "ftp://x",
        "http://",
        "https://u:p@x",
        "https://x?a=1",
        "https://x#f",
        "https://x:99999",
        "http://10.0.0.1",
    ],
)
def test_a_bad_address_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^DEPOT_URL must") as error:
        server_url(None, {"DEPOT_URL": url}, tmp_path, insecure=False)
    assert "u:p" not in error.value.message


def test_plain_http_beyond_this_machine_must_be_asked_for(tmp_path: Path) -> None:
    assert server_url("http://10.0.0.1", {}, tmp_path, insecure=True) == "http://10.0.0.1"
    for here in ("http://127.0.0.1:8000", "http://localhost", "http://[::1]:8000"):
        assert server_url(here, {}, tmp_path, insecure=False) == here
    assert not signin.is_loopback("http://127.0.0.1.example.org")
    assert not signin.is_loopback("http://localhost.example.org")


# --- jobs ------------------------------------------------------------------------------------------------------------------


def test_results_come_in_order_whoever_is_first() -> None:
    second_done = threading.Event()

    def first() -> int:
        assert second_done.wait(30)
        return 1

    def second() -> int:
        second_done.set()
        return 2

    assert list(in_order([first, second], 2, Stop())) == [1, 2]


def test_no_more_run_at_a_time_than_allowed() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def job() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1

    list(in_order([job] * 50, 3, Stop()))
    assert 1 <= most <= 3


def test_an_error_stops_the_others_and_is_raised() -> None:
    stop, seen = Stop(), threading.Event()

    def fails() -> None:
        raise ValueError("bug")

    def waits() -> None:
        assert stop.wait(30)
        seen.set()

    with pytest.raises(ValueError, match="bug"):
        list(in_order([fails, waits], 2, stop))
    assert seen.is_set()


def test_the_end_of_a_part_is_not_the_end_of_the_whole() -> None:
    whole = Stop()
    part = whole.child()
    part.set()
    assert not whole.is_set()
    whole.set()
    assert whole.child().is_set()
    other = Stop()
    child = other.child()
    other.set()
    assert child.is_set()
    with pytest.raises(Stopped):
        list(in_order([lambda: None], 1, child))


# --- progress --------------------------------------------------------------------------------------------------------------


def test_lines_on_progress_come_rarely_and_not_at_all_when_quiet() -> None:
    now = [0.0]
    for quiet, expected in ((False, "a: 60 bytes of 100 bytes (60 %)\na: note\n"), (True, "a: note\n")):
        err, out = io.StringIO(), io.StringIO()
        lines = Lines(out, err, quiet=quiet, clock=lambda: now[0])
        with Task(lines, "a", 100) as task:
            part, other = task.part(), task.part()
            part.moved(40)
            now[0] += LINE_SECONDS
            other.to(20)
            part.to(30)
            task.notice("note")
        assert err.getvalue() == expected
        assert out.getvalue() == ""
