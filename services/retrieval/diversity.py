"""Chooses passages that fit and differ from one another, by maximal marginal relevance (MMR)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from services.retrieval.fusion import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def diversified(scores: Sequence[float], alike: Callable[[int, int], float], weight: float, count: int) -> list[int]:
    """The places of the chosen, in the order in which they were chosen.

    Each time it is the one with the most of `weight` times its score, spread over 0 to 1, less `1 - weight` times its likeness
    to the most alike of those chosen before.

    Args:
        scores: How well each fits, in any scale.
        alike: How much two are alike, 0 to 1, by their places.
        weight: Lambda: 1 heeds scores alone, 0 likeness alone.
        count: Most to choose.
    """
    fits = spread(scores)
    likest = [0.0] * len(fits)
    left = list(range(len(fits)))
    chosen: list[int] = []
    while left and len(chosen) < count:
        best = max(left, key=lambda place: (weight * fits[place] - (1 - weight) * likest[place], -place))
        left.remove(best)
        chosen.append(best)
        if len(chosen) < count and weight < 1:
            for place in left:
                likest[place] = max(likest[place], alike(best, place))
    return chosen


def words_in_common(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    """The cosine of two passages' weighted terms."""
    if len(other) < len(one):
        one, other = other, one
    norm = math.sqrt(sum(weight * weight for weight in one.values()) * sum(weight * weight for weight in other.values()))
    return sum(weight * other.get(term, 0.0) for term, weight in one.items()) / norm if norm else 0.0
