"""What the tests of the dashboard share: a browser, and a look at a real `bananas api` with a real server and a real worker behind it.

Every look asserts at its end that the page logged no error and asked no other machine for anything.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.http.conftest import TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request
    from tests.http.conftest import ApiProcess

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 15_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for the tests of a module; a module of these has no coroutines as tests, since Playwright runs a loop meanwhile."""
    if CHROMIUM is None:
        pytest.skip("THE DASHBOARD IS NOT TESTED: there is no chromium on the PATH (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="THE DASHBOARD IS NOT TESTED: pip install playwright")
    flags = ["--no-sandbox"] if os.getuid() == 0 else []
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


class Look:
    """One tab, and what went wrong in it.

    Attributes:
        url: where the dashboard is.
        faults: errors that were logged or thrown, and requests to other places.
        statuses: of answers that this test means to get, besides good ones: the browser logs each as an error.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.url, self.statuses = url.rstrip("/") + "/", set[int]()
        self.faults: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(f"{error}\n{error.stack}"))
        self.page.on("request", self._watch)

    def _hear(self, message: ConsoleMessage) -> None:
        expected = any(f"status of {status} " in message.text for status in self.statuses)
        if message.type in ("error", "warning") and not expected:
            self.faults.append(message.text)

    def _watch(self, request: Request) -> None:
        if not request.url.startswith((self.url, "blob:" + self.url[:-1])):
            self.faults.append(f"a request to {request.url}")

    def open(self, where: str = "", role: str = "admin") -> Look:
        """Open a page of the dashboard with the token of a role ("": none)."""
        if role:
            key = f"bananas.token:{urlsplit(self.url).path}"
            self.context.add_init_script(f"sessionStorage.setItem({key!r}, {TOKENS[role]!r})")
        self.page.goto(f"{self.url}#/{where}" if where else self.url)
        return self

    def row(self, text: str) -> Locator:
        """The row of a table that has this text."""
        return self.page.get_by_role("row").filter(has_text=text)

    def verdict(self, title: str) -> Locator:
        """One of the four cards of the overview."""
        return self.page.locator(".verdict").filter(has_text=title)

    def answer(self, button: str) -> None:
        """Press a button of the dialog that asks."""
        self.page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()

    def press(self, button: str) -> None:
        """Press a button of the page."""
        self.page.get_by_role("button", name=button, exact=True).click()

    def end(self) -> None:
        """Close the tab, and assert that nothing went wrong in it."""
        self.context.close()
        assert self.faults == []


@pytest.fixture
def looks(browser: Browser, api: ApiProcess) -> Iterator[Callable[..., Look]]:
    """Makes looks with options of a browser context, such as `viewport` and `color_scheme`."""
    made: list[Look] = []

    def make(url: str = "", **options: Any) -> Look:
        made.append(Look(browser, url or api.url, **options))
        return made[-1]

    yield make
    for look in made:
        look.end()


@pytest.fixture
def look(looks: Callable[..., Look]) -> Look:
    return looks()
