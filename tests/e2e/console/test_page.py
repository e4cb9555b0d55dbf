"""What stands around the conversation: its keeping, documents, languages, light and dark, and small screens."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

if TYPE_CHECKING:
    from tests.e2e.console.console_page import ConsolePage

# One browser, and so one event loop, serves all tests; each has a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = "What does each service do?"

# The contrast of each visible text with what lies behind it, by WCAG 2; the lowest first.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] / 255 + under[i] * (1 - top[3] / 255));
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const own = parse(getComputedStyle(node).backgroundColor);
    return own[3] === 255 ? own.slice(0, 3) : over(own, behind(node.parentElement));
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const speaks = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!speaks || !node.checkVisibility() || node.closest(".unseen, option, noscript")) continue;
    const back = behind(node);
    const [a, b] = [light(over(parse(getComputedStyle(node).color), back)), light(back)].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), node.textContent.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]).slice(0, 5);
}"""


async def test_it_opens_with_a_collection_a_model_and_three_questions(console: ConsolePage) -> None:
    await expect(console.page.locator("#collection")).to_have_value("penstock-docs")
    await expect(console.page.locator("#model")).to_have_value("auto")
    await expect(console.page.locator("#examples button")).to_have_count(3)
    await console.page.locator("#examples button").first.click()
    await console.expect_state("done")
    await expect(console.chips.first).to_be_visible()


async def test_a_conversation_outlives_a_reload_until_a_new_one_begins(console: ConsolePage) -> None:
    answer = await console.ask(QUESTION)
    told = await answer.locator(".text").inner_text()
    await console.open()
    await expect(console.page.locator(".asked")).to_have_text([re.compile(re.escape(QUESTION))])
    assert await console.answer.locator(".text").inner_text() == told
    await expect(console.chips.first).to_be_visible()
    await expect(console.source(1)).to_be_visible()
    await console.page.locator("#new").click()
    await expect(console.page.locator(".turn")).to_have_count(0)
    await expect(console.page.locator("#empty")).to_be_visible()
    await expect(console.page.locator(".source")).to_have_count(0)
    await console.open()
    await expect(console.page.locator(".turn")).to_have_count(0)


async def test_earlier_conversations_are_listed_opened_and_deleted(console: ConsolePage) -> None:
    page = console.page
    await console.ask(QUESTION)
    await page.locator("#new").click()
    await console.ask("How do I connect Ollama?")
    await page.get_by_role("button", name="Conversations").click()
    names = page.locator("#conversations .link span")
    await expect(names).to_have_text(["How do I connect Ollama?", QUESTION])
    await names.last.click()
    await expect(page.locator(".asked")).to_have_text([re.compile(re.escape(QUESTION))])
    await page.get_by_role("button", name="Conversations").click()
    async with page.expect_response("**/v1/conversations/*") as told:
        await page.get_by_role("button", name=f"Delete “{QUESTION}”").click()
    assert (await told.value).ok
    await expect(names).to_have_text(["How do I connect Ollama?"])
    await expect(page.locator(".turn")).to_have_count(0)


async def test_every_language_has_every_text(console: ConsolePage) -> None:
    texts = {tag: await (await console.page.request.get(f"{console.url}/i18n/{tag}.json")).json() for tag in ("en", "ru", "zh")}
    assert texts["en"].keys() == texts["ru"].keys() == texts["zh"].keys()
    places = {
        tag: {key: set(re.findall(r"\{\w+", str(entry))) for key, entry in entries.items()} for tag, entries in texts.items()
    }
    assert places["en"] == places["ru"] == places["zh"]


async def test_a_pasted_text_in_a_new_collection_answers_at_once(console: ConsolePage) -> None:
    name = f"console-{uuid.uuid4().hex[:8]}"
    page = console.page
    await page.locator("#add").click()
    await page.locator("#target").select_option("")
    await page.locator("#new-name").fill(name)
    await page.locator("#paste-title").fill("The mill")
    await page.locator("#paste").fill("The old mill at Ambergate ground barley for ninety years. Its wheel was made of oak.")
    await page.locator("#documents-add").click()
    await expect(page.locator("#results .good")).to_contain_text("The mill: added", timeout=30_000)
    await page.locator("#documents-close").click()
    await expect(page.locator("#collection")).to_have_value(name)
    answer = await console.ask("What did the old mill at Ambergate grind?")
    await console.expect_state("done")
    await expect(answer.locator(".text")).to_contain_text("barley")
    await expect(console.source(1)).to_contain_text("The mill")


