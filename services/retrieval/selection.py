"""Chooses the passages to return out of those that were found."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from operator import mul
from typing import TYPE_CHECKING, Final

from services.retrieval.diversity import diversified, words_in_common
from services.retrieval.passages import Explanation, Hit
from services.retrieval.relevance import cosine, coverage, relevance
from services.retrieval.reranking import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.retrieval.catalog import Collection
    from services.retrieval.passages import Options
    from services.retrieval.ranking import Placed

# Passages that a threshold or diversity choose from, for each one to return; at least, and beyond those to return at most.
_POOL: Final = 4
_LEAST_POOL: Final = 50
_MOST_MORE: Final = 100


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that was found, and how good it is.

    Attributes:
        target: Its collection.
        placed: The chunk, its document, and its places.
        score: What passages are ordered by.
        relevance: How likely it answers the query, 0 to 1.
        covered: The share of the query's weighted words that it holds.
        near: The cosine of its vector and the query's; None where one of them has none.
        reranked: The grade that a model gave it, 0 to 1; None where none did.
    """

    target: Collection
    placed: Placed
    score: float
    relevance: float
    covered: float
    near: float | None
    reranked: float | None = None

    @classmethod
    def of(cls, target: Collection, placed: Placed, dense: Sequence[float] | None, rarities: Mapping[int, float]) -> Passage:
        """Judges a chunk by the query's vector, if it has one, and the rarities of its terms."""
        candidate = placed.candidate
        near = cosine(dense, candidate.dense) if dense is not None and candidate.dense else None
        covered = coverage(rarities, candidate.weights)
        return cls(target, placed, candidate.score, relevance(covered, near, target.calibrated), covered, near)

    def hit(self, words: Mapping[str, int] | None, wider: tuple[int, str] | None) -> Hit:
        """What callers get.

        Args:
            words: The query's words with the terms they stand for, if the hit is to be explained.
            wider: Where the passage starts, and its text, if it was widened.
        """
        candidate, live = self.placed.candidate, self.placed.live
        start, text = wider or (candidate.start, candidate.text)
        return Hit(
            collection=self.target.collection,
            document=live.document,
            chunk=str(candidate.uid),
            text=text,
            score=self.score if self.reranked is None else self.reranked,
            relevance=self.relevance,
            title=live.title,
            metadata=live.metadata,
            start=start,
            end=start + len(text) if wider else candidate.end,
            explanation=None if words is None else self._explanation(words),
            page=candidate.where.page,
            headings=candidate.where.path,
            covered=self.covered,
            cosine=self.near,
        )

    def _explanation(self, words: Mapping[str, int]) -> Explanation:
        places, weights = self.placed.places, self.placed.candidate.weights
        return Explanation(
            dense=places.dense if places else None,
            sparse=places.sparse if places else None,
            matched_terms=tuple(word for word, term in words.items() if term in weights),
            coverage=self.covered,
            reranked=self.reranked,
        )


def pool_size(top_k: int, options: Options) -> int:
    """How many passages of each collection to choose from."""
    if options.reranker:
        top_k = max(top_k, CANDIDATES)
    if options.mmr_lambda is None and not options.min_relevance:
        return top_k
    return min(max(_POOL * top_k, _LEAST_POOL), top_k + _MOST_MORE)


async def selected(found: Sequence[Passage], top_k: int, options: Options, *, merged: bool) -> list[Passage]:
    """The passages to return, in order.

    Args:
        found: Those of each collection, best first.
        top_k: Most to return.
        options: Threshold and diversity.
        merged: Whether they are of several collections, and so to be ordered by relevance.
    """
    passages = [one for one in found if one.relevance >= options.min_relevance]
    if merged:
        passages = [replace(one, score=one.relevance) for one in passages]
        passages.sort(key=lambda one: one.score, reverse=True)
    if options.mmr_lambda is None:
        return passages[:top_k]
    chosen = await asyncio.to_thread(_diversified, passages, options.mmr_lambda, top_k)
    return [passages[place] for place in chosen]


def _diversified(passages: Sequence[Passage], weight: float, top_k: int) -> list[int]:
    units = [_unit(one.placed.candidate.dense) for one in passages]

    def alike(one: int, other: int) -> float:
        comparable = passages[one].target.embedder == passages[other].target.embedder
        if comparable and units[one] and units[other]:
            cosine: float = sum(map(mul, units[one], units[other]))
            return max(0.0, cosine)
        return words_in_common(passages[one].placed.candidate.weights, passages[other].placed.candidate.weights)

    scores = [one.score if one.reranked is None else one.reranked for one in passages]
    return diversified(scores, alike, weight, top_k)


def _unit(vector: Sequence[float]) -> Sequence[float]:
    """The vector with length 1; empty stays empty."""
    length = math.sqrt(sum(map(mul, vector, vector)))
    return [value / length for value in vector] if length else ()
