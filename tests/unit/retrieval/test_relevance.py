import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.relevance import cosine, coverage, relevance, similarity

VALUES = st.lists(st.floats(-10, 10), min_size=3, max_size=3)


@given(VALUES, VALUES)
def test_similarity_is_a_share(query: list[float], passage: list[float]) -> None:
    assert 0 <= similarity(cosine(query, passage)) <= 1


def test_similarity_grows_with_the_cosine_and_not_with_length() -> None:
    at = [similarity(cosine([1.0, 0.0], [near, math.sqrt(1 - near**2)])) for near in (-1, 0, 0.2, 0.42, 0.6, 1)]
    assert at == sorted(at)
    assert at[3] == pytest.approx(0.5)
    assert at[0] < 0.01
    assert at[-1] > 0.99
    assert cosine([5.0, 0.0], [3.0, 4.0]) == pytest.approx(cosine([1.0, 0.0], [0.6, 0.8]))
    assert cosine([0.0, 0.0], [1.0, 0.0]) == cosine([0.0, 1.0], [1.0, 0.0]) == 0


def test_coverage_weighs_rare_words_more() -> None:
    rarities = {1: 8.0, 2: 1.0, 3: 1.0}
    assert coverage(rarities, {1: 0.3}) == 0.8
    assert coverage(rarities, {2: 2.0, 9: 2.0}) == 0.1
    assert coverage(rarities, dict.fromkeys(rarities, 1.0)) == 1.0
    assert coverage({}, {1: 1.0}) == 0.0


def test_relevance_grows_with_coverage_from_0_to_1() -> None:
    at = [relevance(covered, None) for covered in (0.0, 0.15, 0.3, 0.6, 1.0)]
    assert at == sorted(at)
    assert (at[0], at[-1]) == (0.0, 1.0)
    assert at[1] < 0.25 < at[2] < 0.75 < at[3]


def test_relevance_is_the_mean_where_there_is_a_vector() -> None:
    for near in (-1.0, 0.42, 0.6):
        assert relevance(1.0, near) == pytest.approx((1 + similarity(near)) / 2)
        assert relevance(0.0, near) == pytest.approx(similarity(near) / 2)
