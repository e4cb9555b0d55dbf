"""Fits how hard requests look, and how that bears on each model, to recorded outcomes.

One logistic regression over the requests of all models, with a level of its own for each model, says how much each feature
makes an answer fail: that is the score. For each model an isotonic regression (Barlow and others, 1972) of its outcomes on the
score then says how likely its answer is to be good enough: it bends as the outcomes do, but never promises more for a harder
request. Scores of recorded requests come from a regression that has not seen them (cross-fitting in five folds), so that the
curves are honest about new requests.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.inference.auto.fitting import Calibration, Curve
from services.inference.auto.records import Ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.inference.auto.records import Outcome

Floats: TypeAlias = NDArray[np.float64]

_FOLDS: Final = 5
_QUANTILES: Final = 200
# Outcomes of a model that make one step of its curve, and the most steps.
_IN_A_STEP: Final = 25
_MOST_STEPS: Final = 40
# So many outcomes at the model's mean are added to each step, which keeps a lucky few from promising certainty.
_PRIOR: Final = 2.0
# Keeps the weights of features that hardly vary near 0.
_RIDGE: Final = 1.0
_ROUNDS: Final = 25
_BAD: Final = frozenset({Ending.CUT, Ending.WITHHELD, Ending.FAILED})


class Judged:
    """The outcomes that tell something, as arrays.

    An answer that got feedback stands for those of its model that ended alike and got none: people judge few answers, while
    every failure is seen. Without that weight a model would look the worse the less its answers are judged. A model's bad ends
    of a kind that nobody has judged count as bad by themselves.

    Args:
        outcomes: All of an alias.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        ended: Counter[tuple[str, str]] = Counter((one.model, one.ending) for one in outcomes)
        judged: Counter[tuple[str, str]] = Counter((one.model, one.ending) for one in outcomes if one.reward is not None)
        told = [one for one in outcomes if one.reward is not None or (one.ending in _BAD and not judged[one.model, one.ending])]
        # A model of which no answer has been judged that ended well is known by its failures only, that is not at all.
        self.told = [one for one in told if judged[one.model, Ending.WELL] or not ended[one.model, Ending.WELL]]
        self.models = sorted({one.model for one in self.told})
        places = {model: place for place, model in enumerate(self.models)}
        self.of = np.array([places[one.model] for one in self.told], dtype=np.intp)
        self.rewards: Floats = np.array([one.reward or 0.0 for one in self.told], dtype=np.float64)
        self.vectors: Floats = np.array([one.vector for one in self.told], dtype=np.float64)
        # One that was left before its end stands for itself only, and so does a bad end that counts as such.
        stand_in = {end: count / judged[end] for end, count in ended.items() if judged[end] and end[1] != Ending.UNKNOWN}
        self.weights: Floats = np.array([stand_in.get((one.model, one.ending), 1.0) for one in self.told], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.told)


def calibrate(outcomes: Sequence[Outcome], judged: Judged, good: float) -> Calibration | None:
    """Fits; None where nothing tells anything.

    Args:
        outcomes: All of an alias.
        judged: Those that tell something.
        good: From which reward an answer is good enough.
    """
    if not len(judged):
        return None
    bad: Floats = (judged.rewards < good).astype(np.float64)
    everything: Floats = np.array([one.vector for one in outcomes], dtype=np.float64)
    levels: Floats = np.eye(len(judged.models))[judged.of]
    # The first number of a vector is the same for all; the levels of the models stand for it.
    columns: Floats = np.hstack([judged.vectors[:, 1:], levels])
    count = judged.vectors.shape[1] - 1
    folds = np.arange(len(judged)) % _FOLDS
    scores: Floats = np.zeros(len(judged))
    for fold in range(_FOLDS):
        seen, unseen = folds != fold, folds == fold
        if seen.any() and unseen.any():
            weights = logistic(columns[seen], bad[seen], judged.weights[seen])[:count]
            scale = _scale(everything[:, 1:] @ weights)
            scores[unseen] = np.searchsorted(scale, judged.vectors[unseen, 1:] @ weights, side="right") / len(scale)
    weights = logistic(columns, bad, judged.weights)[:count]
    lengths = _lengths(outcomes)
    curves: dict[str, Curve] = {}
    expected: Floats = np.zeros(len(judged))
    means: Floats = np.zeros(len(judged))
    for place, model in enumerate(judged.models):
        mine = judged.of == place
        curves[model] = curve = _curve(scores[mine], 1 - bad[mine], judged.weights[mine], lengths.get(model, 0.0))
        expected[mine] = [curve.at(float(score)) for score in scores[mine]]
        means[mine] = curve.good
    return Calibration(
        weights=(0.0, *map(float, weights)),
        scale=tuple(map(float, _scale(everything[:, 1:] @ weights))),
        curves=curves,
        brier=_mean_square(expected - (1 - bad), judged.weights),
        brier_of_means=_mean_square(means - (1 - bad), judged.weights),
    )


