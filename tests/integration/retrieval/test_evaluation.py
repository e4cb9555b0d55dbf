"""Retrieval is measured on judged and on made queries, and relevance is calibrated, whatever the embedder."""

import statistics
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import grpc
import pytest
import pytest_asyncio
from penstock.retrieval.v1 import (
    collection_service_pb2,
    evaluation_pb2,
    evaluation_service_pb2_grpc,
    search_pb2,
)
from penstock.retrieval.v1 import evaluation_service_pb2 as messages

from tests.support.hashing_embedder import NAME, NARROW
from tests.support.retrieval import Retrieval, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.asyncio(loop_scope="module")

THINGS = ["valve", "pump", "boiler", "gauge", "flange", "rotor", "shaft", "nozzle", "gasket", "piston"]
PLACES = ["cellar", "tower", "harbour", "mill"]
JUDGED = [
    evaluation_pb2.JudgedQuery(query=f"Where does the {thing} of the {place} stand today?", relevant=[f"{thing}-{place}"])
    for thing in THINGS
    for place in PLACES
]


def documents() -> "Iterable[dict[str, Any]]":
    for thing in THINGS:
        for place in PLACES:
            text = f"Here the {thing} belongs to the {place}, where engineers have seen it beside a wall and a door."
            yield {"document": f"{thing}-{place}", "text": text}


class Measures:
    """Calls about quality."""

    def __init__(self, suite: Retrieval) -> None:
        self.suite = suite
        self.stub: Any = evaluation_service_pb2_grpc.EvaluationServiceStub(suite.service.channel)

    async def evaluate(self, collection: str, **fields: Any) -> messages.EvaluateRetrievalResponse:
        request = messages.EvaluateRetrievalRequest(collection=collection, **fields)
        return await self.stub.EvaluateRetrieval(request, timeout=60)  # type: ignore[no-any-return]  # stubs are Any here

    async def calibrate(self, collection: str, **fields: Any) -> evaluation_pb2.Calibration:
        request = messages.CalibrateCollectionRequest(collection=collection, **fields)
        return (await self.stub.CalibrateCollection(request, timeout=60)).calibration  # type: ignore[no-any-return]  # as above

    async def kept(self, collection: str, threshold: float) -> tuple[int, int]:
        """How many right and wrong documents a threshold lets through, over all queries."""
        right = wrong = 0
        for one in JUDGED:
            found = await self.suite.found(one.query, collection, min_relevance=threshold, top_k=20)
            right += one.relevant[0] in found
            wrong += len([document for document in found if document != one.relevant[0]])
        return right, wrong


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def measures(suite: Retrieval) -> Measures:
    for collection, embedder in (("wide", NAME), ("narrow", NARROW)):
        await suite.create(collection, embedder=embedder)
        await suite.add(*documents(), collection=collection)
    return Measures(suite)


