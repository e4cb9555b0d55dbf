"""CUPED: differences with less noise, by what units were like before the experiment.

Deng, Xu, Kohavi and Walker, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment data"
(2013).
The slope is pooled over both arms, so that it is the same for both and cannot move the difference by itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from services.experiments.analysis import Adjusted, Effect, Estimate, Kind, Uncomputable
from services.experiments.sequential import anytime
from services.experiments.statistics import compare

if TYPE_CHECKING:
    from services.experiments.analysis import Covariate, Moments

# As for the split of the units: below this p-value chance is no explanation.
_BALANCE_SIGNIFICANCE: Final = 0.001


def adjusted(
    kind: Kind, control: tuple[Moments, Covariate], variant: tuple[Moments, Covariate], plain: Effect, significance: float
) -> Adjusted | Uncomputable:
    """The difference of two means after the slope on the covariate is taken out of both."""
    if kind is Kind.RATIO:
        return Uncomputable.NOT_ADJUSTABLE
    slope = _slope(control, variant)
    if slope is None:
        return Uncomputable.NO_VARIANCE
    balance = compare(_covariate(control[1]), _covariate(variant[1]), significance)
    if isinstance(balance, Effect) and balance.p_value < _BALANCE_SIGNIFICANCE:
        return Uncomputable.COVARIATE_IMBALANCE
    arms = _freed(control, slope), _freed(variant, slope)
    effect = compare(*arms, significance)
    if isinstance(effect, Uncomputable):
        return effect
    units = arms[0].units + arms[1].units
    return Adjusted(
        effect=effect,
        anytime=anytime(effect.difference, effect.standard_error, units, significance),
        slope=slope,
        variance_reduction=1 - (effect.standard_error / plain.standard_error) ** 2,
        balance_p_value=balance.p_value if isinstance(balance, Effect) else None,
        known=(control[1].known + variant[1].known) / units,
    )


def _slope(control: tuple[Moments, Covariate], variant: tuple[Moments, Covariate]) -> float | None:
    """Covariance over the covariate's variance, over the units of both arms together; None where it does not vary."""
    (one, before), (other, later) = control, variant
    # What pooling adds: the arms' distance, by the harmonic weight of their sizes.
    weight = one.units * other.units / (one.units + other.units)
    shift = later.mean - before.mean
    squares = before.squares + later.squares + weight * shift**2
    products = before.products + later.products + weight * shift * (other.mean - one.mean)
    return products / squares if squares > 0 and math.isfinite(products / squares) else None


def _freed(arm: tuple[Moments, Covariate], slope: float) -> Estimate:
    moments, covariate = arm
    squares = moments.squares + slope * slope * covariate.squares - 2 * slope * covariate.products
    # What is left of terms that cancel each other is their rounding.
    variance = max(squares, 0.0) / (moments.units - 1) / moments.units
    return Estimate(moments.mean - slope * covariate.mean, variance, moments.units)


def _covariate(covariate: Covariate) -> Estimate:
    return Estimate(covariate.mean, covariate.squares / (covariate.units - 1) / covariate.units, covariate.units)
