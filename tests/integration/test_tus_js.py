"""tus-js-client, as it comes from npm, against /uploads through both tiers. `tests/clients/upload.mjs` drives it."""

from pathlib import Path
from typing import Any

import pytest

from chalicelib.limits import KIB, MIB
from tests.support import node
from tests.support.tus_trial import Upload
from tests.support.wire import Link, Wire

pytestmark = pytest.mark.clients

ODD = 20 * MIB + 17
# Milliseconds. The client's own default ends after 9 s; a tier that starts on a busy machine may take longer.
RETRY_DELAYS = [0, 100, *[250] * 200]

Events = list[dict[str, Any]]


def attempt(
    folder: Path, upload: Upload, plan: dict[str, Any], endpoint: str | None, options: Any
) -> tuple[int, Events]:
    """Run the client once: exit code and events. Shows them when the test fails."""
    base = {"endpoint": endpoint or upload.endpoint, "headers": upload.headers, "metadata": upload.metadata}
    given = {**base, "retryDelays": RETRY_DELAYS, **options}
    status, events, complaint = node.run(
        folder, "upload.mjs", {"file": str(upload.source.path), **plan, "options": given}
    )
    for event in events:
        print({name: value for name, value in event.items() if name not in ("headers", "url")})
    print(complaint)
    acknowledged_bytes_stay(events)
    return status, events


def send(
    folder: Path, upload: Upload, plan: dict[str, Any] | None = None, endpoint: str | None = None, **options
) -> Events:
    """Run the client until the upload is done; what it told."""
    status, events = attempt(folder, upload, plan or {}, endpoint, options)
    assert status == 0
    assert events[-1]["event"] == "done"
    return events


def acknowledged_bytes_stay(events: Events) -> None:
    """I1: the offset that a client is told is never below one that it was told before."""
    told: dict[str, int] = {}
    for event in events:
        if event["event"] == "answer" and event["status"] < 300 and "upload-offset" in event["headers"]:
            offset = int(event["headers"]["upload-offset"])
            assert offset >= told.get(event["url"], 0), event
            told[event["url"]] = offset


def requests(events: Events, method: str) -> Events:
    return [event for event in events if event["event"] == "request" and event["method"] == method]


def arrived(upload: Upload, events: Events) -> dict[str, Any]:
    return upload.arrived(events[-1]["url"], events[-1]["headers"])


@pytest.mark.parametrize("source", ["file", "buffer"])
def test_a_file_in_one_request(tiers, js_clients, tmp_path, source):
    upload = tiers.begin(tmp_path, ODD)
    events = send(js_clients, upload, {"source": source})
    assert [event["body"] for event in requests(events, "PATCH")] == [ODD]
    arrived(upload, events)


def test_an_empty_file_needs_no_chunk(tiers, js_clients, tmp_path):
    upload = tiers.begin(tmp_path, 0)
    events = send(js_clients, upload)
    assert requests(events, "PATCH") == []
    arrived(upload, events)


