"""Legal holds: what they stop, who may set and lift them, and that no race gets past one."""

from __future__ import annotations

import random
import threading

import pytest

from chalicelib.errors import (
    DepotError,
    FileMissing,
    Forbidden,
    HoldExists,
    HoldMissing,
    InvalidRequest,
    OnHold,
    StorageUnavailable,
    UploadInProgress,
)
from chalicelib.storage.streams import BytesReader, IteratorReader
from chalicelib.storage.uploads import NewUpload
from nas_gateway.cleanup.holds import Scope
from nas_gateway.files.access import Call
from nas_gateway.files.placement import place
from nas_gateway.files.registry import claim_key
from nas_gateway.files.tables import Hold, PathClaim, State, TrackedFile
from nas_gateway.ledger import queries
from nas_gateway.ledger.tables import OpenOperation
from tests.support.cleaning import site
from tests.support.crash import counted_dynamodb
from tests.support.gateway import outcomes, user

__all__ = ["site"]

PATH = "submissions/VACS/2024/patient/p.csv"
COHORT, WHY = Scope(cohort="VACS"), "a letter of 3 May"


def stored(site, data=b"held"):
    return site.save(PATH, data, disk="submissions")


def on(saved, kind):
    return Scope(file_id=saved.file_id) if kind == "file" else COHORT


def still_there(site, saved, data=b"held"):
    assert site.gateway.transfers.disk("submissions").get_file(PATH) == data
    assert site.row(saved.file_id).state == State.AVAILABLE
    assert list(OpenOperation.scan()) == []


KINDS = pytest.mark.parametrize("kind", ["file", "cohort"])


# --- what a hold stops ------------------------------------------------------------------------------------------------


@KINDS
def test_a_held_file_is_not_deleted_until_the_hold_is_lifted(site, kind):
    saved = stored(site)
    site.gateway.holds.set(Call(), on(saved, kind), WHY)
    transfers = site.gateway.transfers
    for call in (Call(), user("superuser"), user("cohort_manager", "VACS")):
        with pytest.raises(OnHold):
            transfers.delete(call, "submissions", PATH)
    assert transfers.delete_prefix(Call(), "submissions", "submissions", dry_run=False)[:2] == ([], {PATH: "on_hold"})
    still_there(site, saved)
    site.gateway.holds.lift(Call(), on(saved, kind), "it was settled")
    transfers.delete(Call(), "submissions", PATH)
    assert site.paths("submissions") == []


def test_of_another_cohort_nothing_is_told_not_even_that_it_is_held(site):
    saved = stored(site)
    site.gateway.holds.set(Call(), on(saved, "file"), WHY)
    with pytest.raises(FileMissing):
        site.gateway.transfers.delete(user("cohort_manager", "OTHER"), "submissions", PATH)


@KINDS
def test_a_held_file_is_not_replaced_by_an_upload(site, kind):
    saved = stored(site)
    site.gateway.holds.set(Call(), on(saved, kind), WHY)
    with pytest.raises(OnHold):
        site.save(PATH, b"new", disk="submissions")
    with pytest.raises(OnHold):
        site.gateway.uploads.create(Call(), NewUpload(disk="submissions", path=PATH, size=3, if_absent=False))
    still_there(site, saved)


def test_a_cohorts_hold_that_comes_while_a_session_is_open_stops_its_completion(site):
    saved = stored(site)
    new = NewUpload(disk="submissions", path=PATH, size=3, if_absent=False)
    status = site.gateway.uploads.create(Call(), new)
    site.gateway.holds.set(Call(), COHORT, WHY)
    with pytest.raises(OnHold):
        site.gateway.uploads.append(Call(), status.upload_id, 0, BytesReader(b"new"))
    still_there(site, saved)
    assert site.row(status.upload_id).state == State.FAILED
    assert list(site.gateway.transfers.disk("submissions").open_uploads()) == []


def test_a_cohorts_hold_that_comes_while_the_bytes_are_on_their_way_keeps_the_row_and_is_an_alarm(site, capsys):
    """The old bytes are gone by then, on a store without versions: that must not look like an ordinary replacement."""
    saved = stored(site)

    def source():
        yield b"new"
        site.gateway.holds.set(Call(), COHORT, WHY)

    with pytest.raises(OnHold):
        site.gateway.transfers.upload(Call(), place("submissions", PATH), IteratorReader(source()))
    assert site.row(saved.file_id).state == State.AVAILABLE
    assert '"held_file_overwritten"' in capsys.readouterr().err
    assert list(OpenOperation.scan()) == []


def test_a_file_that_an_upload_is_replacing_takes_no_hold_until_that_has_ended(site):
    saved = stored(site)

    def source():
        yield b"new"
        with pytest.raises(UploadInProgress):
            site.gateway.holds.set(Call(), on(saved, "file"), WHY)

    site.gateway.transfers.upload(Call(), place("submissions", PATH), IteratorReader(source()))
    with pytest.raises(FileMissing):
        site.gateway.holds.set(Call(), on(saved, "file"), WHY)
    assert Hold.count() == 0


def test_an_upload_that_slept_past_its_lease_cannot_replace_a_file_that_was_held_meanwhile(site):
    saved = stored(site)

    def source():
        yield b"slow"
        claim = PathClaim.get(claim_key("submissions", PATH))
        claim.update([PathClaim.pending_until.set(0)])
        site.gateway.holds.set(Call(), on(saved, "file"), WHY)

    with pytest.raises(DepotError):
        site.gateway.transfers.upload(Call(), place("submissions", PATH), IteratorReader(source()))
    assert site.row(saved.file_id).state == State.AVAILABLE


