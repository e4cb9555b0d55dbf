"""A model reorders what a search found, within what time there is, and says so."""

from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from penstock.retrieval.v1 import collection_service_pb2, search_service_pb2

from tests.support.hashing_embedder import JUDGE, NO_JUDGE, PLAIN_JUDGE
from tests.support.retrieval import Retrieval, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERY = "When is the old pump oiled?"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ranked(suite: Retrieval) -> "AsyncIterator[Retrieval]":
    """Twelve passages. By words the last is the right one, and no two of the others are alike."""
    await suite.create("rank")
    await suite.add(
        *(
            {"document": f"d{number}", "text": f"The old pump is oiled by hand{' or by foot' * number}."}
            for number in range(11)
        ),
        {"document": "right", "text": "Every pump gets its grease on Tuesday."},
        collection="rank",
    )
    suite.embedder.right = "grease on Tuesday"
    yield suite
    suite.embedder.thinking = 0.0


async def test_the_judge_decides_and_says_why(ranked: Retrieval) -> None:
    plain = await ranked.search(QUERY, "rank", explain=True)
    assert "right" not in [hit.document for hit in plain.hits]
    assert (plain.reranker, plain.rerank_note) == ("", "")
    assert not plain.hits[0].explanation.HasField("rerank_score")
    found = await ranked.search(QUERY, "rank", reranker=JUDGE, explain=True, top_k=3)
    assert (found.reranker, found.rerank_note) == (JUDGE, "")
    assert found.hits[0].document == "right"
    assert found.hits[0].score == found.hits[0].explanation.rerank_score == pytest.approx((3 * 0.9 + 2 * 0.1) / 3)
    assert found.hits[1].explanation.rerank_score == pytest.approx(0.4 / 3)
    # Those of one grade stay in the order that they had.
    assert [hit.document for hit in found.hits[1:]] == [hit.document for hit in plain.hits[:2]]
    assert found.timings.reranking.ToNanoseconds() > 0


async def test_a_judge_without_likelihoods_gives_grades(ranked: Retrieval) -> None:
    found = await ranked.search(QUERY, "rank", reranker=PLAIN_JUDGE)
    assert [hit.score for hit in found.hits] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert found.hits[0].document == "right"


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        (NO_JUDGE, grpc.StatusCode.FAILED_PRECONDITION, "MODEL_CAPABILITY_MISSING"),
        ("nobody", grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ],
)
async def test_a_model_that_cannot(ranked: Retrieval, model: str, code: grpc.StatusCode, reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ranked.search(QUERY, "rank", reranker=model)
    assert (caught.value.code(), reason_of(caught.value)) == (code, reason)


async def test_a_collection_s_judge_and_a_request_s(ranked: Retrieval) -> None:
    for reranker in (JUDGE, ""):
        request = collection_service_pb2.UpdateCollectionRequest(collection="rank", reranker=reranker)
        assert (await ranked.collections.UpdateCollection(request, timeout=20)).collection.reranker == reranker
        before = ranked.embedder.grades
        found = await ranked.search(QUERY, "rank")
        assert found.reranker == reranker
        assert ranked.embedder.grades - before == (12 if reranker else 0)
        assert (await ranked.search(QUERY, "rank", reranker="")).reranker == ""


async def test_a_short_deadline_leaves_the_order_and_says_so(ranked: Retrieval) -> None:
    plain = await ranked.found(QUERY, "rank")
    ranked.embedder.thinking = 5.0
    request = search_service_pb2.SearchRequest(collections=["rank"], query=QUERY, reranker=JUDGE)
    found = await ranked.searches.Search(request, timeout=1.5)
    ranked.embedder.thinking = 0.0
    assert [hit.document for hit in found.hits] == plain
    assert found.reranker == ""
    assert JUDGE in found.rerank_note
