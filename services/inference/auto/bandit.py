"""Learns from feedback which reward each model can be expected to earn of a request, and what other rules would have earned.

That is the regression of the contextual bandit whose other half, the drawing, is in `exploration`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from services.inference.auto.decision import Why
from services.inference.auto.fitting import Lesson, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from services.inference.auto.calibration import Floats, Judged
    from services.inference.auto.records import Outcome

    Mask: TypeAlias = NDArray[np.bool_]

# Keeps what is expected near the mean of all while little is known.
_RIDGE: Final = 1.0
# What was less likely weighs as if it had been this likely: a few rare draws would rule the mean else.
_RARE: Final = 0.05


def learn(outcomes: Sequence[Outcome], judged: Judged, least: int) -> Lesson | None:
    """Fits; None where nothing has been rewarded.

    Args:
        outcomes: All of an alias.
        judged: Those that tell something. A failure earns 0.
        least: How many outcomes a model needs before it may become the best static one.
    """
    if not len(judged):
        return None
    mean = float(np.average(judged.rewards, weights=judged.weights))
    everything: Floats = np.array([one.vector for one in outcomes], dtype=np.float64)
    weights: dict[str, tuple[float, ...]] = {}
    values: dict[str, Value] = {}
    for place, model in enumerate(judged.models):
        mine = judged.of == place
        # Among the requests of one model only: a model is no better for having been given what is easy.
        fitted = _ridge(judged.vectors[mine], judged.rewards[mine] - mean, judged.weights[mine])
        weights[model] = tuple(map(float, fitted))
        value = _value(judged, mine, everything, mean, fitted)
        if value is not None:
            values[model] = value
    known = {model: int((judged.of == place).sum()) for place, model in enumerate(judged.models)}
    able = [model for model in values if known[model] >= least]
    return Lesson(
        rewards=len(judged),
        known=known,
        mean=mean,
        weights=weights,
        # By what it surely earns: one that looks better only because little is known of it would win too often.
        static=max(able, key=lambda model: values[model].mean - values[model].error) if able else "",
        values=values,
        learned=_earned(judged, Why.LEARNED),
        holdout=_earned(judged, Why.HOLDOUT),
    )


def _ridge(vectors: Floats, rewards: Floats, weights: Floats) -> Floats:
    weighed: Floats = vectors * (weights / weights.mean())[:, None]
    curvature: Floats = weighed.T @ vectors + _RIDGE * np.eye(vectors.shape[1])
    moments: Floats = weighed.T @ rewards
    return np.asarray(np.linalg.solve(curvature, moments), dtype=np.float64)


def _value(judged: Judged, mine: Mask, everything: Floats, mean: float, fitted: Floats) -> Value | None:
    """What all requests would earn of one model, doubly robust (Dudik and others, 2011).

    The regression says what each request would earn; what it got wrong of those that the model did get, weighed by how unlikely
    these were to come to it, puts that right in the mean.
    """
    propensities: Floats = np.array([one.propensity for one in judged.told], dtype=np.float64)
    drawn = mine & (propensities > 0)
    if not drawn.any():
        return None
    hoped: Floats = mean + everything @ fitted
    wrong: Floats = judged.rewards[drawn] - mean - judged.vectors[drawn] @ fitted
    weights: Floats = judged.weights[drawn] / np.maximum(propensities[drawn], _RARE)
    put_right, error = _mean(wrong, weights)
    error = float(np.hypot(error, hoped.std() / np.sqrt(len(hoped))))
    return Value(int(drawn.sum()), min(1.0, max(0.0, float(hoped.mean()) + put_right)), error)


def _earned(judged: Judged, why: Why) -> Value | None:
    mine = np.array([one.why == why and one.propensity > 0 for one in judged.told], dtype=bool)
    return Value(int(mine.sum()), *_mean(judged.rewards[mine], judged.weights[mine])) if mine.any() else None


def _mean(values: Floats, weights: Floats) -> tuple[float, float]:
    """A weighted mean and its standard error."""
    mean = float(np.average(values, weights=weights))
    return mean, float(np.sqrt(np.square(weights * (values - mean)).sum()) / weights.sum())
