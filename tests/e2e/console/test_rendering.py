"""What becomes of a text that a model wrote: a small part of Markdown, and never markup of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.console.console_page import ConsolePage

# One browser, and so one event loop, serves all tests; each has a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="session")

RENDER = """async ({text, spans}) => {
  const {MarkdownView} = await import("/components/markdown.js");
  const root = document.createElement("div");
  const marker = (number) => Object.assign(document.createElement("b"), {textContent: String(number)});
  const view = new MarkdownView(root);
  for (let end = 1; end < text.length; end += 1) view.update(text.slice(0, end), [], marker);
  view.update(text, spans, marker);
  return root.innerHTML;
}"""
FIND = """async ([sentence, passage]) => {
  const place = (await import("/components/sources.js")).findSentence(sentence, passage);
  return place && passage.slice(place.start, place.end);
}"""
ANSWER = """async ({text, citations}) => {
  const {Answer} = await import("/components/answer.js");
  const answer = new Answer("c", () => {});
  const hits = [{collection: "c", document: "d", chunk: "1", title: "T", text: "", relevance: 1}];
  answer.restore({query: "q", text, sources: hits, citations, complete: true});
  return [...answer.body.querySelectorAll("mark")].map((mark) => mark.textContent);
}"""


async def render(console: ConsolePage, text: str, spans: list[dict[str, Any]] | None = None) -> str:
    html: str = await console.page.evaluate(RENDER, {"text": text, "spans": spans or []})
    return html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("One.\nStill one.\n\nTwo.", "<p>One.\nStill one.</p><p>Two.</p>"),
        ("**bold** and *soft* and `co*d*e`", "<p><strong>bold</strong> and <em>soft</em> and <code>co*d*e</code></p>"),
        ("- a\n- **b**\n  more", "<ul><li>a</li><li><strong>b</strong>\n  more</li></ul>"),
        ("3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'),
        ("## Title\nText", '<p class="heading">Title</p><p>Text</p>'),
        ("```py\nx = [1]\n\ny\n```\nafter", "<pre><code>x = [1]\n\ny</code></pre><p>after</p>"),
        ("```\nstill open", "<pre><code>still open</code></pre>"),
        (
            "| **a** | b |\n|---|:-:|",
            '<div class="table"><table><tr><td> <strong>a</strong> </td><td> b </td></tr></table></div>',
        ),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("<b onclick=x>hi</b> &amp;", "<p>&lt;b onclick=x&gt;hi&lt;/b&gt; &amp;amp;</p>"),
        ("[click](javascript:alert(1)) [x](data:text/html,y)", "<p>[click](javascript:alert(1)) x</p>"),
        (
            "[docs](https://example.org/a?b=1)",
            '<p><a href="https://example.org/a?b=1" target="_blank" rel="noopener noreferrer">docs</a></p>',
        ),
        ("A claim. [2]", '<p>A claim.<span class="held">\u202f<b>2</b></span></p>'),
        ("`[1]` and **so [1]**", '<p><code>[1]</code> and <strong>so<span class="held">\u202f<b>1</b></span></strong></p>'),
    ],
)
async def test_markdown_becomes_plain_elements(console: ConsolePage, text: str, html: str) -> None:
    assert await render(console, text) == html


async def test_a_cited_sentence_is_marked_across_bold_words(console: ConsolePage) -> None:
    html = await render(console, "First. The **second** one. [1]", [{"start": 7, "end": 26, "sources": "1"}])
    mark = '<mark data-sources="1">'
    assert html.startswith(f"<p>First. {mark}The </mark><strong>{mark}second</mark></strong>{mark} one.</mark>")


@pytest.mark.parametrize("before", ["Plain. ", "水力发电。", "🌊🌊 waves. "])
async def test_spans_count_characters_in_every_script(console: ConsolePage, before: str) -> None:
    sentence = "Water 🌊 turns wheels."
    citation = {"number": 1, "start": len(before), "end": len(before) + len(sentence), "support": 0.9}
    marks = await console.page.evaluate(ANSWER, {"text": f"{before}{sentence} [1]", "citations": [citation]})
    assert marks == [sentence]


@pytest.mark.parametrize(
    ("sentence", "passage", "found"),
    [
        ("The wheel is oak.", "Old. The **wheel**\nis oak. New.", "The **wheel**\nis oak"),
        ("水力推动车轮", "开始。水力，推动车轮。结束。", "水力，推动车轮"),
        ("Колесо сделано из дуба", "Мельница стара. Её колесо сделано из старого дуба.", " Её колесо сделано из старого дуба."),
        ("Nothing of the kind stands here", "Quite another text. With two sentences.", None),
        ("...", "Quite another text.", None),
    ],
)
async def test_a_sentence_is_found_in_its_passage(console: ConsolePage, sentence: str, passage: str, found: str | None) -> None:
    assert await console.page.evaluate(FIND, [sentence, passage]) == found