def test_a_deletion_that_failed_waits_for_a_cohorts_hold_that_came_since(site, monkeypatch):
    saved = stored(site)

    def away(path):
        raise StorageUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(site.gateway.transfers.disk("submissions"), "erase", away)
        with pytest.raises(StorageUnavailable):
            site.gateway.transfers.delete(Call(), "submissions", PATH)
    site.gateway.holds.set(Call(), COHORT, WHY)
    site.later(2)
    report = site.gateway.cleanup._sweep().run()
    assert (report.repaired, report.skipped) == ({}, 1)
    assert [item["reason"] for item in site.plan()["skipped"]] == ["on_hold"]
    assert site.paths("submissions") == [PATH]
    with pytest.raises(FileMissing):  # its deletion was recorded before
        site.gateway.holds.set(Call(), on(saved, "file"), WHY)
    site.gateway.holds.lift(Call(), COHORT, WHY)
    assert site.clean() == {saved.file_id: "deleted"}


# --- setting and lifting ----------------------------------------------------------------------------------------------


def test_a_hold_is_in_the_ledger_with_who_and_why(site):
    saved = stored(site)
    site.gateway.holds.set(user("administrator"), on(saved, "file"), WHY)
    site.gateway.holds.lift(user("superuser"), on(saved, "file"), "settled")
    told = [
        (event.action, event.outcome, event.user, event.cohort, event.metadata["reason"])
        for event in queries.query(file_id=saved.file_id).events[2:]
    ]
    assert told == [
        ("hold_set", "completed", "administrator-of-none", "VACS", WHY),
        ("hold_lifted", "completed", "superuser-of-none", "VACS", "settled"),
    ]


def test_holds_are_listed_oldest_first(site):
    saved = stored(site)
    site.gateway.holds.set(Call(), COHORT, WHY)
    site.later(1)
    site.gateway.holds.set(user("administrator"), on(saved, "file"), "another")
    first, second = site.gateway.holds.list(user("auditor"))
    assert (first["scope"], first["cohort"], first["file_id"], first["reason"]) == ("cohort:VACS", "VACS", None, WHY)
    assert (second["file_id"], second["cohort"], second["set_by"]) == (saved.file_id, None, "administrator-of-none")


def test_a_hold_is_set_once_and_lifted_once(site):
    site.gateway.holds.set(Call(), COHORT, WHY)
    with pytest.raises(HoldExists):
        site.gateway.holds.set(Call(), COHORT, "again")
    site.gateway.holds.lift(Call(), COHORT, WHY)
    with pytest.raises(HoldMissing):
        site.gateway.holds.lift(Call(), COHORT, WHY)


@pytest.mark.parametrize("role", ["cohort_manager", "operator", "auditor", "uploader", "reader"])
def test_only_administrators_set_and_lift(site, role):
    call = user(role, "VACS")
    for act in (site.gateway.holds.set, site.gateway.holds.lift):
        with pytest.raises(Forbidden):
            act(call, COHORT, WHY)
    if role != "auditor":
        with pytest.raises(Forbidden):
            site.gateway.holds.list(call)
    assert ("access_denied", "failed") in outcomes(action="access_denied")


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 501])
def test_a_hold_needs_a_reason_of_one_line(site, reason):
    with pytest.raises(InvalidRequest, match="reason"):
        site.gateway.holds.set(Call(), COHORT, reason)


def test_a_hold_is_on_one_thing():
    for both in ({}, {"file_id": "f", "cohort": "c"}):
        with pytest.raises(InvalidRequest):
            Scope(**both)


# --- races ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@KINDS
def test_no_interleaving_lets_a_held_file_go(site, kind):
    """Whoever's transaction is first wins: a hold that was set keeps the file, a deletion that was recorded lets none be set."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance, won = random.Random(seed), {"held": 0, "deleted": 0}
    with counted_dynamodb():
        for number in range(100):
            path = f"scratch/{number}.csv"
            saved = site.save(path, metadata={"cohort": f"C{number}"})
            scope = Scope(file_id=saved.file_id) if kind == "file" else Scope(cohort=f"C{number}")
            told = race(
                chance,
                hold=lambda scope=scope: site.gateway.holds.set(Call(), scope, WHY),
                delete=lambda path=path: site.gateway.transfers.delete(Call(), "scratch", path),
            )
            there = site.gateway.transfers.disk("scratch").exists(path)
            if isinstance(told["delete"], OnHold):
                won["held"] += 1
                assert there
                assert not isinstance(told["hold"], Exception)
            else:
                won["deleted"] += 1
                assert not isinstance(told["delete"], Exception), told
                assert not there
                # A hold on the file came too late, or not at all; one on the cohort is for those that are left.
                assert kind == "cohort" or isinstance(told["hold"], (FileMissing, UploadInProgress)), told
    print(won)
    assert min(won.values()) > 0
    held = {row.file_id for row in TrackedFile.scan() if row.state == State.AVAILABLE}
    assert len(held) == won["held"]


def race(chance, **acts):
    """Both at once, one of them a little ahead by a random number of calls: what each returned or raised."""
    told, gate = {}, threading.Barrier(len(acts))

    def run(name, act, spin):
        gate.wait()
        for _ in range(spin):
            threading.Event().wait(0.0005)
        try:
            told[name] = act()
        except DepotError as error:
            told[name] = error

    threads = [
        threading.Thread(target=run, args=(name, act, chance.randrange(60)))
        for name, act in sorted(acts.items(), key=lambda item: chance.random())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told
