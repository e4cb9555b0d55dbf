from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.chunking.chunks import chunk
from services.retrieval.chunking.settings import DEFAULT_CHUNKING
from services.retrieval.chunking.tokens import estimate_tokens
from services.retrieval.readers import markdown
from services.retrieval.reading import Heading

WORDS = st.sampled_from(
    [
        "word",
        "Слово",
        "猫在睡觉",
        "a.",
        "т.е. ",
        "конец.\n\n",
        "结束。",
        "\n# Heading\n",
        "x" * 900,
        "1,234",
        " ",
        "\n",
        "| a | b |\n",
    ]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=30)), max_size=300).map(" ".join)


@given(TEXTS)
def test_chunks_are_bounded_spans_that_cover_the_text(text: str) -> None:
    reading = markdown.read(text)
    chunks = list(chunk(reading.text, title="A title", headings=reading.headings))
    covered = bytearray(len(reading.text))
    for number, one in enumerate(chunks):
        assert one.ordinal == number
        assert one.text == reading.text[one.start : one.end] == one.text.strip() != ""
        assert estimate_tokens(one.text) <= DEFAULT_CHUNKING.most_tokens
        covered[one.start : one.end] = b"\x01" * (one.end - one.start)
    assert all(flag or character.isspace() for flag, character in zip(covered, reading.text, strict=True))
    assert [one.start for one in chunks] == sorted({one.start for one in chunks})


def test_sentences_stay_whole_and_overlap() -> None:
    text = " ".join(f"Sentence number {number} says something of its own." for number in range(100))
    chunks = list(chunk(text))
    assert all(one.text.startswith("Sentence") and one.text.endswith("own.") for one in chunks)
    assert all(before.end > after.start for before, after in pairwise(chunks))
    assert max(estimate_tokens(one.text) for one in chunks) > DEFAULT_CHUNKING.most_tokens / 2


def test_a_heading_begins_a_chunk_and_is_known_to_those_under_it() -> None:
    body = "This sentence has some more words in it than a short one has. " * 30
    text = f"# Guide\n\n{body}\n\n## Setup\n\n{body}"
    reading = markdown.read(text)
    chunks = list(chunk(text, title=reading.title, headings=reading.headings))
    begins = next(one for one in chunks if one.text.startswith("## Setup"))
    assert begins.prefix == "Guide"
    assert chunks[-1].prefix == "Guide > Setup"
    assert chunks[-1].indexed_text == f"Guide > Setup\n{chunks[-1].text}"


def test_small_sections_share_a_chunk() -> None:
    text = "".join(f"## Part {number}\n\nShort.\n\n" for number in range(5))
    assert len(list(chunk(text, headings=markdown.read(text).headings))) == 1


def test_a_heading_path_follows_the_levels() -> None:
    body = "Enough words to fill a chunk of its own, said once and again. " * 30
    headings = [Heading(0, 1, "Top"), Heading(len(body), 2, "Middle"), Heading(2 * len(body), 2, "Last")]
    chunks = list(chunk(body * 3, headings=headings))
    assert chunks[-1].prefix == "Top > Last"


def test_nothing_comes_of_nothing() -> None:
    assert list(chunk(" \n\t ")) == []
