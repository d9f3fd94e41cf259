"""A browser for tests of pages, and what it is shown."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
EVIL = (
    '</script><script>alert(1)</script> <img src=x onerror=alert(2)> & "it\'s" <b>bold</b> \u2028 ü'
)
SHORT = '</script><b>&"\u2028ü'  # as long as the bundled family can read


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium; the test is skipped where none is installed."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        options = ["--force-color-profile=srgb", *["--no-sandbox"] * (os.geteuid() == 0)]
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A tab, and what must not happen in it."""

    page: Page
    asked: list[str] = field(default_factory=list)  # URLs
    complaints: list[str] = field(default_factory=list)  # of the console, and dialogs

    def check(self) -> None:
        assert not self.complaints
        assert {url.split(":")[0] for url in self.asked} <= {"file"}


@contextmanager
def tab(browser: Browser, **options: Any) -> Iterator[Watched]:
    """A new tab; options are those of a context: viewport, colour scheme."""
    options = {"viewport": {"width": 1200, "height": 900}, **options}
    with browser.new_context(**options) as context:
        page = context.new_page()
        watched = Watched(page)
        page.on("request", lambda request: watched.asked.append(request.url))
        page.on("console", lambda message: watched.complaints.append(message.text))
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (watched.complaints.append("dialog"), dialog.dismiss()))
        yield watched


def screenshot(page: Page, selector: str) -> np.ndarray:
    """What is on the screen of an element: (h, w, 3)."""
    return np.asarray(Image.open(BytesIO(page.locator(selector).screenshot())).convert("RGB"))
