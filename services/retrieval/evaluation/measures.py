"""Measures of one ranking, and how sure their means are.

Judgements are yes or no, and a document counts at the place of its best chunk. All measures lie between 0 and 1. Means come
with the 2.5th and 97.5th percentiles of bootstrap resamples of the queries (Efron and Tibshirani 1993, chapter 13), which are
the same for every setting, so that differences between settings are paired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

DEPTH: Final = 10
_RESAMPLES: Final = 2_000
# Resamples at a time: 3000 queries take 5 MB then.
_AT_ONCE: Final = 200
_SEED: Final = 20_261_121


class Measure(StrEnum):
    """What is measured of a ranking of documents."""

    NDCG = "NDCG"
    RECALL = "RECALL"
    MRR = "MRR"
    HIT = "HIT"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def measured(ranked: Sequence[str], relevant: Collection[str]) -> dict[Measure, float]:
    """All measures of the first ten documents; `relevant` is not empty."""
    first = ranked[:DEPTH]
    right = [place for place, document in enumerate(first) if document in relevant]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(DEPTH, len(relevant))))
    return {
        Measure.NDCG: sum(1 / math.log2(place + 2) for place in right) / ideal,
        Measure.RECALL: len(right) / len(relevant),
        Measure.MRR: 1 / (right[0] + 1) if right else 0.0,
        Measure.HIT: float(0 in right),
    }


def intervals(columns: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    """The mean of each column over the same queries, with its interval. All columns have the same length, at least 1."""
    names = list(columns)
    values = np.array([columns[name] for name in names], dtype=np.float64).T
    count = len(values)
    random = np.random.default_rng(_SEED)
    even = np.full(count, 1 / count)
    means = np.concatenate(
        [random.multinomial(count, even, size=_AT_ONCE) @ values / count for _ in range(_RESAMPLES // _AT_ONCE)]
    )
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    whole = values.mean(axis=0)
    return {name: Interval(float(whole[at]), float(low[at]), float(high[at])) for at, name in enumerate(names)}