@pytest.mark.parametrize(
    ("size", "chunk"),
    [(ODD, 4 * MIB), (ODD, 5 * MIB - 1), (ODD, 8 * MIB), (ODD, 8 * MIB + 1), (9 * MIB, 100 * KIB)],
    ids=["4 MiB", "5 MiB - 1", "8 MiB", "8 MiB + 1", "100 KiB"],
)
def test_a_file_in_chunks(tiers, js_clients, tmp_path, size, chunk):
    upload = tiers.begin(tmp_path, size)
    events = send(js_clients, upload, chunkSize=chunk)
    assert len(requests(events, "PATCH")) == -(-size // chunk)
    arrived(upload, events)


@pytest.mark.parametrize(("chunk", "patches"), [(64 * MIB, 0), (8 * MIB + 1, 2)], ids=["all of it", "first chunk"])
def test_bytes_that_come_with_the_creation(tiers, js_clients, tmp_path, chunk, patches):
    upload = tiers.begin(tmp_path, ODD)
    events = send(js_clients, upload, chunkSize=chunk, uploadDataDuringCreation=True)
    assert [event["body"] for event in requests(events, "POST")] == [min(chunk, ODD)]
    assert len(requests(events, "PATCH")) == patches
    arrived(upload, events)


# The client waits for ever when a stream's last chunk is a full one, whatever the server.
@pytest.mark.parametrize("size", [1, 8 * MIB + 1, ODD], ids=["1 byte", "8 MiB + 1", "odd"])
def test_a_stream_whose_length_is_told_at_its_end(tiers, js_clients, tmp_path, size):
    upload = tiers.begin(tmp_path, size)
    events = send(js_clients, upload, {"source": "stream"}, chunkSize=4 * MIB, uploadLengthDeferred=True)
    (created,) = [event for event in events if event["event"] == "answer" and event["method"] == "POST"]
    assert "upload-length" not in created["headers"]
    arrived(upload, events)


def test_patch_disguised_as_post(tiers, js_clients, tmp_path):
    upload = tiers.begin(tmp_path, ODD)
    events = send(js_clients, upload, overridePatchMethod=True, chunkSize=8 * MIB + 1)
    assert requests(events, "PATCH") == []
    assert len(requests(events, "POST")) == 4
    arrived(upload, events)


@pytest.mark.parametrize("chunk", [64 * MIB, 3 * MIB], ids=["one request each", "chunks"])
@pytest.mark.parametrize("size", [10, ODD, 30 * MIB], ids=["10 bytes", "odd", "30 MiB"])
def test_three_parts_at_once_become_one_file(tiers, js_clients, tmp_path, size, chunk):
    upload = tiers.begin(tmp_path, size)
    events = send(js_clients, upload, parallelUploads=3, chunkSize=chunk)
    assert len(requests(events, "POST")) == 4
    arrived(upload, events)


def test_the_headers_of_a_file_go_with_each_of_its_parts(tiers, js_clients, tmp_path):
    """A key that is meant for the file must not make one upload of three equal parts."""
    upload = tiers.begin(tmp_path, 3 * MIB)
    headers = {**upload.headers, "Idempotency-Key": upload.filename}
    arrived(upload, send(js_clients, upload, parallelUploads=3, headers=headers))


def test_the_request_id_of_the_client_reaches_the_ledger(tiers, js_clients, tmp_path):
    upload = tiers.begin(tmp_path, 10)
    events = send(js_clients, upload, addRequestId=True)
    (created, last) = [event["headers"]["x-request-id"] for event in events if event["event"] == "answer"]
    arrived(upload, events)
    intent, done = upload.events()[:2]
    assert (intent["request_id"], done["outcome"]) == (created, "completed")
    assert created != last


# --- the user changes their mind -----------------------------------------------------------------------------------

PARALLEL = {"parallelUploads": 3}
WAYS = {"one request": {}, "chunks": {"chunkSize": 5 * MIB - 1}, "three at once": PARALLEL}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_pauses(tiers, js_clients, tmp_path, options):
    upload = tiers.begin(tmp_path, ODD)
    at = sorted(upload.random.randrange(1, ODD) for _ in range(3))
    events = send(js_clients, upload, {"marks": [{"at": number, "does": "pause"} for number in at]}, **options)
    assert sum(event["event"] == "marked" for event in events) == 3
    arrived(upload, events)


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_a_terminated_upload_leaves_nothing(tiers, js_clients, tmp_path, options):
    upload = tiers.begin(tmp_path, ODD)
    terminated(js_clients, upload, options, at=upload.random.randrange(MIB, ODD - MIB))
    assert {outcomes[1:] for outcomes in upload.operations().values()} <= {("failed",), ("completed",)}


def test_terminating_also_deletes_the_parts_that_were_finished(tiers, js_clients, tmp_path):
    upload = tiers.begin(tmp_path, ODD)
    thirds = [{"start": 0, "end": 10}, {"start": 10, "end": 20}, {"start": 20, "end": ODD}]
    terminated(js_clients, upload, {**PARALLEL, "parallelUploadBoundaries": thirds}, at=8 * MIB, answered=2)


def terminated(folder: Path, upload: Upload, options: dict[str, Any], **mark: int) -> None:
    """Start the upload, end it for good at the mark, and look for what is left of it."""
    status, events = attempt(folder, upload, {"marks": [{**mark, "does": "terminate"}]}, None, options)
    assert status == 0
    deleted = {event["url"] for event in requests(events, "DELETE")}
    assert deleted == {event["url"] for event in requests(events, "PATCH")}
    for url in deleted:
        assert upload.head(url).status_code in (404, 410)
    assert upload.trial.web.get("/files", params={"cohort": upload.cohort}).json()["files"] == []
    upload.nothing_stray(0)


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_a_client_that_died_goes_on_from_the_urls_it_stored(tiers, js_clients, tmp_path, options):
    upload, urls = tiers.begin(tmp_path, ODD), str(tmp_path / "urls.json")
    marks = [{"at": upload.random.randrange(6 * MIB, ODD - MIB), "does": "die"}]
    status, first = attempt(js_clients, upload, {"urlStorage": urls, "marks": marks}, None, options)
    assert status == -9
    second = send(js_clients, upload, {"urlStorage": urls, "resume": True}, **options)
    acknowledged_bytes_stay(first + second)
    resumed = {event["url"] for event in requests(second, "HEAD")}
    assert resumed == {event["url"] for event in requests(first, "PATCH")}
    arrived(upload, second)


# --- what goes wrong on the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("tier", ["services", "web"])
def test_a_tier_is_killed_and_comes_back_in_the_middle(breakable, js_clients, tmp_path, tier, options):
    upload = breakable.begin(tmp_path, 24 * MIB + 1)
    killed_at = sorted(upload.random.randrange(MIB, upload.source.size) for _ in range(2))
    print(f"killed at {killed_at}")
    uploads = options.get("parallelUploads", 1)
    with Wire(breakable.stack.document["web_url"], created=uploads) as wire:
        for number in killed_at:
            wire.at(number, lambda link: breakable.replace(tier))
        events = send(js_clients, upload, None, f"{wire.url}/uploads", **options)
        assert wire.pending == 0
    breakable.recover()
    assert len({event["url"] for event in requests(events, "PATCH")}) == uploads
    arrived(upload, events)


def test_a_client_that_asks_while_the_services_tier_is_away_is_told_to_wait(breakable, js_clients, tmp_path):
    """To any other refusal of HEAD it answers with a new upload, whose place the first one holds."""
    upload = breakable.begin(tmp_path, ODD)
    with Wire(breakable.stack.document["web_url"]) as wire:
        wire.at(8 * MIB, lambda link: breakable.kill("services"))
        wire.on_status(423, lambda: breakable.start("services"))
        events = send(js_clients, upload, None, f"{wire.url}/uploads")
        assert wire.pending == 0
    assert len(requests(events, "POST")) == 1
    arrived(upload, events)


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_connections_break(tiers, js_clients, tmp_path, options):
    upload = tiers.begin(tmp_path, ODD)
    with Wire(tiers.stack.document["web_url"], created=options.get("parallelUploads", 1)) as wire:
        for number in sorted(upload.random.randrange(MIB, upload.source.size) for _ in range(5)):
            wire.at(number, Link.reset)
        events = send(js_clients, upload, None, f"{wire.url}/uploads", **options)
        assert wire.pending == 0
    arrived(upload, events)


@pytest.mark.parametrize("options", [WAYS["one request"], WAYS["chunks"]], ids=["one request", "chunks"])
def test_the_answer_to_the_last_chunk_is_lost(tiers, js_clients, tmp_path, options):
    upload = tiers.begin(tmp_path, ODD)
    with Wire(tiers.stack.document["web_url"]) as wire:
        wire.at(upload.source.size, Link.swallow_answer)
        events = send(js_clients, upload, None, f"{wire.url}/uploads", **options)
        assert wire.pending == 0
    arrived(upload, events)


def test_the_answer_to_the_creation_is_lost(tiers, js_clients, tmp_path):
    """The client does not know what it opened, and opens another: the first makes way."""
    upload = tiers.begin(tmp_path, ODD)
    with Wire(tiers.stack.document["web_url"]) as wire:
        wire.at(1, Link.swallow_answer)
        events = send(js_clients, upload, None, f"{wire.url}/uploads")
        assert wire.pending == 0
    assert len(requests(events, "POST")) == 2
    assert sorted(upload.operations().values()) == [("intent", "completed"), ("intent", "failed")]
    upload.only_file()
    upload.nothing_stray(1)


def test_the_answer_to_a_creation_with_a_key_is_lost(tiers, js_clients, tmp_path):
    """The client finds the upload that it does not know it opened."""
    upload = tiers.begin(tmp_path, ODD)
    with Wire(tiers.stack.document["web_url"]) as wire:
        wire.at(1, Link.swallow_answer)
        headers = {**upload.headers, "Idempotency-Key": upload.filename}
        events = send(js_clients, upload, None, f"{wire.url}/uploads", headers=headers)
        assert wire.pending == 0
    assert len(requests(events, "POST")) == 2
    arrived(upload, events)
