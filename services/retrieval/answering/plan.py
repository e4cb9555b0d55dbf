"""What there is time for in an answer.

Searching shares one deadline with generating, which mostly takes longer and is what the caller waits for. What improves
passages at the price of time is left out before that price endangers the answer: under 3 seconds reranking, under 1.5 seconds
neighbours and half of the passages, under 1 second vectors for groundedness. Whatever is left out is told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from services.retrieval.answering.events import Degradation
from services.retrieval.fusion import Dbsf, Fusion, Rrf, Weighted
from services.retrieval.passages import DEFAULT_TOP_K

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.assignment import Treatment

    from services.retrieval.answering.events import Question
    from services.retrieval.catalog import Collection
    from services.retrieval.passages import Options

# Seconds to the deadline under which something is left out.
_RERANK_FROM: Final = 3.0
_WIDE_FROM: Final = 1.5
_VECTORS_FROM: Final = 1.0
_FEWEST: Final = 3
_FUSIONS: Final[Mapping[str, Fusion]] = {"RRF": Rrf(), "DBSF": Dbsf(), "WEIGHTED": Weighted()}
# Seconds to the deadline under which the end of an answer is judged by words: it must still be sent.
VECTORS_AT_END_FROM: Final = 0.3


@dataclass(frozen=True, slots=True)
class Plan:
    """How an answer will be made.

    Attributes:
        top_k: Most passages.
        options: What the search is told.
        by_meaning: Whether groundedness may take vectors.
        degradations: What is left out.
    """

    top_k: int
    options: Options
    by_meaning: bool
    degradations: tuple[Degradation, ...]


def planned(question: Question, treatment: Treatment | None, targets: Sequence[Collection], remaining: float | None) -> Plan:
    """What there is time for.

    Args:
        question: What is asked.
        treatment: What an experiment makes of it.
        targets: The collections; each may name a model that reranks.
        remaining: Seconds to the deadline; None for all the time.
    """
    top_k = (treatment.top_k if treatment else None) or question.top_k or DEFAULT_TOP_K
    options = _treated(question.options, treatment)
    left = float("inf") if remaining is None else remaining
    out: list[Degradation] = []
    if left < _RERANK_FROM and _reranks(options, targets):
        options = replace(options, reranker="")
        out.append(Degradation.RERANK_SKIPPED)
    if left < _WIDE_FROM:
        if options.neighbors:
            options = replace(options, neighbors=0)
            out.append(Degradation.NEIGHBORS_SKIPPED)
        if top_k > _FEWEST:
            top_k = max(_FEWEST, top_k // 2)
            out.append(Degradation.FEWER_PASSAGES)
    if left < _VECTORS_FROM:
        out.append(Degradation.GROUNDEDNESS_BY_WORDS)
    return Plan(top_k, options, left >= _VECTORS_FROM, tuple(out))


def _treated(options: Options, treatment: Treatment | None) -> Options:
    """The search as an experiment wants it."""
    if treatment is None:
        return options
    if treatment.fusion is not None:
        options = replace(options, fusion=_FUSIONS.get(treatment.fusion, options.fusion))
    if treatment.reranker is not None:
        options = replace(options, reranker=treatment.reranker)
    if treatment.min_relevance is not None:
        options = replace(options, min_relevance=treatment.min_relevance)
    return options


def _reranks(options: Options, targets: Sequence[Collection]) -> bool:
    return bool(options.reranker) or (options.reranker is None and any(target.settings.reranker for target in targets))
