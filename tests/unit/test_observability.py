"""Log lines carry what is on the list, and nothing else."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from chalicelib import observability as o


def lines(capture: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capture.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_keys_that_are_not_on_the_list_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    o.log_event("moved", size=3, path="/nas/canary", filename="canary", file_id="f1", body=b"canary", status=None)
    (line,) = lines(capsys)
    assert {key: line[key] for key in ("message", "size", "file_id", "level")} == {
        "message": "moved", "size": 3, "file_id": "f1", "level": "INFO",
    }  # fmt: skip
    assert "canary" not in json.dumps(line)
    assert "location" not in line


def test_values_that_are_no_ids_are_dropped_or_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    o.log_event("odd", code="x", state={"canary": 1}, file_id=["canary"], rule="a" * 1000)
    (line,) = lines(capsys)
    assert len(line["rule"]) == 200
    assert not {"state", "file_id"} & set(line)


def test_an_exception_leaves_its_type_and_place_but_not_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise FileNotFoundError(2, "No such file", "/nas/canary.csv")
    except FileNotFoundError as error:
        o.log_exception("failed", error, path="/nas/canary")
    (line,) = lines(capsys)
    assert (line["error_type"], line["level"]) == ("FileNotFoundError", "ERROR")
    assert __name__.rsplit(".", 1)[-1] in line["raised_at"]
    assert "canary" not in json.dumps(line)
    assert "/" not in line["raised_at"]


def test_lines_carry_the_request_they_belong_to(capsys: pytest.CaptureFixture[str]) -> None:
    ready = threading.Barrier(2)

    def work(name: str) -> None:
        o.begin_request(o.RequestRecord(name))
        ready.wait(10)
        o.log_event(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("request-a", "request-b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(line["request_id"] == line["message"] for line in lines(capsys))
    assert o.current_request_id() == "-"


@pytest.mark.parametrize("bad", [None, "", "short", "a" * 65, "white space", "new\nline", "trailing\n" * 2, "ünïcödé1"])
def test_a_request_id_of_another_form_is_replaced(bad: str | None) -> None:
    assert o.request_id_from(bad) != bad
    assert len(o.request_id_from(bad)) == 32
