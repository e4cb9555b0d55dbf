from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.chunking.chunks import chunk
from services.retrieval.neighbors import joined
from services.retrieval.store import Candidate

NOWHERE = UUID(int=0)


def candidates(text: str) -> list[Candidate]:
    return [Candidate(NOWHERE, NOWHERE, 1, one.start, one.end, one.text, 0.0, (), {}) for one in chunk(text)]


words = st.lists(st.sampled_from(["Pumps", "lift", "water.", "Gates", "close!", "\n\n", "Why?", "水。", "  "]), max_size=900)


@given(words, st.integers(0, 4), st.integers(1, 5))
def test_chunks_joined_are_the_text_but_for_white_space(given_: list[str], first: int, count: int) -> None:
    text = " ".join(given_)
    some = candidates(text)[first : first + count]
    if not some:
        return
    start, whole = joined(some)
    assert start == some[0].start
    original = text[start : some[-1].end]
    assert len(whole) == len(original)
    assert all(one == other or (one.isspace() and other.isspace()) for one, other in zip(whole, original, strict=True))