async def test_settings_side_by_side(measures: Measures) -> None:
    kept = await measures.stub.SetJudgments(messages.SetJudgmentsRequest(collection="wide", queries=JUDGED), timeout=20)
    assert kept.query_count == len(JUDGED)
    got = await measures.stub.GetJudgments(messages.GetJudgmentsRequest(collection="wide"), timeout=20)
    assert list(got.queries) == JUDGED
    settings = [
        evaluation_pb2.EvaluationSetting(name="rrf"),
        evaluation_pb2.EvaluationSetting(name="words", mode=search_pb2.SEARCH_MODE_SPARSE),
        evaluation_pb2.EvaluationSetting(name="dbsf", fusion=search_pb2.Fusion(dbsf=search_pb2.DbsfFusion())),
        evaluation_pb2.EvaluationSetting(name="other embedder", collection="narrow"),
        evaluation_pb2.EvaluationSetting(name="nothing", min_relevance=1.0),
    ]
    compared = await measures.evaluate("wide", settings=settings)
    assert (compared.query_count, compared.judged) == (40, True)
    assert [one.name for one in compared.scores] == [one.name for one in settings]
    first, words, *_, nothing = compared.scores
    assert not first.ndcg_at_10.HasField("difference")
    for one in compared.scores:
        for measurement in (one.ndcg_at_10, one.recall_at_10, one.mrr_at_10, one.hit_at_1):
            assert 0 <= measurement.value.low <= measurement.value.mean <= measurement.value.high <= 1
        assert one.hit_at_1.value.mean <= one.mrr_at_10.value.mean <= one.ndcg_at_10.value.mean <= one.recall_at_10.value.mean
    assert words.ndcg_at_10.value.mean > 0.9
    expected = words.ndcg_at_10.value.mean - first.ndcg_at_10.value.mean
    assert words.ndcg_at_10.difference.mean == pytest.approx(expected)
    assert nothing.recall_at_10.value.mean == 0
    assert nothing.recall_at_10.difference.high < 0
    rows = compared.table.strip().splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == [one.name for one in settings]
    assert f"{words.ndcg_at_10.value.mean:.4f}" in rows[3]
    plot = ET.fromstring(compared.plot)  # noqa: S314 - our own
    assert plot.tag.endswith("svg")
    assert {one.text for one in plot.iter() if one.tag.endswith("text")} >= {"nDCG@10", "hit@1", "other embedder"}


async def test_queries_are_made_where_none_are_judged(measures: Measures) -> None:
    compared = await measures.evaluate("narrow", most_made=15)
    assert (compared.query_count, compared.judged) == (15, False)
    assert [one.name for one in compared.scores] == ["hybrid", "dense", "sparse"]
    assert compared.scores[2].ndcg_at_10.value.mean > 0.3


async def test_a_threshold_means_the_same_for_every_embedder(measures: Measures) -> None:
    before = [await measures.kept(collection, 0.5) for collection in ("wide", "narrow")]
    for collection in ("wide", "narrow"):
        calibration = await measures.calibrate(collection, queries=JUDGED)
        assert calibration.judged
        assert calibration.calibration_error < 0.05
        assert calibration.calibration_error < calibration.uncalibrated_error
    after = [await measures.kept(collection, 0.5) for collection in ("wide", "narrow")]
    precisions = [right / (right + wrong) for right, wrong in after]
    assert min(precisions) > 0.8
    assert abs(precisions[0] - precisions[1]) < 0.1
    assert min(right for right, _ in after) >= 0.8 * len(JUDGED)
    # Without it, the embedder whose vectors are all near each other lets nearly everything through.
    assert before[1][1] > 5 * max(1, after[1][1])
    means = []
    for collection in ("wide", "narrow"):
        hits = [(await measures.suite.search(one.query, collection)).hits[0] for one in JUDGED]
        means.append(statistics.fmean(hit.relevance for hit in hits))
    assert means[0] == pytest.approx(means[1], abs=0.1)


async def test_calibration_is_removed_and_needs_examples(measures: Measures) -> None:
    await measures.suite.create("few")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await measures.calibrate("few")
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "JUDGMENTS_MISSING")
    await measures.suite.add({"document": "a", "text": "A valve is here."}, collection="few")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await measures.calibrate("few", queries=[evaluation_pb2.JudgedQuery(query="valve", relevant=["a"])])
    assert reason_of(caught.value) == "JUDGMENTS_MISSING"
    got = collection_service_pb2.GetCollectionRequest(collection="wide")
    revision = (await measures.suite.collections.GetCollection(got, timeout=20)).collection.revision
    told = (await measures.suite.search(JUDGED[0].query, "wide")).hits[0].relevance
    await measures.calibrate("wide", remove=True)
    assert (await measures.suite.collections.GetCollection(got, timeout=20)).collection.revision == revision + 1
    assert (await measures.suite.search(JUDGED[0].query, "wide")).hits[0].relevance != pytest.approx(told, abs=1e-6)
