"""How likely a passage answers a query, from 0 to 1, on one scale for all modes.

Scores cannot say that: those of BM25 grow with the query's length, those of reciprocal rank fusion know places only, and the
cosines of a small embedder lie so close together that a threshold such as 0.7 drops everything. Two facts about query and
passage can, whichever leg found the passage:

- *coverage*: the share of the query's words that the passage holds, each weighted by its rarity (IDF) in the collection;
- *similarity*: the cosine of their vectors, where both have one, made into a likelihood by a logistic curve. For MiniLM,
  unrelated passages of one collection lie around 0.1 to 0.3, answers around 0.5 to 0.8.

With both, relevance is their mean: each makes up for the other's blindness (to synonyms; to names and numbers). Without
vectors it is coverage alone.
"""

from __future__ import annotations

import math
from operator import mul
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The cosine at which an answer is as likely as not, and how steep the curve is there.
_MIDDLE: Final = 0.42
_STEEPNESS: Final = 12.0


def similarity(query: Sequence[float], passage: Sequence[float]) -> float:
    """The likelihood that the cosine of two vectors speaks for. The vectors need not have length 1."""
    norm = math.sqrt(sum(map(mul, query, query)) * sum(map(mul, passage, passage)))
    cosine = sum(map(mul, query, passage)) / norm if norm else 0.0
    return 1 / (1 + math.exp(-_STEEPNESS * (cosine - _MIDDLE)))


def coverage(rarities: Mapping[int, float], weights: Mapping[int, float]) -> float:
    """The share of the query's weighted terms in the passage.

    Args:
        rarities: The IDF of each term of the query, by term id.
        weights: The passage's terms.
    """
    whole = sum(rarities.values())
    return sum(rarity for term, rarity in rarities.items() if term in weights) / whole if whole else 0.0


def relevance(covered: float, similar: float | None) -> float:
    """Both facts as one figure; `similar` is None where the passage or the query has no vector."""
    return covered if similar is None else (covered + similar) / 2
