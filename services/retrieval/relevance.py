"""How likely a passage answers a query, from 0 to 1, on one scale for all modes.

Scores cannot say that: those of BM25 grow with the query's length, those of reciprocal rank fusion know places only, and the
cosines of a small embedder lie so close together that a threshold such as 0.7 drops everything. Two facts about query and
passage can, whichever leg found the passage:

- *coverage*: the share of the query's words that the passage holds, each weighted by its rarity (IDF) in the collection. A
  question always holds words that its answer does not (who, how many, 哪两个), so half of them is already much: answers cover
  about 0.35 to 0.6, other passages with words in common 0.15 to 0.2;
- *similarity*: the cosine of their vectors, where both have one. For MiniLM, unrelated passages of one collection lie around
  0.1 to 0.3, answers around 0.5 to 0.8.

A logistic curve makes each into a likelihood. With both, relevance is their mean: each makes up for the other's blindness (to
synonyms; to names and numbers). Without vectors it is that of coverage alone. These curves are a guess that serves every
collection from its first document on; `calibration` fits better ones to a collection and its embedder.
"""

from __future__ import annotations

import math
from operator import mul
from typing import TYPE_CHECKING, Final

from services.retrieval.calibration import logistic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.retrieval.calibration import Calibration

# Where an answer is as likely as not, and how steep the curve is there. Read off three judged collections in three languages
# (benchmarks/retrieval_quality.py shows what becomes of them), the same for all.
_COSINE_MIDDLE: Final = 0.42
_COSINE_STEEPNESS: Final = 12.0
_SHARE_MIDDLE: Final = 0.3
_SHARE_STEEPNESS: Final = 10.0


def cosine(query: Sequence[float], passage: Sequence[float]) -> float:
    """The cosine of two vectors, which need not have length 1; 0 where one has none."""
    norm = math.sqrt(sum(map(mul, query, query)) * sum(map(mul, passage, passage)))
    return sum(map(mul, query, passage)) / norm if norm else 0.0


def similarity(near: float) -> float:
    """The likelihood that the cosine of two vectors speaks for."""
    return logistic(_COSINE_STEEPNESS * (near - _COSINE_MIDDLE))


def coverage(rarities: Mapping[int, float], weights: Mapping[int, float]) -> float:
    """The share of the query's weighted terms in the passage.

    Args:
        rarities: The IDF of each term of the query, by term id.
        weights: The passage's terms.
    """
    whole = sum(rarities.values())
    return sum(rarity for term, rarity in rarities.items() if term in weights) / whole if whole else 0.0


def relevance(covered: float, near: float | None, calibration: Calibration | None = None) -> float:
    """Both facts as one figure.

    Args:
        covered: The share of the query's weighted terms in the passage.
        near: The cosine of their vectors; None where the passage or the query has none.
        calibration: That of the collection under the embedder of the vectors, if it has one.
    """
    if calibration is not None:
        return calibration.relevance(covered, near)
    # Stretched so that no word in common gives 0, and all of them 1.
    likely = (logistic(_SHARE_STEEPNESS * (covered - _SHARE_MIDDLE)) - _LOWEST) / (_HIGHEST - _LOWEST)
    return likely if near is None else (likely + similarity(near)) / 2


_LOWEST, _HIGHEST = (logistic(_SHARE_STEEPNESS * (share - _SHARE_MIDDLE)) for share in (0.0, 1.0))
