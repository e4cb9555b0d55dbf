"""Thumbs: offered where an experiment shaped the answer, recorded as its outcome, and honest where they are not."""

from __future__ import annotations

import asyncio
import re
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Locator

    from tests.e2e.console.console_page import ConsolePage

# One browser, and so one event loop, serves all tests; each has a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = "What does each service do?"
TRIES = 40


async def call(console: ConsolePage, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    response = await console.page.request.fetch(f"{console.url}{path}", method=method, data=body)
    assert response.ok, await response.text()
    told: dict[str, Any] = await response.json()
    return told


@asynccontextmanager
async def experiment(console: ConsolePage, metric: str) -> AsyncIterator[str]:
    """Runs an experiment over answers, and stops it afterwards, so that other tests' answers are untouched."""
    name = f"console-{uuid.uuid4().hex[:8]}"
    variants = [{"variant": "narrow", "weight": 1, "top_k": 3}, {"variant": "wide", "weight": 1, "top_k": 5}]
    body = {
        "experiment": name,
        "unit": "UNIT_USER",
        "variants": variants,
        "metrics": [{"metric": metric, "direction": "DIRECTION_INCREASE"}],
        "request_types": ["REQUEST_TYPE_ANSWER"],
    }
    await call(console, "POST", "/v1/experiments", body)
    await call(console, "POST", f"/v1/experiments/{name}:start", {})
    try:
        yield name
    finally:
        await call(console, "POST", f"/v1/experiments/{name}:stop", {})


async def assigned_answer(console: ConsolePage, name: str) -> Locator:
    """An answer that the experiment shaped: its configuration reaches the services a moment after its start."""
    for _ in range(TRIES):
        answer = await console.ask(QUESTION)
        await answer.locator(".facts summary").click()
        if await answer.locator(".facts dl").get_by_text(name).count():
            return answer
        await console.page.locator("#new").click()
        await asyncio.sleep(0.1)
    return pytest.fail(f"no answer took part in {name}")


async def test_a_thumb_becomes_an_outcome_of_the_variant(console: ConsolePage) -> None:
    async with experiment(console, "thumbs_up") as name:
        answer = await assigned_answer(console, name)
        variant = await answer.locator(".facts .variant").inner_text()
        assert re.fullmatch("·?variant (narrow|wide)", variant)
        await expect(console.page.locator(".source")).to_have_count(3 if "narrow" in variant else 5)
        await answer.get_by_role("button", name="Good answer").click()
        await expect(answer.locator(".thumbs")).to_contain_text("Recorded")
        results = await call(console, "GET", f"/v1/experiments/{name}/results")
    sums = {one["variant"]: one["metrics"][0]["sum"] for one in results["variants"]}
    assert sums == {"narrow": 0, "wide": 0} | {variant.split()[-1]: 1}


async def test_a_thumb_that_no_metric_counts_is_said_to_be_lost(console: ConsolePage) -> None:
    console.expected.append("400")
    async with experiment(console, "clicks") as name:
        answer = await assigned_answer(console, name)
        await answer.get_by_role("button", name="Bad answer").click()
        await expect(answer.locator(".thumbs")).to_contain_text("Not recorded: this experiment does not measure thumbs_up")


async def test_without_an_experiment_a_thumb_is_feedback_on_the_request(console: ConsolePage) -> None:
    answer = await console.ask(QUESTION)
    await console.expect_state("done")
    async with console.page.expect_response("**/v1/feedback") as told:
        await answer.get_by_role("button", name="Bad answer").click()
    response = await told.value
    assert response.ok
    request_id = await answer.locator(".facts code").text_content()
    assert response.request.post_data_json == {"request_id": request_id, "reward": 0}
    await expect(answer.locator(".thumbs")).to_contain_text("Recorded")
