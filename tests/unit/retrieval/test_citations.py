"""Citation markers are checked while the text streams, however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.citations import Citation, CitationChecker, Text
from services.retrieval.passages import Hit


def hit(name: str, text: str) -> Hit:
    return Hit(
        collection="docs",
        document=name,
        chunk=f"{name}-0",
        text=text,
        score=1.0,
        relevance=0.5,
        title="",
        metadata={},
        start=0,
        end=len(text),
    )


SOURCES = [
    hit("pipe", "A penstock is a pipe that brings water to a turbine."),
    hit("length", "The penstock of Kirkwall is 412 metres long."),
]


def check(*pieces: str) -> tuple[str, list[Citation]]:
    checker = CitationChecker(SOURCES)
    found = [piece for text in pieces for piece in checker.feed(text)] + list(checker.finish())
    text = "".join(piece.text for piece in found if isinstance(piece, Text))
    assert text == checker.text
    return text, [piece for piece in found if isinstance(piece, Citation)]


def test_marker_cites_the_sentence_before_it() -> None:
    text, citations = check("Water flows. The penstock is 412 metres long. [2] It is a pipe. [1]")
    assert text == "Water flows. The penstock is 412 metres long. [2] It is a pipe. [1]"
    assert [(one.number, one.document, text[one.start : one.end]) for one in citations] == [
        (2, "length", "The penstock is 412 metres long."),
        (1, "pipe", "It is a pipe."),
    ]


@pytest.mark.parametrize(
    ("given_", "kept", "numbers"),
    [
        ("It is long [7].", "It is long.", []),
        ("It is long [0]. Or not [2].", "It is long. Or not [2].", [2]),
        ("It is long [1, 7, 2].", "It is long [1][2].", [1, 2]),
        ("It is long [1][2]", "It is long [1][2]", [1, 2]),
        ("管道很长。【2】", "管道很长。[2]", [2]),
        ("Use `a[7]` here [1].", "Use `a[7]` here [1].", [1]),
        ("Run `make ask` or `make run. [1] Then wait. [2]", "Run `make ask` or `make run. [1] Then wait. [2]", [1, 2]),
        ("```\na [1]\n```\nIt is long. [2]", "```\na [1]\n```\nIt is long. [2]", [2]),
        ("A list [of things] and [ref-1].", "A list [of things] and [ref-1].", []),
        ("An open end [", "An open end [", []),
        ("An open end [1", "An open end [1", []),
        ("[1] at the start", "[1] at the start", [1]),
    ],
)
def test_only_numbers_that_name_a_source_stay(given_: str, kept: str, numbers: list[int]) -> None:
    text, citations = check(given_)
    assert text == kept
    assert [one.number for one in citations] == numbers


def test_markers_side_by_side_cite_one_sentence() -> None:
    text, citations = check("It rains. The pipe is long [1][2].")
    assert [text[one.start : one.end] for one in citations] == ["The pipe is long", "The pipe is long"]


def test_support_is_the_share_of_words_the_best_place_of_the_source_holds() -> None:
    _, (whole, none, part, other) = check(
        "The penstock of Kirkwall is 412 metres long. [2] Bananas grow elsewhere. [1] "
        "The penstock of Kirkwall rusts slowly, people say. [2] The penstock is 999 metres long. [2]"
    )
    assert whole.support == 1.0
    assert SOURCES[1].text[whole.source_start : whole.source_end] == SOURCES[1].text
    assert none.support == 0.0
    assert 0.2 < part.support < 0.9
    assert other.support == 0.0, "another number is no support"


@given(
    st.lists(
        st.sampled_from(["Water ", "flows. ", "[1]", "[2, 9]", " [", "3", "]", "`", "[8] ", "\n", "管道。", "1"]), max_size=30
    ),
    st.data(),
)
def test_cutting_the_text_elsewhere_changes_nothing(parts: list[str], data: st.DataObject) -> None:
    whole = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert check(whole) == check(*pieces)


@given(st.text(alphabet="ab .[]12,`\n", max_size=80))
def test_spans_lie_in_the_text_and_numbers_are_sources(answer: str) -> None:
    text, citations = check(answer)
    for one in citations:
        assert one.number in {1, 2}
        assert 0 <= one.start <= one.end <= len(text)
        assert 0 <= one.support <= 1
