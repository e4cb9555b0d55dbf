"""The page of experiments: made by a form, led through their life, their effects drawn, and the power of a plan."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.e2e.console.test_feedback import call
from tests.e2e.console.test_page import CONTRAST

if TYPE_CHECKING:
    from playwright.async_api import Locator

    from tests.e2e.console.console_page import ConsolePage

# One browser, and so one event loop, serves all tests; each has a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="session")

UNITS = 60


async def record(console: ConsolePage, experiment: str) -> None:
    """Outcomes of users whose experiment went the better the later their variant's name comes."""
    outcomes = []
    for index in range(UNITS):
        told = await call(console, "POST", f"/v1/experiments/{experiment}:assign", {"unit_id": f"user-{index}"})
        value = float(index % 10 == 0) if told["variant"] == "control" else float(index % 10 != 0)
        outcomes.append({"outcome": uuid.uuid4().hex, "assignment": told["assignment"], "metric": "thumbs_up", "value": value})
    await call(console, "POST", "/v1/outcomes", {"outcomes": outcomes})


async def create(console: ConsolePage) -> str:
    name = f"console-{uuid.uuid4().hex[:8]}"
    page = console.page
    await page.get_by_role("link", name="Experiments").click()
    await page.get_by_text("Create an experiment").click()
    form = page.locator("form.create")
    await form.locator("input[name=experiment]").fill(name)
    await form.get_by_label("What you hope to learn").fill("Fewer passages read better")
    await form.get_by_label("Calls").select_option("REQUEST_TYPE_GENERATE")
    await form.locator("input[name=ramp]").fill("50, 100")
    await form.get_by_label("Passages").last.fill("3")
    await form.get_by_role("button", name="Create").click()
    await expect(page.locator("#page h1")).to_have_text(f"Experiment {name}")
    return name


async def expect_state(about: Locator, state: str) -> None:
    await expect(about).to_have_attribute("data-state", f"EXPERIMENT_STATE_{state}")


async def test_an_experiment_is_led_from_the_form_to_a_default(console: ConsolePage) -> None:
    page = console.page
    page.on("dialog", lambda dialog: dialog.accept())
    name = await create(console)
    about = page.locator(".about")
    await expect_state(about, "DRAFT")
    await about.get_by_role("button", name="Start").click()
    await expect_state(about, "RUNNING")
    await expect(about).to_contain_text("50%")
    await about.get_by_role("button", name="Next stage").click()
    await expect(about).to_contain_text("100%")
    await expect(about.get_by_role("button", name="Next stage")).to_have_count(0)
    await record(console, name)
    # The page asks again by itself.
    effect = page.locator('.effect[data-variant="variant-1"]')
    await expect(effect).to_contain_text("better", timeout=15_000)
    await expect(effect.locator("svg")).to_have_attribute("aria-label", re.compile(r"Difference from the control \+0\.\d+"))
    await expect(page.locator(".srm")).to_contain_text("as the weights say")
    await about.get_by_role("button", name="Pause").click()
    await expect_state(about, "PAUSED")
    await about.get_by_role("button", name="Go on").click()
    await expect_state(about, "RUNNING")
    assert (await page.evaluate(CONTRAST))[0][0] >= 4.5
    await page.set_viewport_size({"width": 320, "height": 640})
    assert await page.evaluate("() => document.documentElement.scrollWidth") <= 320
    await about.get_by_label("Why").fill("clearly better")
    await about.locator("select[name=winner]").select_option("variant-1")
    await about.get_by_role("button", name="Conclude").click()
    await expect_state(about, "CONCLUDED")
    await expect(about).to_contain_text("Won by variant-1. Why: clearly better")
    async with page.expect_response("**:promote") as promoted:
        await about.get_by_role("button", name="Make it the default").click()
    promotion = (await (await promoted.value).json())["promotion"]
    await call(console, "POST", f"/v1/promotions/{promotion['promotion']}:revert", {})
    assert promotion["settings"]["top_k"] == 3
    changes = await call(console, "GET", f"/v1/experiments/{name}/changes")
    assert "clearly better" in [change["why"] for change in changes["changes"]]


async def test_what_is_wrong_with_a_form_is_said_in_it(console: ConsolePage) -> None:
    console.expected.append("400")
    page = console.page
    await page.goto(f"{console.url}/#/experiments")
    await page.get_by_text("Create an experiment").click()
    form = page.locator("form.create")
    await form.locator("input[name=experiment]").fill("Not A Name")
    await form.get_by_role("button", name="Create").click()
    await expect(page.get_by_role("alert")).to_contain_text("experiment")


async def test_the_power_calculator_agrees_with_the_api(console: ConsolePage) -> None:
    page = console.page
    await page.goto(f"{console.url}/#/experiments")
    await page.locator("input[name=effect]").fill("0.1")
    await page.get_by_role("button", name="Compute").click()
    body = {"baseline": 0.3, "minimal_effect": 0.1, "power": 0.8, "significance": 0.05}
    told = await call(console, "POST", "/v1/experiments:power", body)
    await expect(page.locator(".power .told")).to_contain_text(f"{int(told['units'])} units")
