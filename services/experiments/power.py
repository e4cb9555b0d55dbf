"""How many units an experiment needs, which effect it can find, how likely it finds one: three sides of one equation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from scipy import optimize, special

from services.experiments.analysis import PowerAnswer, PowerQuestion

if TYPE_CHECKING:
    from collections.abc import Callable

_USUAL_POWER: Final = 0.8
_FEWEST: Final = 2.0
_MOST: Final = 1e15


class NoAnswerError(Exception):
    """No number of units, or no effect, has that power. The message says which and why."""


def compute(question: PowerQuestion) -> PowerAnswer:
    """Finds what the question leaves out.

    Raises:
        NoAnswerError: there is none.
    """
    baseline, effect = question.baseline, question.minimal_effect
    if baseline is not None and effect is not None and baseline + effect >= 1:
        raise NoAnswerError(f"minimal_effect: baseline plus it is {baseline + effect:g}; a share stays below 1")
    problem = "minimal_effect: the numbers are too close to 0, or too large, to compute with"
    try:
        found = _found(question)
    except (ArithmeticError, ValueError) as error:
        raise NoAnswerError(problem) from error
    if not all(map(math.isfinite, (found.units, found.minimal_effect, found.power))):
        raise NoAnswerError(problem)
    return found


def _found(question: PowerQuestion) -> PowerAnswer:
    units, effect = question.units, question.minimal_effect
    if units is not None and effect is not None:
        return PowerAnswer(units, effect, power(question, units, effect))
    wanted = _USUAL_POWER if question.power is None else question.power
    if effect is not None:
        found = _solve(lambda size: power(question, size, effect) - wanted, _FEWEST / min(question.ratio, 1.0), _MOST)
        return PowerAnswer(found, effect, power(question, found, effect))
    if units is None:
        raise NoAnswerError("units: is missing, as is minimal_effect; give one of them")
    top = 1 - question.baseline if question.baseline is not None else (question.standard_deviation or 1.0) * 1e9
    found = _solve(lambda size: power(question, units, size) - wanted, top * 1e-15, top * (1 - 1e-9))
    return PowerAnswer(units, found, power(question, units, found))


def power(question: PowerQuestion, units: float, effect: float) -> float:
    """The chance that a two-sided test finds the effect with so many units in the control."""
    if question.baseline is not None:
        return _proportions(question, question.baseline, units, effect)
    return _means(question, question.standard_deviation or 1.0, units, effect)


def _means(question: PowerQuestion, deviation: float, units: float, effect: float) -> float:
    """By the noncentral t distribution."""
    others = units * question.ratio
    freedom = units + others - 2
    if freedom <= 0:
        return 0.0
    shift = effect / deviation / math.sqrt(1 / units + 1 / others)
    quantile = float(special.stdtrit(freedom, 1 - question.significance / 2))
    # Far out the distribution can't be evaluated, and need not be.
    upper = 0.0 if shift - quantile > 30 else float(special.nctdtr(freedom, shift, quantile))  # noqa: PLR2004 - said above
    lower = float(special.nctdtr(freedom, shift, -quantile)) if shift < 30 else 0.0  # noqa: PLR2004 - said above
    return 1 - upper + (lower if math.isfinite(lower) else 0.0)


def _proportions(question: PowerQuestion, baseline: float, units: float, effect: float) -> float:
    """By the normal approximation, each arm with its own variance."""
    other = min(baseline + effect, 1.0)
    error = math.sqrt(baseline * (1 - baseline) / units + other * (1 - other) / (units * question.ratio))
    bound = -float(special.ndtri(question.significance / 2))
    return float(special.ndtr(effect / error - bound) + special.ndtr(-effect / error - bound))


def _solve(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where a growing function crosses 0, found on the logarithm; its low end if it lies above 0 there already."""
    if excess(low) >= 0:
        return low
    if excess(high) < 0:
        raise NoAnswerError("power: no size in reach has it; ask for less power or a larger effect")
    return math.exp(float(optimize.brentq(lambda mark: excess(math.exp(mark)), math.log(low), math.log(high), xtol=1e-13)))
