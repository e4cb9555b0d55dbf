"""How two legs become one ranking.

Qdrant's RRF: a point at zero-based rank r of a leg with weight w gets 1 / (k - 1 + (r + 1) / w), which
is 1 / (k + r) at weight 1. The default k is 2, not the 60 of the literature. A weight stretches
ranks; it does not scale scores.
"""

from statistics import mean, stdev

import pytest
from qdrant_client import models
from qdrant_client.models import Fusion, FusionQuery, PointStruct, Prefetch, SparseVector

from tests.contract.store.sidecar import Shelf

# Dense ranking for [1, 0, 0, 0]: 1, 2, 3. Sparse ranking for index 5: 4, 3, 2.
POINTS = [
    PointStruct(id=1, vector={"dense": [1.0, 0.0, 0.0, 0.0]}, payload={"side": "left"}),
    PointStruct(
        id=2, vector={"dense": [1.0, 0.5, 0.0, 0.0], "sparse": SparseVector(indices=[5], values=[1])}, payload={"side": "right"}
    ),
    PointStruct(
        id=3, vector={"dense": [1.0, 2.0, 0.0, 0.0], "sparse": SparseVector(indices=[5], values=[2])}, payload={"side": "right"}
    ),
    PointStruct(id=4, vector={"sparse": SparseVector(indices=[5, 6], values=[3, 1])}, payload={"side": "left"}),
]
DENSE = {1: 0, 2: 1, 3: 2}
SPARSE = {4: 0, 3: 1, 2: 2}
LEGS = [
    Prefetch(query=[1.0, 0.0, 0.0, 0.0], using="dense", limit=10),
    Prefetch(query=SparseVector(indices=[5], values=[1]), using="sparse", limit=10),
]


def rrf(k: int, weights: tuple[float, float] = (1, 1)) -> dict[int, float]:
    scores: dict[int, float] = {}
    for ranks, weight in zip((DENSE, SPARSE), weights, strict=True):
        for point, rank in ranks.items():
            scores[point] = scores.get(point, 0) + 1 / (k - 1 + (rank + 1) / weight)
    return scores


async def fused(shelf: Shelf, query: object, **options: object) -> dict[int, float]:
    response = await shelf.client.query_points(shelf.name, prefetch=LEGS, query=query, **options)  # type: ignore[arg-type]  # any query
    scores = [point.score for point in response.points]
    assert scores == sorted(scores, reverse=True)
    return {int(point.id): point.score for point in response.points}


async def test_default_rrf_counts_ranks_from_zero_with_k_2(shelf: Shelf) -> None:
    await shelf.put(*POINTS)
    scores = await fused(shelf, FusionQuery(fusion=Fusion.RRF))
    assert scores == pytest.approx(rrf(2), rel=1e-5)
    assert scores[1] == pytest.approx(1 / 2)
    assert scores[2] == pytest.approx(1 / 3 + 1 / 4)


async def test_rrf_with_k(shelf: Shelf) -> None:
    await shelf.put(*POINTS)
    assert await fused(shelf, models.RrfQuery(rrf=models.Rrf(k=60))) == pytest.approx(rrf(60), rel=1e-5)


async def test_rrf_with_weights(shelf: Shelf) -> None:
    await shelf.put(*POINTS)
    scores = await fused(shelf, models.RrfQuery(rrf=models.Rrf(k=60, weights=[0.7, 0.3])))
    assert scores == pytest.approx(rrf(60, (0.7, 0.3)), rel=1e-5)


async def test_dbsf_normalises_by_three_deviations(shelf: Shelf) -> None:
    await shelf.put(*POINTS)
    expected: dict[int, float] = {}
    for leg in LEGS:
        response = await shelf.client.query_points(shelf.name, query=leg.query, using=leg.using, limit=10)
        raw = {int(point.id): point.score for point in response.points}
        middle, spread = mean(raw.values()), 3 * stdev(raw.values())
        for point, score in raw.items():
            expected[point] = expected.get(point, 0) + (score - middle + spread) / (2 * spread)
    assert await fused(shelf, FusionQuery(fusion=Fusion.DBSF)) == pytest.approx(expected, rel=1e-4)


