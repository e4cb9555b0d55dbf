"""The page of models: what there is, loaded and unloaded, and the memory that it takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.e2e.console.test_page import CONTRAST

if TYPE_CHECKING:
    from tests.e2e.console.console_page import ConsolePage

# One browser, and so one event loop, serves all tests; each has a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="session")

LOCAL = "gibberish"


async def test_a_model_is_loaded_and_unloaded(console: ConsolePage) -> None:
    page = console.page
    await page.request.post(f"{console.url}/v1/models:unload", data={"model": LOCAL, "force": True})
    await page.get_by_role("link", name="Models").click()
    card = page.locator(f'.model[data-model^="{LOCAL}"]')
    await expect(card).to_have_attribute("data-state", "MODEL_STATE_UNLOADED")
    await card.get_by_role("button", name="Load").click()
    await expect(card).to_have_attribute("data-state", "MODEL_STATE_READY", timeout=30_000)
    memory = page.locator(".system dd")
    await expect(memory.nth(2)).to_have_text(re.compile(r"^[\d.]+ GiB / [\d.]+ GiB$"))
    await expect(memory.nth(4)).not_to_have_text("0 B")
    await card.get_by_role("button", name="Unload").click()
    await expect(card).to_have_attribute("data-state", "MODEL_STATE_UNLOADED", timeout=15_000)
    await expect(memory.nth(4)).to_have_text("0 B")


async def test_a_pull_that_no_engine_can_do_says_so(console: ConsolePage) -> None:
    console.expected.append("400")
    page = console.page
    await page.goto(f"{console.url}/#/models")
    await page.locator("input[name=pull]").fill("llama3.2:1b")
    await page.get_by_role("button", name="Fetch").click()
    await expect(page.get_by_role("alert")).to_contain_text("MODEL_CAPABILITY_MISSING")
    await expect(page.get_by_role("button", name="Fetch")).to_be_enabled()


async def test_it_is_legible_and_fits_a_phone(console: ConsolePage) -> None:
    page = console.page
    await page.set_viewport_size({"width": 320, "height": 640})
    await page.goto(f"{console.url}/#/models")
    await expect(page.locator('.model[data-model="extractive"]')).to_be_visible()
    assert await page.evaluate("() => document.documentElement.scrollWidth") <= 320
    for _ in range(2):
        await page.wait_for_timeout(400)
        worst = await page.evaluate(CONTRAST)
        assert worst[0][0] >= 4.5, worst
        await page.locator("#theme").click()
