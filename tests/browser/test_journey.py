"""What a data manager does in a day, in a real browser: the whole way of a file, with the line cut under it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from chalicelib.limits import MIB
from tests.browser.conftest import Noted, Open
from tests.support.client import Client, fresh_name
from tests.support.stack import RunningStack, wait_until
from tests.support.wire import Link, Wire

SIZE = 300 * 10**6


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 MB that do not repeat; the same in every run."""
    path = tmp_path_factory.mktemp("large") / "cohort-data.csv"
    source = random.Random(2026)
    with path.open("wb") as file:
        left = SIZE
        while left:
            left -= file.write(source.randbytes(min(left, 8 * MIB)))
    return path


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(page: Page, cohort: str) -> None:
    page.get_by_label("Cohort").fill(cohort)
    page.get_by_label("Protocol year").fill("2024")
    page.get_by_label("File type").fill("patient")


def add(page: Page, path: Path) -> None:
    page.locator(".uppy-Dashboard-input").first.set_input_files(path)


def start(page: Page) -> None:
    page.get_by_role("button", name="Upload 1 file").click()


def test_a_large_file_survives_a_cut_line_and_a_reload_and_comes_back_whole(
    browse: Open, tiers: RunningStack, wire: Wire, noted: Noted, large: Path, tmp_path: Path
) -> None:
    noted.allowed = [
        "ERR_CONNECTION_RESET",
        "ERR_EMPTY_RESPONSE",
        "ERR_SOCKET",
        "[Uppy]",
    ]  # the cut, which is the test's own
    cohort, cuts = fresh_name(""), list[int]()

    def cut(link: Link) -> None:
        cuts.append(wire.passed)
        link.reset()

    page = browse(tiers.document["username"], tiers.document["password"])
    page.goto("/app/upload")
    describe(page, cohort)
    add(page, large)
    wire.at(wire.passed + 60 * MIB, cut)
    start(page)
    # It goes on by itself after the cut; then the page is reloaded in the middle.
    wait_until(lambda: page.wait_for_timeout(50) or wire.passed > 150 * MIB, 120, "the upload to go on after the cut")
    assert len(cuts) == 1
    page.on("dialog", lambda dialog: dialog.accept())  # "leave this page?"
    page.reload()
    before = wire.passed
    describe(page, cohort)
    add(page, large)
    start(page)
    receipt = page.locator("#receipts article")
    expect(receipt).to_contain_text("Received: cohort-data.csv", timeout=120_000)
    assert wire.passed - before < SIZE - 50 * MIB, "it went on from where it was"
    digest = digest_of(large)
    expect(receipt).to_contain_text(digest)  # one process saw all of it, in the right order

    receipt.get_by_role("link").first.click()
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download").click()
    back = tmp_path / "back"
    downloading.value.save_as(back)
    assert digest_of(back) == digest
    assert downloading.value.suggested_filename == "cohort-data.csv"
    back.unlink()

    page.reload()
    expect(page.get_by_text("File downloaded via stream").first).to_be_visible()
    expect(page.get_by_text("File uploaded chunked").first).to_be_visible()
    address = page.url
    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("button", name="Delete the file").click()
    expect(page.get_by_role("status")).to_have_text("The file was deleted.")
    noted.allowed.append("404 (Not Found)")
    assert page.goto(address).status == 404
    page.goto(f"/app/audit?file_id={address.rsplit('/', 1)[1]}")
    expect(page.get_by_role("rowheader", name="File deleted via api").first).to_be_visible()


def test_another_cohorts_user_sees_none_of_it(browse: Open, web: Client, as_user, noted: Noted) -> None:
    theirs, mine, name = fresh_name(""), fresh_name(""), fresh_name()
    file_id = web.upload(b"x", name, cohort=theirs).json()["file_id"]
    other = as_user("cohort_manager", mine)
    page = browse()
    token = other.session.headers["Authorization"].split()[1]
    page.context.add_cookies(
        [{"name": "depot_session", "value": token, "url": page.context._impl_obj._options["baseURL"]}]
    )
    page.goto("/app/files")
    expect(page.get_by_text(f"There are no files of {mine} yet.")).to_be_visible()
    assert name not in page.content()
    noted.allowed += ["404 (Not Found)", "403 (Forbidden)"]
    assert page.goto(f"/app/files/{file_id}").status == 404
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    assert page.goto(f"/app/files?cohort={theirs}").status == 403
    assert page.goto(f"/app/audit?cohort={theirs}").status == 403
    assert name not in page.content()


def test_several_files_are_paused_and_go_on(
    browse: Open, tiers: RunningStack, tmp_path: Path, wire: Wire, noted: Noted
) -> None:
    # Who goes on at once may ask for the offset while the bytes before the pause are still being stored; it asks again.
    noted.allowed = ["409 (Conflict)", "423 (Locked)"]
    cohort, source = fresh_name(""), random.Random(7)
    names = [f"{letter}.csv" for letter in "abc"]
    for name in names:
        (tmp_path / name).write_bytes(source.randbytes(30 * MIB))
    page = browse(tiers.document["username"], tiers.document["password"])
    page.goto("/app/upload")
    describe(page, cohort)
    page.locator(".uppy-Dashboard-input").first.set_input_files([tmp_path / name for name in names])
    passed = wire.passed
    held = []
    wire.at(passed + 20 * MIB, lambda link: held.append(page))  # the mark that says it is under way
    page.get_by_role("button", name="Upload 3 files").click()
    wait_until(lambda: page.wait_for_timeout(20) or held, 60, "the upload to be under way")
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("button", name="Resume", exact=True).click()
    for name in names:
        expect(page.locator("#receipts")).to_contain_text(f"Received: {name}", timeout=60_000)
    page.goto(f"/app/files?cohort={cohort}")
    for name in names:
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def test_missing_fields_are_asked_for_before_anything_is_sent(
    browse: Open, tiers: RunningStack, tmp_path: Path, wire: Wire
) -> None:
    (tmp_path / "a.csv").write_bytes(b"id\n1\n")
    page = browse(tiers.document["username"], tiers.document["password"])
    page.goto("/app/upload")
    page.get_by_label("Cohort").fill("VACS")
    add(page, tmp_path / "a.csv")
    start(page)
    assert page.evaluate("document.activeElement.id") == "protocol_year"
    page.get_by_label("Protocol year").fill("2024")
    page.get_by_label("File type").fill("patient")
    start(page)
    expect(page.locator("#receipts")).to_contain_text("Received: a.csv")


def test_without_script_a_form_uploads_and_deletes(browse: Open, tiers: RunningStack, tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_bytes(b"id\n1\n")
    page = browse(tiers.document["username"], tiers.document["password"], java_script_enabled=False)
    page.goto("/app/upload")
    describe(page, fresh_name(""))
    page.get_by_label("File", exact=True).set_input_files(tmp_path / "plain.csv")
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", name="The file was received")).to_be_visible()
    page.get_by_role("link", name="See the file").click()
    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("button", name="Delete the file").click()
    expect(page.get_by_role("status")).to_have_text("The file was deleted.")


def test_signing_in_and_finding_a_file_needs_no_mouse(browse: Open, tiers: RunningStack, web: Client) -> None:
    cohort, name = fresh_name(""), fresh_name()
    web.upload(b"x", name, cohort=cohort)
    page = browse()
    page.goto("/app/sign-in")
    page.keyboard.type(tiers.document["username"])  # the first field has the focus
    page.keyboard.press("Tab")
    page.keyboard.type(tiers.document["password"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/app/files")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(cohort)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
