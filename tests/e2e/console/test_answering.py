"""Asking in the console: tokens as they come, sources beside them, citations that lead there, and the stop button."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

if TYPE_CHECKING:
    from playwright.async_api import Route

    from tests.e2e.console.console_page import ConsolePage

# One browser, and so one event loop, serves all tests; each has a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = "What does penstock do?"


async def test_an_answer_appears_piece_by_piece_after_a_typing_indicator(console: ConsolePage) -> None:
    await console.record()
    console.line.slow = True
    await console.ask(QUESTION)
    await console.expect_state("done")
    seen = await console.recorded()
    states = list(dict.fromkeys(one["state"] for one in seen))
    assert states == ["searching", "reading", "writing", "done"]
    assert all(one["typing"] == (one["state"] in {"searching", "reading"}) for one in seen[1:])
    lengths = [one["length"] for one in seen if one["state"] == "writing"]
    assert len(set(lengths)) >= 3, "the text came at once"
    await expect(console.answer.locator(".typing")).to_be_hidden()


async def test_the_answer_names_what_produced_it(console: ConsolePage) -> None:
    answer = await console.ask(QUESTION)
    await expect(answer.locator(".facts summary")).to_contain_text("token")
    await answer.locator(".facts summary").click()
    facts = answer.locator(".facts dl")
    for name in ("Model", "Engine", "Tokens", "Time", "Search", "Request"):
        await expect(facts.get_by_text(name, exact=True)).to_be_visible()


async def test_sources_stand_beside_the_answer_and_a_citation_leads_to_its_sentence(console: ConsolePage) -> None:
    await console.ask(QUESTION)
    await expect(console.source(1)).to_be_visible()
    chip = console.chips.first
    number = int(await chip.inner_text())
    await expect(chip).to_have_attribute("aria-label", re.compile(rf"^Source {number}: .+ \d+% of the sentence"))
    await chip.click()
    source = console.source(number)
    await expect(source).to_have_class(re.compile(r"\bactive\b"))
    await expect(source).to_be_in_viewport()
    await expect(source.locator("mark.active").first).to_be_visible()
    await expect(console.answer.locator("mark.active").first).to_be_visible()


async def test_each_sentence_tells_what_it_rests_on(console: ConsolePage) -> None:
    answer = await console.ask(QUESTION)
    await console.expect_state("done")
    await answer.locator(".facts summary").click()
    grades = answer.locator(".grades li")
    assert await grades.count() >= 1
    sentence = await grades.first.locator("q").inner_text()
    await expect(grades.first.locator(".grade").first).to_have_text(re.compile(r"rests on source \d+ \(\d+%\)"))
    marks = answer.locator('.text mark[data-sentence="1"]')
    assert "".join(await marks.all_inner_texts()) in sentence.replace("**", "")
    await expect(marks.first).to_have_attribute("title", re.compile(r"rests on source \d+"))
    await expect(answer.locator(".facts .grounded")).to_have_text(re.compile(r"\d+% grounded"))


async def test_the_stop_button_stops_and_the_next_question_is_answered(console: ConsolePage) -> None:
    await expect(console.page.locator("#stop")).to_be_hidden()
    console.line.slow, console.line.pause_seconds = True, 0.3
    await console.send(QUESTION)
    stop = console.page.locator("#stop")
    await expect(stop).to_be_visible()
    await expect(console.page.locator("#send")).to_be_hidden()
    await stop.click()
    await console.expect_state("stopped")
    await expect(console.answer).to_contain_text("Stopped")
    await expect(stop).to_be_hidden()
    console.line.slow = False
    await console.ask(QUESTION)
    await console.expect_state("done")


async def test_escape_stops(console: ConsolePage) -> None:
    console.line.slow, console.line.pause_seconds = True, 0.3
    await console.send(QUESTION)
    await expect(console.page.locator("#stop")).to_be_visible()
    await console.page.keyboard.press("Escape")
    await console.expect_state("stopped")


async def test_what_is_stopped_before_it_began_does_not_claim_to_keep_anything(console: ConsolePage) -> None:
    held: asyncio.Queue[Route] = asyncio.Queue()
    await console.page.route("**/v1/answer:stream", held.put_nowait)
    await console.send(QUESTION)
    await asyncio.wait_for(held.get(), 10)
    await console.page.locator("#stop").click()
    await console.expect_state("stopped")
    await expect(console.answer).to_contain_text("Stopped before anything arrived")


async def test_shift_enter_starts_a_line_and_sends_nothing(console: ConsolePage) -> None:
    question = console.page.locator("#question")
    await question.fill("first")
    await question.press("Shift+Enter")
    await question.press_sequentially("second")
    await expect(question).to_have_value("first\nsecond")
    await expect(console.page.locator(".answer")).to_have_count(0)


async def test_a_refusal_is_shown_with_its_reason_and_request_id(console: ConsolePage) -> None:
    console.expected.append("404")

    async def ask_elsewhere(route: Route) -> None:
        body = (route.request.post_data or "").replace('"penstock-docs"', '"no-such-collection"')
        await route.continue_(post_data=body)

    await console.page.route("**/v1/answer:stream", ask_elsewhere)
    answer = await console.ask(QUESTION)
    await console.expect_state("failed")
    failure = answer.get_by_role("alert")
    await expect(failure).to_contain_text("no-such-collection")
    await expect(failure).to_contain_text(re.compile(r"COLLECTION_NOT_FOUND · request [\w-]+"))


async def test_a_stream_without_its_final_event_is_a_failure(console: ConsolePage) -> None:
    async def cut(route: Route) -> None:
        response = await route.fetch()
        body, found, _ = (await response.text()).partition('data: {"finished"')
        assert found
        await route.fulfill(response=response, body=body)

    await console.page.route("**/v1/answer:stream", cut)
    answer = await console.ask(QUESTION)
    await console.expect_state("failed")
    await expect(answer.get_by_role("alert")).to_contain_text("without its final event")
    await console.page.unroute("**/v1/answer:stream")
    await answer.get_by_role("button", name="Ask again").click()
    await console.expect_state("done")


@pytest.mark.parametrize("markup", ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>"])
async def test_markup_in_a_question_or_answer_stays_text(console: ConsolePage, markup: str) -> None:
    async def inject(route: Route) -> None:
        response = await route.fetch()
        token = 'data: {"token":{"text":"' + markup + '"}}\n\n'
        body = (await response.text()).replace('data: {"finished"', f'{token}data: {{"finished"')
        await route.fulfill(response=response, body=body)

    await console.page.route("**/v1/answer:stream", inject)
    answer = await console.ask(f"What is {markup}?")
    await expect(answer.locator(".text")).to_contain_text(markup)
    assert await console.page.locator(".turn img, .turn script").count() == 0
