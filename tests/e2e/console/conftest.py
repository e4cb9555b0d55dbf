"""A headless Chromium for the console's tests."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from tests.e2e.console.console_page import ConsolePage
from tests.e2e.console.line import Line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser

    from tests.support.suite import Suite

# Without these, Chromium calls home at every start, which a closed network refuses and a test should never do.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        reason = "no chromium on the PATH (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def console(suite: Suite, browser: Browser) -> AsyncIterator[ConsolePage]:
    """The console in a fresh browser profile; the test fails if the browser complained of anything unexpected."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    context.set_default_timeout(15_000)
    suite_at = urlsplit(suite.url)
    async with Line(suite_at.hostname or "", suite_at.port or 80).laid() as line:
        try:
            console = ConsolePage(await context.new_page(), f"http://127.0.0.1:{line.port}", line)
            await console.open()
            yield console
            assert console.unexpected == []
        finally:
            await context.close()
