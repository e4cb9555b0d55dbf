"""Whether a new index is as good as the one that serves: both are asked queries whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from services.retrieval.evaluation.evaluator import Setting, evaluate
from services.retrieval.evaluation.measures import Measure
from services.retrieval.evaluation.queries import made_of
from services.retrieval.reindexing.reindexing import Outcome

if TYPE_CHECKING:
    from services.retrieval.catalog import Collection
    from services.retrieval.evaluation.evaluator import SearchesIn
    from services.retrieval.evaluation.queries import Judgments
    from services.retrieval.reindexing.reindexing import Reindexing

# With fewer judged queries those made of the collection's own sentences say more.
_LEAST_JUDGED: Final = 5


class QualityGate:
    """Compares the two indexes of a collection."""

    def __init__(self, searches: SearchesIn, judgments: Judgments) -> None:
        self._searches = searches
        self._judgments = judgments

    async def compare(self, serving: Collection, reindexing: Reindexing) -> Outcome | None:
        """What both show; None where there is nothing to ask, as in a collection without text.

        Raises:
            Failure: what a search raises.
        """
        gate = reindexing.gate
        queries = (await self._judgments.of(serving.uid))[: gate.most_queries]
        judged = len(queries) >= _LEAST_JUDGED
        if not judged:
            queries = made_of(await self._judgments.texts(serving.uid, gate.most_queries))
        if not queries:
            return None
        new = replace(serving, index_uid=reindexing.index_uid, embedder=reindexing.embedder, has_vectors=True, calibration=None)
        scores = await evaluate(self._searches, [Setting("old", serving), Setting("new", new)], queries)
        difference = scores[1].differences[Measure.NDCG]
        return Outcome(
            passed=difference.mean >= -gate.most_loss,
            judged=judged,
            queries=len(queries),
            old=scores[0].measures[Measure.NDCG],
            new=scores[1].measures[Measure.NDCG],
            difference=difference,
        )
