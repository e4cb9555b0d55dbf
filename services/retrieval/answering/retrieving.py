"""Understands a question in its conversation, and finds what to answer it from."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure
from services.retrieval.answering.events import Understanding
from services.retrieval.embedding import embed_as
from services.retrieval.intent.intents import Before, judged
from services.retrieval.intent.kinds import Intent
from services.retrieval.intent.rewriting import rewritten, says_enough
from services.retrieval.languages import is_known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.answering.events import CacheMode, Question
    from services.retrieval.answering.plan import Plan
    from services.retrieval.catalog import Collection
    from services.retrieval.conversations import Turn
    from services.retrieval.embedding import Embedder
    from services.retrieval.passages import Found, Hit, Options, SearchMode

# Reciprocal rank fusion of what the question and the completed question find, places counting from 0.
_K: Final = 60
# Below this certainty between a new topic and a follow-up, likeness in meaning is asked too.
_SURE: Final = 0.75
_CHARACTERS_COMPARED: Final = 600


class SearchesIn(Protocol):
    """Whatever finds passages in collections that were looked up already."""

    async def search_in(
        self,
        targets: Sequence[Collection],
        query: str,
        top_k: int,
        mode: SearchMode,
        options: Options,
        *,
        cache: CacheMode,
    ) -> Found:
        """As `passages.Searches.search`."""
        ...


class Retriever:
    """Finds what a question is answered from.

    Args:
        searches: Finds passages.
        embedder: Tells how alike two turns are.
    """

    def __init__(self, searches: SearchesIn, embedder: Embedder) -> None:
        self._searches = searches
        self._embedder = embedder

    async def understand(self, question: Question, seen: Sequence[Turn], targets: Sequence[Collection]) -> Understanding:
        """What the question is after; nothing is told outside of conversations."""
        if not question.conversation and not seen:
            return Understanding()
        earlier = next((turn for turn in reversed(seen) if turn.intent != Intent.CHIT_CHAT), None)
        before = Before(earlier.rewritten_query or earlier.query, earlier.text) if earlier else None
        judgement = judged(question.query, before)
        if (
            before is not None
            and judgement.confidence < _SURE
            and judgement.intent in (Intent.NEW_TOPIC, Intent.FOLLOW_UP)
            and (likeness := await self._likeness(question.query, before, targets)) is not None
        ):
            judgement = judged(question.query, before, likeness)
        complete = rewritten(question.query, judgement.intent, before) if before else ""
        return Understanding(judgement.intent, judgement.confidence, complete)

    async def retrieve(
        self, question: Question, understanding: Understanding, plan: Plan, targets: Sequence[Collection], seen: Sequence[Turn]
    ) -> Found:
        """What the question and, where it is another, the completed question find, fused."""
        queries = [understanding.rewritten or question.query]
        is_continued = understanding.intent is Intent.CONTINUATION
        if understanding.rewritten and not is_continued and says_enough(question.query):
            queries.insert(0, question.query)
        # To go on needs passages that were not told yet.
        told = {citation.chunk for turn in seen for citation in turn.citations} if is_continued else set()
        top_k = plan.top_k + min(len(told), plan.top_k)
        found = await asyncio.gather(
            *(
                self._searches.search_in(targets, query, top_k, question.mode, plan.options, cache=question.cache)
                for query in queries
            )
        )
        if told:
            fresh = [hit for hit in found[0].hits if hit.chunk not in told]
            return replace(found[0], hits=tuple(fresh[: plan.top_k]))
        return found[0] if len(found) == 1 else _fused(found, plan.top_k)

    async def _likeness(self, query: str, before: Before, targets: Sequence[Collection]) -> float | None:
        """The cosine of the vectors of the two turns; None where the embedder knows neither or does not answer."""
        identity = targets[0].embedder
        if not is_known(query, identity.languages):
            return None
        texts = [query[:_CHARACTERS_COMPARED], f"{before.query} {before.text}"[:_CHARACTERS_COMPARED]]
        try:
            one, other = await embed_as(self._embedder, identity, texts, collection=targets[0].collection)
        except Failure:
            # The wording tells nearly as much.
            return None
        norm = (sum(x * x for x in one) * sum(y * y for y in other)) ** 0.5
        return sum(x * y for x, y in zip(one, other, strict=True)) / norm if norm else None


def _fused(found: Sequence[Found], top_k: int) -> Found:
    hits: dict[tuple[str, str], Hit] = {}
    scores: dict[tuple[str, str], float] = {}
    for one in found:
        for place, hit in enumerate(one.hits):
            key = (hit.collection, hit.chunk)
            scores[key] = scores.get(key, 0.0) + 1 / (_K + place)
            known = hits.get(key)
            hits[key] = hit if known is None or hit.relevance > known.relevance else known
    ordered = sorted(scores, key=lambda key: -scores[key])[:top_k]
    # The last one is what the completed question found.
    return replace(found[-1], hits=tuple(replace(hits[key], score=scores[key]) for key in ordered))
