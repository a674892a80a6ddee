"""The API's page in Chromium: for everybody, with the keyboard, light and dark, on a phone. And what all script weighs."""

from __future__ import annotations

import pytest

from chalicelib.web.pages import assets
from tests.browser.conftest import Open
from tests.browser.test_access import PHONE, WIDE, findings

# The requirement's ceiling for all scripts together, compressed.
MAX_SCRIPT_BYTES = 300 * 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_api_page_has_no_serious_finding(browse: Open, scheme: str, viewport: dict[str, int]) -> None:
    page = browse(color_scheme=scheme, viewport=viewport, bypass_csp=True)
    page.goto("/docs")
    assert findings(page) == []
    # One of each group, opened.
    for part in page.locator("section > details:first-of-type > summary").all():
        part.press("Enter")
    assert page.locator("details[open]").count() == page.locator("section:has(details)").count() > 5
    assert findings(page) == []
    wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wider <= 0, f"wider than the window: by {wider}"


def test_the_api_page_needs_no_script(browse: Open) -> None:
    page = browse(java_script_enabled=False)
    page.goto("/docs")
    page.get_by_text("GET /files/{file_id}", exact=True).click()
    assert page.locator("#get_files_file_id[open]").count() == 1
    page.locator("#get_files_file_id").get_by_role("link", name="FileView").click()
    assert page.url.endswith("/docs#shape-FileView")


def test_all_script_together_is_small() -> None:
    weights = {name: len(one.packed) for name, one in assets.assets().items() if name.endswith(".js")}
    print(weights)
    assert {"depot.js", "upload.js"} <= set(weights), "run: make assets"
    assert sum(weights.values()) < MAX_SCRIPT_BYTES