async def test_what_cannot_be_added_is_said(console: ConsolePage) -> None:
    page = console.page
    console.expected.append("400")
    await page.locator("#add").click()
    await page.locator("#documents-add").click()
    await expect(page.locator("#results .bad")).to_contain_text("Choose a file or paste a text")
    await page.locator("#files").set_input_files(
        {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 this is no PDF"}
    )
    await page.locator("#documents-add").click()
    await expect(page.locator("#results .bad")).to_contain_text("(DOCUMENT_UNREADABLE)", timeout=30_000)
    await page.locator("#target").select_option("")
    await page.locator("#new-name").fill("Not A Name")
    await page.locator("#paste").fill("text")
    await page.locator("#documents-add").click()
    await expect(page.locator("#results .bad").last).to_contain_text("1 to 64 lower-case letters")


@pytest.mark.parametrize(("language", "send", "placeholder"), [("ru", "Отправить", "Задайте"), ("zh", "发送", "请输入")])
async def test_the_page_speaks_other_languages(console: ConsolePage, language: str, send: str, placeholder: str) -> None:
    await console.ask(QUESTION)
    await console.page.locator("#language").select_option(language)
    await expect(console.page.locator("html")).to_have_attribute("lang", language)
    await expect(console.page.locator("#send")).to_have_attribute("aria-label", re.compile(send))
    await expect(console.page.locator("#question")).to_have_attribute("placeholder", re.compile(placeholder))
    await expect(console.answer.locator(".facts summary")).not_to_contain_text("token")
    assert await console.page.evaluate("() => document.documentElement.scrollWidth") <= 1280
    await console.open()
    await expect(console.page.locator("html")).to_have_attribute("lang", language)


async def test_every_text_is_legible_in_light_and_dark(console: ConsolePage) -> None:
    await console.ask(QUESTION)
    await console.chips.first.click()
    await console.answer.locator(".facts summary").click()
    backgrounds = set()
    for _ in range(2):
        # Colours move to their new values in 0.2 s.
        await console.page.wait_for_timeout(400)
        worst = await console.page.evaluate(CONTRAST)
        assert worst[0][0] >= 4.5, worst
        backgrounds.add(await console.page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
        await console.page.locator("#theme").click()
    assert len(backgrounds) == 2


async def test_on_a_phone_the_sources_stand_below_and_nothing_sticks_out(console: ConsolePage) -> None:
    await console.page.set_viewport_size({"width": 390, "height": 844})
    await console.ask(QUESTION)
    await console.chips.first.click()
    await expect(console.page.locator(".source.active")).to_be_in_viewport()
    answer, source = await console.answer.bounding_box(), await console.page.locator(".source").first.bounding_box()
    assert answer is not None
    assert source is not None
    assert source["y"] >= answer["y"] + answer["height"]
    assert await console.page.evaluate("() => document.documentElement.scrollWidth") <= 390


async def test_the_answer_is_told_to_screen_readers_once_it_is_there(console: ConsolePage) -> None:
    await console.ask(QUESTION)
    await console.expect_state("done")
    live = console.page.locator("[aria-live=polite]").first
    await expect(live).not_to_be_empty()
    await expect(console.answer).to_have_attribute("aria-busy", "false")


async def test_it_names_the_api_and_the_openai_address(console: ConsolePage) -> None:
    await expect(console.page.locator("#openai-url")).to_have_text(f"{console.url}/openai/v1")
    response = await console.page.request.get(f"{console.url}/docs")
    assert response.ok


async def test_every_page_fits_a_small_phone_in_the_longest_language(console: ConsolePage) -> None:
    page = console.page
    await page.locator("#language").select_option("ru")
    await page.set_viewport_size({"width": 320, "height": 640})
    for name in ("chat", "collections", "models", "experiments"):
        await page.locator(f'nav a[href="#/{name}"]').click()
        await expect(page.locator(f'nav a[href="#/{name}"]')).to_have_attribute("aria-current", "page")
        await expect(page.locator("#empty h1" if name == "chat" else "#page .card").first).to_be_visible()
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 320, name


async def test_the_pages_are_reached_and_left_by_the_keyboard(console: ConsolePage) -> None:
    page = console.page
    await page.locator('nav a[href="#/collections"]').focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#page h1")).to_be_focused()
    await page.go_back()
    await expect(page.locator("#question")).to_be_visible()
    await expect(page.locator("#page")).to_be_hidden()
