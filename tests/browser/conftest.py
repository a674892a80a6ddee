"""A real browser before both tiers: Debian's Chromium, driven by Playwright. Everything that it should not do is noted.

`make test-browser` runs these; they need /usr/bin/chromium, and node to build the upload page's script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.functional.conftest import as_user, services, tiers, web
from tests.support.stack import RunningStack
from tests.support.wire import Wire

__all__ = ["as_user", "services", "tiers", "web"]

AXE = Path(__file__).parents[2] / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
# The last ones keep it from calling home.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Noted:
    """What a page did that no page of ours should. `allowed` are parts of console lines that a test brings about itself."""

    lines: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def unexpected(self) -> list[str]:
        return [line for line in self.lines if not any(part in line for part in self.allowed)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/browser" in str(item.path):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def wire(tiers: RunningStack) -> Iterator[Wire]:
    """The way from the browser to the web tier."""
    with Wire(tiers.document["web_url"]) as wire:
        yield wire


@pytest.fixture
def noted() -> Iterator[Noted]:
    """Fails the test at its end for errors in the console and requests to other hosts."""
    seen = Noted()
    yield seen
    assert seen.unexpected() == []


Open = Callable[..., Page]


@pytest.fixture
def browse(chromium: Browser, wire: Wire, noted: Noted) -> Iterator[Open]:
    """`browse(username, password, **context)`: a page of a fresh browser profile, signed in where a name is given."""
    contexts: list[BrowserContext] = []

    def open_page(username: str | None = None, password: str = "", **options: object) -> Page:
        options.setdefault("viewport", {"width": 1200, "height": 800})
        context = chromium.new_context(base_url=wire.url, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        watch(page, noted, wire.url)
        if username is not None:
            sign_in(page, username, password)
        return page

    yield open_page
    for context in contexts:
        context.close()


def watch(page: Page, noted: Noted, url: str) -> None:
    """Note errors in the console, exceptions, and whatever goes to another host."""
    host = urlsplit(url).netloc
    page.on("console", lambda line: noted.lines.append(f"console: {line.text}") if line.type == "error" else None)
    page.on("pageerror", lambda error: noted.lines.append(f"exception: {error}"))
    page.on(
        "request",
        lambda request: (
            noted.lines.append(f"another host: {request.url}")
            if urlsplit(request.url).scheme in ("http", "https", "ws", "wss") and urlsplit(request.url).netloc != host
            else None
        ),
    )


def sign_in(page: Page, username: str, password: str) -> None:
    page.goto("/app/sign-in")
    page.get_by_label("E-mail address or user name").fill(username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/app/files*")
