import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.diversity import diversified, words_in_common

Matrix = list[list[float]]


@st.composite
def passages(draw: st.DrawFn) -> tuple[list[float], Matrix]:
    """Falling scores, and how much each two passages are alike."""
    size = draw(st.integers(1, 12))
    scores = draw(st.lists(st.floats(-3, 3), min_size=size, max_size=size))
    alike = draw(st.lists(st.lists(st.floats(0, 1), min_size=size, max_size=size), min_size=size, max_size=size))
    return sorted(scores, reverse=True), alike


@given(passages(), st.floats(0, 1), st.integers(1, 15))
def test_chooses_each_once_and_begins_with_the_best(given_: tuple[list[float], Matrix], weight: float, count: int) -> None:
    scores, alike = given_
    chosen = diversified(scores, lambda one, other: alike[one][other], weight, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(scores))
    assert chosen[0] == 0


@given(passages())
def test_lambda_1_changes_nothing(given_: tuple[list[float], Matrix]) -> None:
    scores, alike = given_
    assert diversified(scores, lambda one, other: alike[one][other], 1.0, len(scores)) == list(range(len(scores)))


def test_a_copy_gives_way() -> None:
    def alike(one: int, other: int) -> float:
        return 1.0 if {one, other} == {0, 1} else 0.1

    assert diversified([1.0, 0.9, 0.5, 0.0], alike, 0.5, 3) == [0, 2, 1]
    assert diversified([1.0, 0.9, 0.5, 0.0], alike, 0.9, 3) == [0, 1, 2]
    assert diversified([], alike, 0.5, 3) == []


def test_words_in_common() -> None:
    assert words_in_common({1: 2.0, 2: 1.0}, {1: 4.0, 2: 2.0}) == pytest.approx(1.0)
    assert words_in_common({1: 1.0}, {2: 1.0}) == 0.0
    assert words_in_common({1: 1.0}, {1: 1.0, 2: 1.0}) == pytest.approx(2**-0.5)
    assert words_in_common({}, {1: 1.0}) == 0.0
