"""Trends that outliers do not move. Runs in the analysis process: scipy is heavy to import."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from scipy import stats

from services.experiments.quality.trends import Trend

if TYPE_CHECKING:
    from services.experiments.quality.trends import Series

_FEWEST_DAYS: Final = 4
_CONFIDENCE: Final = 0.95


def trend(series: Series) -> Trend | None:
    """The median of the slopes between all pairs of days, with Sen's interval, and the Mann-Kendall test.

    Sources: P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968); H. B. Mann,
    Nonparametric tests against trend, Econometrica 13 (1945). The test is exact for few days without ties, else it corrects
    for ties.
    """
    if len(series) < _FEWEST_DAYS:
        return None
    days, values = zip(*series, strict=True)
    if len(set(values)) == 1:
        # Nothing to rank: no pair speaks for a trend.
        return Trend(0.0, 0.0, 0.0, 0.0, 1.0)
    slope, _, lower, upper = stats.theilslopes(values, days, alpha=_CONFIDENCE)
    tau, p_value = stats.kendalltau(days, values)
    numbers = [float(number) for number in (slope, lower, upper, tau, p_value)]
    return Trend(*numbers) if all(map(math.isfinite, numbers)) else None