def logistic(columns: Floats, positive: Floats, weights: Floats) -> Floats:
    """Coefficients of a ridge logistic regression, by Newton's method (iteratively reweighted least squares).

    Args:
        columns: One row an outcome.
        positive: 1 or 0, or anything between.
        weights: How much each row counts, above 0.
    """
    coefficients: Floats = np.zeros(columns.shape[1])
    penalty = _RIDGE * np.eye(columns.shape[1])
    for _ in range(_ROUNDS):
        expected = 1 / (1 + np.exp(-np.clip(columns @ coefficients, -30, 30)))
        gradient = columns.T @ (weights * (positive - expected)) - penalty @ coefficients
        curvature = (columns * (weights * expected * (1 - expected))[:, None]).T @ columns + penalty
        step = np.linalg.solve(curvature, gradient)
        # Far from the optimum a whole step may overshoot.
        coefficients = coefficients + step * min(1.0, 5.0 / float(np.max(np.abs(step)) or 1.0))
        if np.max(np.abs(step)) < 1e-6:  # noqa: PLR2004 - far below what a score can show
            break
    return coefficients


def descending(values: Floats, weights: Floats) -> Floats:
    """The nearest sequence that never ascends, by weighted squares: isotonic regression, pooling adjacent violators."""
    pooled: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, size = value, weight, 1
        while pooled and pooled[-1][0] < mean:
            before, its_mass, its_size = pooled.pop()
            mean = (before * its_mass + mean * mass) / (its_mass + mass)
            mass, size = its_mass + mass, its_size + size
        pooled.append((mean, mass, size))
    return np.repeat([mean for mean, _, _ in pooled], [size for _, _, size in pooled])


def telling(weights: Floats) -> float:
    """How many outcomes of equal weight tell as much (Kish, 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def _curve(scores: Floats, good: Floats, weights: Floats, output_tokens: float) -> Curve:
    order = np.argsort(scores, kind="stable")
    mean = float(np.average(good, weights=weights))
    steps = max(1, min(_MOST_STEPS, len(scores) // _IN_A_STEP))
    unit = float(weights.mean())
    places: list[float] = []
    heights: list[float] = []
    masses: list[float] = []
    for part in np.array_split(order, steps):
        mass = float(weights[part].sum())
        place = float(np.average(scores[part], weights=weights[part]))
        height = (float((weights[part] * good[part]).sum()) + _PRIOR * unit * mean) / (mass + _PRIOR * unit)
        if places and place <= places[-1]:  # many requests look the same
            total = masses[-1] + mass
            heights[-1] = (heights[-1] * masses[-1] + height * mass) / total
            masses[-1] = total
        else:
            places.append(place)
            heights.append(height)
            masses.append(mass)
    expected = descending(np.array(heights), np.array(masses))
    return Curve(telling(weights), mean, tuple(places), tuple(map(float, expected)), output_tokens)


def _scale(values: Floats) -> Floats:
    return np.quantile(values, np.linspace(0, 1, _QUANTILES + 1)[1:])


def _lengths(outcomes: Sequence[Outcome]) -> dict[str, float]:
    lengths: dict[str, list[int]] = {}
    for one in outcomes:
        if one.output_tokens:
            lengths.setdefault(one.model, []).append(one.output_tokens)
    return {model: sum(several) / len(several) for model, several in lengths.items()}


def _mean_square(errors: Floats, weights: Floats) -> float:
    return float(np.average(np.square(errors), weights=weights))
