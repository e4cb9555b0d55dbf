"""Fits, for one collection, how likely a passage answers a query, from queries whose answers are known.

The two facts about a passage (see `relevance`) are the share of the query's words that it holds and the cosine of their
vectors. How much each says differs by collection and, for cosines, by embedder: 0.5 is much to one and nothing to another.
Logistic regression over both makes a probability of them, on which a threshold means the same whatever the embedder: of the
passages at 0.7, about seven in ten answer. It is fitted by Newton's method (iteratively reweighted least squares) with a little
ridge, which keeps it finite where the facts part the two kinds of passages without error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# Passages of either kind that a fit needs; with fewer it would say nothing.
LEAST_OF_A_KIND: Final = 10
_RIDGE: Final = 0.1
_ROUNDS: Final = 50
_CONVERGED: Final = 1e-8
_LONGEST_STEP: Final = 5.0
_NO_WIDTH: Final = 1e-9
_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Example:
    """A passage that a search found, and whether it answers; `cosine` is None where one of the two has no vector."""

    covered: float
    cosine: float | None
    answers: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes a probability of the two facts, under one embedder.

    Attributes:
        fingerprint: The embedder's; under another one the calibration says nothing.
        intercept: Of the logit where there are vectors.
        share: Its slope by the share of words.
        cosine: Its slope by the cosine.
        alone_intercept: Of the logit where there are none.
        alone_share: Its slope by the share of words.
        queries: How many queries it was fitted on.
        examples: How many passages.
        judged: Whether people judged them; otherwise the queries were made of the collection's own sentences.
        error: Expected calibration error over ten bins, 0 to 1.
        time: When it was fitted, RFC 3339.
    """

    fingerprint: str
    intercept: float
    share: float
    cosine: float
    alone_intercept: float
    alone_share: float
    queries: int
    examples: int
    judged: bool
    error: float
    time: str

    def relevance(self, covered: float, cosine: float | None) -> float:
        """How likely a passage answers, 0 to 1."""
        if cosine is None:
            return logistic(self.alone_intercept + self.alone_share * covered)
        return logistic(self.intercept + self.share * covered + self.cosine * cosine)


class TooFewExamplesError(Exception):
    """There are not enough passages of one kind to tell the two apart."""


def fit(examples: Sequence[Example], *, fingerprint: str, queries: int, judged: bool, time: str) -> Calibration:
    """Fits a calibration. Raises TooFewExamplesError."""
    right = sum(one.answers for one in examples)
    if min(right, len(examples) - right) < LEAST_OF_A_KIND:
        message = f"{right} passages that answer and {len(examples) - right} that do not; at least {LEAST_OF_A_KIND} of each"
        raise TooFewExamplesError(message)
    answers = [one.answers for one in examples]
    alone = logistic_regression([(1.0, one.covered) for one in examples], answers)
    with_vectors = [one for one in examples if one.cosine is not None]
    both: Sequence[float] = (*alone, 0.0)
    kinds = sum(one.answers for one in with_vectors)
    if min(kinds, len(with_vectors) - kinds) >= LEAST_OF_A_KIND:
        facts = [(1.0, one.covered, one.cosine or 0.0) for one in with_vectors]
        both = logistic_regression(facts, [one.answers for one in with_vectors])
    fitted = Calibration(fingerprint, both[0], both[1], both[2], alone[0], alone[1], queries, len(examples), judged, 0.0, time)
    return replace(fitted, error=error([fitted.relevance(one.covered, one.cosine) for one in examples], answers))


def error(told: Sequence[float], answers: Sequence[bool]) -> float:
    """Expected calibration error: how far, on average, what is told lies from what is so, in bins of a tenth each."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for likely, answer in zip(told, answers, strict=True):
        bins.setdefault(min(_BINS - 1, int(likely * _BINS)), []).append((likely, answer))
    off = (abs(sum(likely for likely, _ in one) - sum(answer for _, answer in one)) for one in bins.values())
    return sum(off) / len(told) if told else 0.0


def logistic_regression(facts: Sequence[Sequence[float]], answers: Sequence[bool]) -> list[float]:
    """The weights of the facts under which the answers are likeliest; the first fact is a constant 1.

    Facts are brought to one scale first, so that the ridge weighs the same on each, however narrow the range it lies in.
    """
    size = len(facts[0])
    middles = [0.0, *(sum(fact[at] for fact in facts) / len(facts) for at in range(1, size))]
    scales = [1.0, *(_deviation([fact[at] for fact in facts], middles[at]) for at in range(1, size))]
    scaled = [[(value - middle) / scale for value, middle, scale in zip(fact, middles, scales, strict=True)] for fact in facts]
    weights = [0.0] * size
    for _ in range(_ROUNDS):
        gradient, curvature = _slopes(scaled, answers, weights)
        step = [max(-_LONGEST_STEP, min(_LONGEST_STEP, change)) for change in _solved(curvature, gradient)]
        weights = [weight + change for weight, change in zip(weights, step, strict=True)]
        if max(map(abs, step)) < _CONVERGED:
            break
    slopes = [weight / scale for weight, scale in zip(weights, scales, strict=True)]
    slopes[0] -= sum(slope * middle for slope, middle in zip(slopes[1:], middles[1:], strict=True))
    return slopes


def _deviation(values: Sequence[float], middle: float) -> float:
    """The standard deviation; 1 where there is none to speak of."""
    deviation = math.sqrt(sum((value - middle) ** 2 for value in values) / len(values))
    return deviation if deviation > _NO_WIDTH else 1.0


def _slopes(
    facts: Sequence[Sequence[float]], answers: Sequence[bool], weights: Sequence[float]
) -> tuple[list[float], list[list[float]]]:
    """The gradient of the likelihood at these weights, and its curvature."""
    size = len(weights)
    gradient = [0.0, *(-_RIDGE * weight for weight in weights[1:])]
    curvature = [[_RIDGE if row == column else 0.0 for column in range(size)] for row in range(size)]
    for fact, answer in zip(facts, answers, strict=True):
        likely = logistic(sum(weight * value for weight, value in zip(weights, fact, strict=True)))
        spread = max(likely * (1 - likely), _NO_WIDTH)
        for row in range(size):
            gradient[row] += (answer - likely) * fact[row]
            for column in range(size):
                curvature[row][column] += spread * fact[row] * fact[column]
    return gradient, curvature


def logistic(value: float) -> float:
    """1 / (1 + e^-value), for any finite value."""
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, value))))


def _solved(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solves a small, positive definite system by elimination."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for pivot in range(size):
        for below in range(pivot + 1, size):
            ratio = rows[below][pivot] / rows[pivot][pivot]
            rows[below] = [one - ratio * other for one, other in zip(rows[below], rows[pivot], strict=True)]
    solution = [0.0] * size
    for row in reversed(range(size)):
        known = sum(rows[row][column] * solution[column] for column in range(row + 1, size))
        solution[row] = (rows[row][size] - known) / rows[row][row]
    return solution
