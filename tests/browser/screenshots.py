"""Takes the pictures of docs/pages.md: `python -m tests.browser.screenshots FOLDER`. Every page, light and dark."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM, sign_in
from tests.browser.places import Place, places
from tests.support.client import signed_in
from tests.support.stack import running_stack


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as state,
        running_stack(Path(state) / "stack") as stack,
        sync_playwright() as driver,
    ):
        document = stack.document
        shown = [*places(signed_in(stack, document["username"], document["password"])), Place("docs", "/docs")]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for scheme in ("light", "dark"):
            context = browser.new_context(
                base_url=document["web_url"], color_scheme=scheme, viewport={"width": 1200, "height": 760}
            )
            page = context.new_page()
            sign_in(page, document["username"], document["password"])
            for place in shown:
                page.goto(place.path)
                page.wait_for_selector(place.ready)
                page.screenshot(path=folder / f"{place.name}-{scheme}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
