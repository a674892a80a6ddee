"""Every page through axe-core, light and dark, wide and on a phone: no serious finding (WCAG 2.2 A and AA)."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import AXE, Noted, Open
from tests.browser.places import Place, places
from tests.support.client import Client
from tests.support.stack import RunningStack

PHONE = {"width": 360, "height": 740}
WIDE = {"width": 1200, "height": 800}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def findings(page: Page) -> list[str]:
    """What axe-core finds that is serious or worse, as rule and place."""
    page.add_script_tag(path=AXE)
    found = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    return [
        f"{violation['id']} at {node['target']}: {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_no_page_has_a_serious_finding(
    browse: Open, tiers: RunningStack, web: Client, noted: Noted, scheme: str, viewport: dict[str, int]
) -> None:
    noted.allowed = ["404 (Not Found)", "401 (Unauthorized)"]  # the pages of errors are among them
    # Only axe itself is let past the pages' policy.
    page = browse(
        tiers.document["username"], tiers.document["password"], color_scheme=scheme, viewport=viewport, bypass_csp=True
    )
    bad: dict[str, list[str]] = {}
    for place in places(web):
        show(page, place)
        if found := findings(page):
            bad[place.name] = found
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{place.name} is wider than the window: by {wider}"
    assert bad == {}


def show(page: Page, place: Place) -> None:
    page.goto(place.path)
    if place.ready:
        page.wait_for_selector(place.ready)
