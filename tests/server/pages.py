"""Headless Chromium for the tests of the web page: opens it, and notes what it does behind a test's back.

That is: what it logs as an error, where the content policy was violated, and requests to other origins.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra's playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine; Debian's package is `chromium`"
)

expect = playwright.expect
WATCH = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error("policy violated:", event.violatedDirective, event.blockedURI));
"""


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextlib.contextmanager
def watched_pages(browser: Any, origin: str, *, patience_s: float = 10) -> Iterator[Callable[..., Any]]:
    """A function that opens the page, with options of its browser context; at the end nothing odd may have happened."""
    contexts: list[Any] = []
    faults: list[str] = []

    def note(message: Any) -> None:
        # Chromium itself logs each refused request; the tests of refusals look at the page instead.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            faults.append(message.text)

    def note_request(request: Any) -> None:
        if not request.url.startswith((origin, "data:", "blob:")):
            faults.append(f"a request to {request.url}")

    def open_page(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1000, "height": 760}, **options})
        contexts.append(context)
        context.set_default_timeout(patience_s * 1000)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", note_request)
        page.goto(origin)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, faults


def ask(page: Any, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.keyboard.press("Enter")


def answer(page: Any, patience_s: float = 5) -> Any:
    """The last answer, once it is complete."""
    last = page.locator(".answer").last
    expect(last).not_to_have_attribute("aria-busy", "true", timeout=patience_s * 1000)
    return last
