"""Tests that may be looked at while the data comes in.

Group-sequential bounds come from the recursion of Armitage, McPherson and Rowe: the density of the statistic, among the paths
that crossed no bound so far, is carried from look to look on a grid. Statistics at looks j < k correlate as the root of the
ratio of their information.

The confidence sequence is the asymptotic one of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021), a normal mixture whose
width is least at a fixed number of units.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import numpy as np
from scipy import optimize, special

from services.experiments.analysis import Anytime, Boundary
from services.experiments.statistics import around

# Units at which a confidence sequence is tightest. Fixed, since choosing it by the data would break what it promises.
TUNED_UNITS: Final = 5000
# Points of the grid, an odd number: bounds are right to five digits with half of them.
_GRID: Final = 401
# Wider than any bound that ever decides.
_WIDEST: Final = 12.0
# Less than this is too little to spend: its bound would be out of sight.
_LEAST_SPENT: Final = 1e-12


class _Paths:
    """The paths that crossed no bound yet, as a density of the score: statistic times root of information."""

    def __init__(self) -> None:
        self._grid = np.zeros(1)
        self._mass = np.ones(1)
        self._information = 0.0

    def crossing(self, information: float, bound: float) -> float:
        """Probability to cross the bound, first and now, at this information."""
        edge = bound * math.sqrt(information)
        step = math.sqrt(information - self._information)
        outside = special.ndtr((-edge - self._grid) / step) + special.ndtr((self._grid - edge) / step)
        return float(self._mass @ outside)

    def bound(self, information: float, amount: float) -> float:
        """The bound that is crossed, first and now, with this probability."""
        if amount < _LEAST_SPENT:
            return _WIDEST
        return float(optimize.brentq(lambda bound: self.crossing(information, bound) - amount, 0.0, _WIDEST, xtol=1e-10))

    def go_on(self, information: float, bound: float) -> None:
        """Keeps the paths that stay within the bound."""
        edge = min(bound, _WIDEST) * math.sqrt(information)
        step = math.sqrt(information - self._information)
        grid = np.linspace(-edge, edge, _GRID)
        distances = (grid[:, None] - self._grid[None, :]) / step
        density = np.exp(-0.5 * distances**2) @ self._mass / (step * math.sqrt(2 * math.pi))
        # Simpson's rule.
        weights = np.ones(_GRID)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        self._grid, self._mass = grid, density * weights * (grid[1] - grid[0]) / 3
        self._information = information


def spent(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """Chance of a false discovery up to each of some evenly spaced looks, with these two-sided bounds."""
    paths, total, sums = _Paths(), 0.0, []
    for number, bound in enumerate(bounds, 1):
        total += paths.crossing(number, bound)
        sums.append(total)
        paths.go_on(number, bound)
    return tuple(sums)


@cache
def bounds(boundary: Boundary, looks: int, significance: float) -> tuple[float, ...]:
    """The bound at each of `looks` evenly spaced looks, for a statistic on the scale of a normal variable, two-sided."""
    if boundary is Boundary.O_BRIEN_FLEMING:
        return _of_shape([math.sqrt(looks / number) for number in range(1, looks + 1)], significance)
    if boundary is Boundary.POCOCK:
        return _of_shape([1.0] * looks, significance)
    spend = _o_brien_fleming if boundary is Boundary.O_BRIEN_FLEMING_SPENDING else _pocock
    return _by_spending([spend(number / looks, significance) for number in range(1, looks + 1)])


def _of_shape(shape: list[float], significance: float) -> tuple[float, ...]:
    """Bounds in these proportions that together spend the significance."""

    def excess(factor: float) -> float:
        return spent(tuple(factor * one for one in shape))[-1] - significance

    single = -float(special.ndtri(significance / 2))
    factor = optimize.brentq(excess, single * 0.99, single + 3, xtol=1e-9)
    return tuple(factor * one for one in shape)


def _by_spending(sums: list[float]) -> tuple[float, ...]:
    """Bounds that have spent these amounts after each look."""
    paths, before, found = _Paths(), 0.0, []
    for number, total in enumerate(sums, 1):
        bound = paths.bound(number, total - before)
        found.append(bound)
        paths.go_on(number, bound)
        before = total
    return tuple(found)


def _o_brien_fleming(fraction: float, significance: float) -> float:
    return float(4 * special.ndtr(special.ndtri(significance / 4) / math.sqrt(fraction)))


def _pocock(fraction: float, significance: float) -> float:
    return significance * math.log1p((math.e - 1) * fraction)


def mixture(significance: float) -> float:
    """The variance of the mixture, relative to that of one unit, for which the sequence is tightest at TUNED_UNITS."""
    doubled = -2 * math.log(significance)
    return (doubled + math.log(doubled + 1)) / TUNED_UNITS


def anytime(difference: float, error: float, units: int, significance: float) -> Anytime:
    """Interval and p-value of a difference, that hold however often one looks.

    Args:
        difference: Variant minus control.
        error: Its standard error.
        units: Units of both.
        significance: Chance that the interval misses at any time.
    """
    scale = units * mixture(significance)
    half = error * math.sqrt(2 * (scale + 1) / scale * (math.log1p(scale) / 2 - math.log(significance)))
    evidence = (difference / error) ** 2 / 2 * scale / (scale + 1) - math.log1p(scale) / 2
    return Anytime(around(difference, half), math.exp(-max(evidence, 0.0)))