async def test_ties_share_a_score_and_none_is_lost(shelf: Shelf) -> None:
    await shelf.put(*(PointStruct(id=number, vector={"dense": [0.0, 1.0, 0.0, 0.0]}) for number in range(1, 9)))
    response = await shelf.client.query_points(shelf.name, query=[0.0, 1.0, 0.0, 0.0], using="dense", limit=20)
    assert sorted(int(point.id) for point in response.points) == list(range(1, 9))
    assert [point.score for point in response.points] == pytest.approx([1.0] * 8)


async def test_root_filter_restricts_each_leg_before_it_ranks(shelf: Shelf) -> None:
    """The first of each leg is on the left: a leg of one, filtered only after ranking, would be empty."""
    await shelf.put(*POINTS)
    right = models.Filter(must=[models.FieldCondition(key="side", match=models.MatchValue(value="right"))])
    legs = [leg.model_copy(update={"limit": 1}) for leg in LEGS]
    query = FusionQuery(fusion=Fusion.RRF)
    response = await shelf.client.query_points(shelf.name, prefetch=legs, query=query, query_filter=right)
    assert {point.id for point in response.points} == {2, 3}


async def test_root_filter_and_leg_filter(shelf: Shelf) -> None:
    await shelf.put(*POINTS)
    left = models.Filter(must=[models.FieldCondition(key="side", match=models.MatchValue(value="left"))])
    assert set(await fused(shelf, FusionQuery(fusion=Fusion.RRF), query_filter=left)) == {1, 4}
    legs = [LEGS[0].model_copy(update={"filter": left}), LEGS[1]]
    response = await shelf.client.query_points(shelf.name, prefetch=legs, query=FusionQuery(fusion=Fusion.RRF))
    # In the dense leg only 1 is left; the sparse leg is whole.
    assert {point.id: point.score for point in response.points} == pytest.approx({1: 1 / 2, 4: 1 / 2, 3: 1 / 3, 2: 1 / 4})


async def test_threshold_limit_and_offset(shelf: Shelf) -> None:
    await shelf.put(*POINTS)
    best = rrf(2)
    ranking = sorted(best, key=lambda point: -best[point])
    assert set(await fused(shelf, FusionQuery(fusion=Fusion.RRF), score_threshold=0.55)) == {
        point for point, score in best.items() if score >= 0.55
    }
    # 2 and 3 tie, 1 and 4 tie: the second page holds the tail of the ranking.
    page = await fused(shelf, FusionQuery(fusion=Fusion.RRF), limit=2, offset=2)
    assert set(page) == set(ranking[2:])
    dense = await shelf.client.query_points(shelf.name, query=[1.0, 0.0, 0.0, 0.0], using="dense", score_threshold=0.8)
    assert [point.id for point in dense.points] == [1, 2]
    legs = [LEGS[0].model_copy(update={"score_threshold": 0.8}), LEGS[1].model_copy(update={"limit": 1})]
    response = await shelf.client.query_points(shelf.name, prefetch=legs, query=FusionQuery(fusion=Fusion.RRF))
    assert {point.id for point in response.points} == {1, 2, 4}


async def test_batch_answers_in_order_as_single_queries_do(shelf: Shelf) -> None:
    await shelf.put(*POINTS)
    requests = [models.QueryRequest(query=leg.query, using=leg.using, limit=5, with_payload=True) for leg in [*LEGS, LEGS[0]]]
    answers = await shelf.client.query_batch_points(shelf.name, requests)
    assert [[point.id for point in answer.points] for answer in answers] == [[1, 2, 3], [4, 3, 2], [1, 2, 3]]
    assert answers[0].points[0].payload == {"side": "left"}


async def test_idf_weighs_rare_terms_more(shelf: Shelf) -> None:
    common = [PointStruct(id=number, vector={"sparse": SparseVector(indices=[1], values=[1])}) for number in range(2, 12)]
    await shelf.put(PointStruct(id=1, vector={"sparse": SparseVector(indices=[2], values=[1])}), *common)
    query = SparseVector(indices=[1, 2], values=[1, 1])
    response = await shelf.client.query_points(shelf.name, query=query, using="sparse", limit=20)
    assert response.points[0].id == 1
    assert response.points[0].score > 5 * response.points[1].score
