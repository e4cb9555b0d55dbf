"""Estimates, differences and tests. Pure functions of summed-up numbers; units are the units of assignment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from scipy import special

from services.experiments.analysis import (
    Correction,
    Effect,
    Estimate,
    Interval,
    Kind,
    Moments,
    SampleRatio,
    Uncomputable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST_UNITS: Final = 2
_FEWEST_EXPECTED: Final = 5
_CANCELLED: Final = 1e-12
# A control's mean within so many of its standard errors of 0 is no base for a relative difference.
_BASE_ERRORS: Final = 3.0


def estimate(kind: Kind, moments: Moments) -> Estimate | Uncomputable:
    """The metric of one variant, and the variance of it between units."""
    if moments.units < _FEWEST_UNITS:
        return Uncomputable.TOO_FEW_UNITS
    if kind is Kind.PROPORTION and (moments.lowest < 0 or moments.highest > 1):
        return Uncomputable.VALUE_OUT_OF_RANGE
    if kind is Kind.RATIO:
        found = _ratio(moments)
    else:
        found = Estimate(moments.mean, moments.squares / (moments.units - 1) / moments.units, moments.units)
    finite = math.isfinite(found.value) and math.isfinite(found.variance)
    return found if finite else Uncomputable.VALUE_TOO_LARGE


def _ratio(moments: Moments) -> Estimate:
    """Sum over number, with its variance by the delta method: that of the units' residuals from the common ratio."""
    ratio = moments.total / moments.count
    terms = (moments.total_squares, -2 * ratio * moments.products, ratio * ratio * moments.count_squares)
    residuals = sum(terms)
    # What is left of terms that cancel each other is their rounding.
    if residuals <= _CANCELLED * sum(map(abs, terms)):
        residuals = 0.0
    spread = residuals / (moments.units - 1) / moments.count**2
    return Estimate(ratio, spread / moments.units, moments.units)


def degrees_of_freedom(control: Estimate, variant: Estimate) -> float:
    """By Welch and Satterthwaite."""
    # As shares of the sum, so that no square can overflow or vanish.
    whole = control.variance + variant.variance
    one, other = control.variance / whole, variant.variance / whole
    return 1 / (one**2 / (control.units - 1) + other**2 / (variant.units - 1))


def compare(control: Estimate, variant: Estimate, significance: float) -> Effect | Uncomputable:
    """The difference of two estimates by Welch's t-test."""
    error = math.sqrt(control.variance + variant.variance)
    if not error > _rounding(control, variant):
        return Uncomputable.NO_VARIANCE
    freedom = degrees_of_freedom(control, variant)
    quantile = float(special.stdtrit(freedom, 1 - significance / 2))
    difference = variant.value - control.value
    return Effect(
        difference=difference,
        standard_error=error,
        interval=around(difference, quantile * error),
        p_value=float(2 * special.stdtr(freedom, -abs(difference) / error)),
        relative=_relative(control, variant, quantile),
    )


def _rounding(control: Estimate, variant: Estimate) -> float:
    """Errors below this are what is left of the rounding of equal values."""
    return 1e-13 * max(abs(control.value), abs(variant.value))


def _relative(control: Estimate, variant: Estimate, quantile: float) -> tuple[float, Interval] | Uncomputable:
    """The difference over the control's value, with its error by the delta method."""
    if abs(control.value) <= _BASE_ERRORS * math.sqrt(control.variance):
        return Uncomputable.ZERO_BASELINE
    lift = variant.value / control.value - 1
    error = math.hypot(math.sqrt(variant.variance), math.sqrt(control.variance) * (1 + lift)) / abs(control.value)
    if not math.isfinite(lift) or not math.isfinite(error):
        return Uncomputable.ZERO_BASELINE
    return lift, around(lift, quantile * error)


def around(middle: float, half: float) -> Interval:
    """The interval with this middle and half width."""
    return Interval(middle - half, middle + half)


def sample_ratio(weights: Sequence[float], units: Sequence[int]) -> SampleRatio | Uncomputable:
    """Chi-square test of how units are split, against the weights."""
    whole, weight = sum(units), sum(weights)
    expected = [whole * (one / weight) for one in weights]
    if min(expected) < _FEWEST_EXPECTED:
        return Uncomputable.TOO_FEW_UNITS
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in zip(units, expected, strict=True))
    return SampleRatio(statistic, float(special.chdtrc(len(units) - 1, statistic)))


def adjust(correction: Correction, p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    count = len(p_values)
    if correction is Correction.HOLM:
        most = 0.0
        for rank, index in enumerate(order):
            most = max(most, min((count - rank) * p_values[index], 1.0))
            adjusted[index] = most
    else:
        least = 1.0
        for rank in range(count, 0, -1):
            index = order[rank - 1]
            least = min(least, p_values[index] * count / rank)
            adjusted[index] = least
    return adjusted


def normal_size(p_value: float) -> float:
    """How far out a normal variable has this two-sided p-value; finite also for a p-value of 0."""
    return -float(special.ndtri(max(p_value, 1e-300) / 2))
