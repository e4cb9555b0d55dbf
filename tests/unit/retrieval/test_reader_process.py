import asyncio
import time

from services.retrieval.parsing import UnsupportedMediaTypeError
from services.retrieval.reader_process import Content, read_all
from services.retrieval.reading import UnreadableError
from tests.unit.retrieval.test_parsing import pdf, word


async def test_everything_is_read_in_order() -> None:
    large = "A sentence that is repeated. " * 20_000
    contents = [
        Content("small", "", ""),
        Content(pdf("Hello"), "", ""),
        Content(b"%PDF-1.4 broken", "", ""),
        Content(word(), "", ""),
        Content(b"\x89PNG\r\n", "", ""),
        Content(large, "text/plain", ""),
    ]
    small, from_pdf, broken, from_word, image, from_large = await read_all(contents)
    assert isinstance(small, tuple)
    assert isinstance(from_pdf, tuple)
    assert isinstance(from_word, tuple)
    assert isinstance(from_large, tuple)
    assert [one[1].text.split()[0] for one in (small, from_pdf, from_word)] == ["small", "Hello", "Cats"]
    assert from_large[1].text == large
    assert isinstance(broken, UnreadableError)
    assert "corrupt" in str(broken)
    assert isinstance(image, UnsupportedMediaTypeError)


async def test_a_large_page_does_not_stop_the_loop() -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watching = asyncio.create_task(watch())
    page = "<html><body>" + "<p>some words that are <b>normal</b></p>\n" * 100_000
    (outcome,) = await read_all([Content(page, "", "")])
    watching.cancel()
    assert isinstance(outcome, tuple)
    # Parsing alone takes ten times as long; the bound is wide, since the machine of a test is shared.
    assert longest < 0.2
