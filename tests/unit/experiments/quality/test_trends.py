"""Trends in the analysis process."""

from __future__ import annotations

import random

import pytest

from services.experiments.analyst import Analyst
from services.experiments.quality.records import Grouping, Missing, Wanted, statistics
from services.experiments.quality.theil_sen import trend
from services.experiments.quality.trends import Trends
from tests.unit.experiments.quality.days import Kept


def test_a_line_is_found_in_spite_of_outliers() -> None:
    values = [0.5 + 0.01 * day for day in range(20)]
    values[-1], values[3] = 0.0, 1.0
    found = trend(tuple((float(day), value) for day, value in enumerate(values)))
    assert found is not None
    # Last minus first would say that it falls.
    assert found.slope == pytest.approx(0.01, abs=1e-9)
    assert found.lower <= found.slope <= found.upper
    assert found.tau > 0.5
    assert found.p_value < 0.01


def test_mann_kendall_is_as_published() -> None:
    # Four rising days: S = 6 of 6 pairs; exact two-sided p = 2/4!. Gilbert, Statistical Methods for Environmental Pollution
    # Monitoring (1987), table A18: P(S >= 6) = 0.042 for n = 4.
    found = trend(tuple((float(day), day / 10) for day in range(4)))
    assert found is not None
    assert found.tau == pytest.approx(1.0)
    assert found.p_value == pytest.approx(2 / 24)


def test_without_a_trend_it_is_seldom_found() -> None:
    generator = random.Random(7)  # noqa: S311 - the same each time
    series = [tuple((float(day), generator.random()) for day in range(12)) for _ in range(400)]
    trends = [trend(one) for one in series]
    found = sum(one is not None and one.p_value < 0.05 for one in trends)
    covered = sum(one is not None and one.lower <= 0 <= one.upper for one in trends)
    # 99.9 % of binomial counts of 400 at .05 lie within 7 and 36; exact tests on so few days are slightly conservative.
    assert 4 <= found <= 36
    assert covered >= 364


def test_few_days_have_no_trend_and_equal_ones_have_none_either() -> None:
    assert trend(((1.0, 0.5), (2.0, 0.6), (3.0, 0.7))) is None
    flat = trend(tuple((float(day), 0.5) for day in range(9)))
    assert flat is not None
    assert (flat.slope, flat.tau, flat.p_value) == (0.0, 0.0, 1.0)


async def test_counts_stand_without_the_analysis() -> None:
    wanted = Wanted(30, Grouping.MODEL)
    # No child process starts in so short a time.
    late = Analyst(limit=0.001)
    try:
        [statistic] = await statistics(Kept(), late, wanted)
    finally:
        await late.close()
    assert statistic.missing is Missing.ANALYSIS_UNAVAILABLE
    assert (statistic.trend, statistic.scored) == (None, 10)
    analyst = Analyst()
    try:
        [statistic] = await statistics(Kept(), analyst, wanted)
        assert (await analyst.ask(Trends(()))).trends == ()
    finally:
        await analyst.close()
    assert statistic.trend is not None
    assert statistic.trend.slope == pytest.approx(0.1)
    assert statistic.mean == pytest.approx(0.4)
