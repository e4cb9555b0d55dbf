"""The console as a person meets it: what can be done on the page, and what is to be seen there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from playwright.async_api import expect

if TYPE_CHECKING:
    from playwright.async_api import ConsoleMessage, Locator, Page

    from tests.e2e.console.line import Line

ANSWER_MS = 15_000
OVER = re.compile("^(done|stopped|failed)$")
RECORD = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const answer = [...document.querySelectorAll(".answer")].at(-1);
    if (!answer) return;
    window.seen.push({
      state: answer.dataset.state,
      length: answer.querySelector(".text").textContent.length,
      typing: answer.querySelector(".typing").checkVisibility(),
    });
  }).observe(document.getElementById("turns"), {subtree: true, childList: true, characterData: true, attributes: true});
}"""


@dataclass
class ConsolePage:
    """One tab with the console."""

    page: Page
    url: str
    line: Line
    problems: list[str] = field(default_factory=list)
    """What the browser complained of: errors, refused resources, violations of the content security policy."""
    expected: list[str] = field(default_factory=list)
    """Complaints that the test provokes."""

    def __post_init__(self) -> None:
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(message.text)

    @property
    def unexpected(self) -> list[str]:
        return [one for one in self.problems if not any(text in one for text in self.expected)]

    async def open(self) -> None:
        await self.page.goto(self.url)
        await expect(self.page.locator("body.ready")).to_be_attached(timeout=ANSWER_MS)

    async def send(self, question: str) -> None:
        await self.page.locator("#question").fill(question)
        await self.page.keyboard.press("Enter")

    async def ask(self, question: str) -> Locator:
        """Asks, and waits for the answer's end."""
        await self.send(question)
        await self.expect_state(OVER)
        return self.answer

    @property
    def answer(self) -> Locator:
        return self.page.locator(".answer").last

    @property
    def chips(self) -> Locator:
        return self.answer.locator(".chip")

    def source(self, number: int) -> Locator:
        return self.page.locator(f'.source[data-number="{number}"]')

    async def expect_state(self, state: str | re.Pattern[str]) -> None:
        await expect(self.answer).to_have_attribute("data-state", state, timeout=ANSWER_MS)

    async def record(self) -> None:
        """Begins to write down all that the last answer goes through."""
        await self.page.evaluate(RECORD)

    async def recorded(self) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = await self.page.evaluate("() => window.seen")
        return seen
