"""A real browser: the machine's Chromium, driven by Playwright. Without them the tests that need one are skipped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WHY = "needs Chromium (Debian: apt-get install chromium) and playwright (requirements-test.txt)"
FLAGS = (
    "--no-sandbox",  # as root there is none
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium with a microphone that beeps."""
    if CHROMIUM is None:
        pytest.skip(WHY)
    library = pytest.importorskip("playwright.sync_api", reason=WHY)
    with library.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A window whose script makes no errors."""
    context = browser.new_context(viewport={"width": 1100, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    said: list[str] = []
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    opened.said = said
    yield opened
    context.close()
    assert not said, said


def violations(page: Any) -> list[str]:
    """What axe-core finds against accessibility: contrast, names, roles, order."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=WHY)
    found = axe.Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:120]}" for rule in found for node in rule["nodes"]]


def focused(page: Any) -> str:
    """The id or text of what the keyboard acts on."""
    return page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")


def until(page: Any, expression: str, seconds: float = 30.0) -> None:
    """Wait for something to be true; asked from outside, as the pages' own policy lets nothing be evaluated inside."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never: {expression}"
        time.sleep(0.02)
