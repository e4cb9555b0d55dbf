"""The page of collections: made, filled by files that are watched on their way, searched with reasons, read and deleted."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.e2e.console.test_page import CONTRAST

if TYPE_CHECKING:
    from playwright.async_api import FilePayload

    from tests.e2e.console.console_page import ConsolePage

# One browser, and so one event loop, serves all tests; each has a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="session")

MILL = b"# The mill\n\nThe old mill at Ambergate ground barley for ninety years. Its wheel was made of oak.\n"
DROP = """([zone, name, text]) => {
  const files = new DataTransfer();
  files.items.add(new File([text], name));
  zone.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true}));
}"""


async def create(console: ConsolePage) -> str:
    name = f"console-{uuid.uuid4().hex[:8]}"
    page = console.page
    await page.get_by_role("link", name="Collections").click()
    await expect(page.get_by_role("link", name="penstock-docs")).to_be_visible()
    await page.locator("input[name=collection]").fill(name)
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.locator("#page h1")).to_have_text(f"Collection {name}")
    return name


async def test_a_dropped_file_is_watched_until_it_is_found_and_explained(console: ConsolePage) -> None:
    page = console.page
    name = await create(console)
    await page.locator(".dropzone").wait_for()
    zone = await page.locator(".dropzone").element_handle()
    await page.evaluate(DROP, [zone, "mill.md", MILL.decode()])
    ingestion = page.locator(".ingestion")
    await expect(ingestion).to_have_attribute("data-state", "INGESTION_STATE_SUCCEEDED", timeout=30_000)
    await expect(ingestion.locator(".stages li.complete")).to_have_count(4)
    await expect(page.locator(".stats dd").first).to_have_text("1")
    await page.locator("input[name=query]").fill("What did the mill grind?")
    await page.get_by_role("button", name="Search", exact=True).click()
    hit = page.locator(".hit").first
    await expect(hit.locator(".quote")).to_contain_text("barley")
    await hit.locator(".why summary").click()
    await expect(hit.locator(".why tbody tr")).to_have_text([re.compile("by meaning#1"), re.compile("by words#1")])
    await expect(hit.locator(".why")).to_contain_text("mill")
    assert (await page.evaluate(CONTRAST))[0][0] >= 4.5
    await page.set_viewport_size({"width": 320, "height": 640})
    assert await page.evaluate("() => document.documentElement.scrollWidth") <= 320
    await hit.get_by_role("link").click()
    await expect(page.locator("#page h1")).to_have_text("Document mill.md")
    await expect(page.locator("pre")).to_contain_text("Its wheel was made of oak.")
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Delete this document").click()
    await expect(page.locator("#page h1")).to_have_text(f"Collection {name}")
    await expect(page.locator(".stats dd").first).to_have_text("0")
    await page.get_by_role("button", name="Delete this collection").click()
    await expect(page.locator("#page h1")).to_have_text("Collections")
    await expect(page.get_by_role("link", name="penstock-docs")).to_be_visible()
    await expect(page.get_by_role("link", name=name)).to_have_count(0)


async def test_a_file_that_cannot_be_read_says_why(console: ConsolePage) -> None:
    page = console.page
    await create(console)
    broken: FilePayload = {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 this is no PDF"}
    await page.locator(".dropzone input").set_input_files([broken])
    await expect(page.locator(".ingestion")).to_have_attribute("data-state", "INGESTION_STATE_FAILED", timeout=30_000)
    await expect(page.locator(".ingestion .results .bad")).to_contain_text("broken.pdf")


async def test_an_unknown_collection_is_told_in_the_words_of_the_server(console: ConsolePage) -> None:
    console.expected.append("404")
    await console.page.goto(f"{console.url}/#/collections/no-such-one")
    await expect(console.page.get_by_role("alert")).to_contain_text("COLLECTION_NOT_FOUND")
