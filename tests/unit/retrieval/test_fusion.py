from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.fusion import Dbsf, Fusion, Ranked, Rrf, Weighted, fuse, ranked_alone, spread

Leg = list[Ranked]


@st.composite
def legs(draw: st.DrawFn) -> Leg:
    """A ranking: different chunks, falling scores."""
    numbers = draw(st.lists(st.integers(0, 30), unique=True, max_size=20))
    scores = draw(st.lists(st.floats(-1, 40), min_size=len(numbers), max_size=len(numbers)))
    return [Ranked(UUID(int=number), score) for number, score in zip(numbers, sorted(scores, reverse=True), strict=True)]


fusions = st.one_of(
    st.builds(Rrf, st.integers(1, 1000)),
    st.just(Dbsf()),
    st.builds(Weighted, st.floats(0.01, 1000), st.floats(0.01, 1000)),
)


@given(legs(), legs(), fusions)
def test_each_chunk_is_there_once_and_best_first(dense: Leg, sparse: Leg, fusion: Fusion) -> None:
    fused = fuse(dense, sparse, fusion)
    assert {one.uid for one in fused} == {one.uid for one in [*dense, *sparse]}
    assert len({one.uid for one in fused}) == len(fused)
    scores = [one.score for one in fused]
    assert scores == sorted(scores, reverse=True)


@given(legs(), legs(), fusions)
def test_places_tell_what_was_ranked(dense: Leg, sparse: Leg, fusion: Fusion) -> None:
    for one in fuse(dense, sparse, fusion):
        for leg, place in ((dense, one.dense), (sparse, one.sparse)):
            if place is None:
                assert one.uid not in {ranked.uid for ranked in leg}
            else:
                assert leg[place.rank - 1] == Ranked(one.uid, place.score)
                assert 0 <= place.normalized <= 1


@given(legs(), fusions)
def test_two_equal_rankings_stay_in_order(leg: Leg, fusion: Fusion) -> None:
    assert [one.uid for one in fuse(leg, [], fusion)] == [one.uid for one in leg]
    assert [one.uid for one in fuse(leg, leg, fusion)] == [one.uid for one in leg]


@given(legs(), legs(), st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0.5, 20))
def test_only_the_ratio_of_weights_counts(dense: Leg, sparse: Leg, one: float, other: float, factor: float) -> None:
    before = {fused.uid: fused.score for fused in fuse(dense, sparse, Weighted(one, other))}
    after = {fused.uid: fused.score for fused in fuse(dense, sparse, Weighted(one * factor, other * factor))}
    assert after == pytest.approx(before)


@given(legs(), legs(), st.floats(0.1, 10), st.floats(-5, 5))
def test_scales_of_scores_do_not_count(dense: Leg, sparse: Leg, factor: float, shift: float) -> None:
    moved = [Ranked(one.uid, one.score * factor + shift) for one in sparse]
    for fusion in (Weighted(), Rrf()):
        before = {fused.uid: fused.score for fused in fuse(dense, sparse, fusion)}
        after = {fused.uid: fused.score for fused in fuse(dense, moved, fusion)}
        if len({one.score for one in moved}) == len({one.score for one in sparse}):
            assert after == pytest.approx(before, abs=1e-6)


def test_by_hand() -> None:
    a, b, c = (UUID(int=number) for number in range(3))
    dense = [Ranked(a, 0.9), Ranked(b, 0.5), Ranked(c, 0.1)]
    sparse = [Ranked(b, 12.0), Ranked(a, 4.0)]

    def scores(fusion: Fusion) -> dict[UUID, float]:
        return {one.uid: one.score for one in fuse(dense, sparse, fusion)}

    assert scores(Rrf()) == pytest.approx({a: 1 / 60 + 1 / 61, b: 1 / 61 + 1 / 60, c: 1 / 62})
    assert scores(Weighted()) == pytest.approx({a: 0.7, b: 0.7 * 0.5 + 0.3, c: 0.0})
    # Deviations 0.4 and 5.657, means 0.5 and 8; the scale is six deviations.
    assert scores(Dbsf()) == pytest.approx(
        {a: (1 / 6 + 0.5) + (-(2**0.5) / 12 + 0.5), b: 0.5 + (2**0.5 / 12 + 0.5), c: -1 / 6 + 0.5}
    )


def test_one_ranking_alone_keeps_its_scores() -> None:
    leg = [Ranked(UUID(int=1), 8.0), Ranked(UUID(int=2), 6.0), Ranked(UUID(int=3), 4.0)]
    alone = ranked_alone(leg, by_meaning=False)
    assert [(one.score, one.sparse.normalized if one.sparse else None, one.dense) for one in alone] == [
        (8.0, 1.0, None),
        (6.0, 0.5, None),
        (4.0, 0.0, None),
    ]


@given(st.lists(st.floats(-100, 100), min_size=1))
def test_spread_is_within_0_and_1(scores: list[float]) -> None:
    spreaded = spread(scores)
    assert all(0 <= one <= 1 for one in spreaded)
    assert spreaded[scores.index(max(scores))] == 1
