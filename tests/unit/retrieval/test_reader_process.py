import time

from services.retrieval.parsing import UnsupportedMediaTypeError, parse
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


async def test_a_large_page_costs_the_service_little() -> None:
    content = Content("<html><body>" + "<p>some words that are <b>normal</b></p>\n" * 50_000, "", "")
    started = time.process_time()
    parse(content.content)
    here = time.process_time() - started
    started = time.process_time()
    (outcome,) = await read_all([content])
    apart = time.process_time() - started
    assert isinstance(outcome, tuple)
    # What is left is to hand it over and back. Processor time, since the machine of a test is shared.
    assert apart < here / 3
