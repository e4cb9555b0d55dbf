"""Estimates and tests, held to scipy, to GrowthBook's gbstats, and to laws."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from services.experiments.analysis import Correction, Effect, Estimate, Kind, SampleRatio, Uncomputable
from services.experiments.sequential import anytime
from services.experiments.statistics import adjust, compare, estimate, normal_size, sample_ratio
from tests.unit.experiments.gbstats_oracle import EXPECTED, samples
from tests.unit.experiments.moments import moments, single

ORACLE: dict[str, Any] = json.loads(EXPECTED.read_text())
CASES = [(name, kind) for name, kinds in ORACLE.items() if name in samples() for kind in kinds]


def estimated(kind: Kind, units: list[list[float]]) -> Estimate:
    found = estimate(kind, moments(units))
    assert isinstance(found, Estimate)
    return found


def effect(control: Estimate, variant: Estimate) -> Effect:
    found = compare(control, variant, 0.05)
    assert isinstance(found, Effect)
    return found


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_agrees_with_gbstats(name: str, kind: str) -> None:
    control, variant = (estimated(Kind(kind), arm) for arm in samples()[name])
    expected, relative = ORACLE[name][kind]["absolute"], ORACLE[name][kind]["relative"]
    found = effect(control, variant)
    assert found.difference == pytest.approx(expected["difference"], rel=1e-9)
    assert found.standard_error == pytest.approx(expected["error"], rel=1e-9)
    assert [found.interval.lower, found.interval.upper] == pytest.approx(expected["interval"], rel=1e-9)
    assert found.p_value == pytest.approx(expected["p_value"], rel=1e-6, abs=1e-15)
    always = anytime(found.difference, found.standard_error, control.units + variant.units, 0.05)
    assert [always.interval.lower, always.interval.upper] == pytest.approx(expected["anytime_interval"], rel=1e-9)
    assert always.p_value == pytest.approx(expected["anytime_p_value"], rel=1e-9)
    assert not isinstance(found.relative, Uncomputable)
    lift, interval = found.relative
    assert lift == pytest.approx(relative["difference"], rel=1e-9)
    assert [interval.lower, interval.upper] == pytest.approx(relative["interval"], rel=1e-9)


def test_welch_is_that_of_scipy() -> None:
    for control, variant in samples().values():
        one, other = ([sum(values) / len(values) for values in arm] for arm in (control, variant))
        expected = stats.ttest_ind(other, one, equal_var=False)
        found = effect(estimated(Kind.MEAN, control), estimated(Kind.MEAN, variant))
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
        interval = expected.confidence_interval()
        assert (found.interval.lower, found.interval.upper) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_a_ratio_of_one_outcome_a_unit_is_a_mean() -> None:
    for arm in samples()["means"]:
        mean, ratio = estimated(Kind.MEAN, arm), estimated(Kind.RATIO, arm)
        assert (mean.value, mean.variance) == pytest.approx((ratio.value, ratio.variance), rel=1e-12)


def test_a_ratio_weighs_outcomes_and_a_mean_weighs_units() -> None:
    arm = [[1.0, 1.0, 1.0, 1.0], [0.0], [0.0]]
    assert estimated(Kind.RATIO, arm).value == pytest.approx(4 / 6)
    assert estimated(Kind.MEAN, arm).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("units", "kind", "missing"),
    [
        ([[1.0]], Kind.MEAN, Uncomputable.TOO_FEW_UNITS),
        ([[0.0, 1.0]], Kind.RATIO, Uncomputable.TOO_FEW_UNITS),
        ([[0.0], [1.5]], Kind.PROPORTION, Uncomputable.VALUE_OUT_OF_RANGE),
        ([[-0.1], [1.0]], Kind.PROPORTION, Uncomputable.VALUE_OUT_OF_RANGE),
    ],
)
def test_what_cannot_be_estimated_says_why(units: list[list[float]], kind: Kind, missing: Uncomputable) -> None:
    assert estimate(kind, moments(units)) is missing


def test_overflow_is_a_reason_and_no_number() -> None:
    huge = replace(single([1.0, 2.0]), squares=math.inf)
    assert estimate(Kind.MEAN, huge) is Uncomputable.VALUE_TOO_LARGE
    broken = replace(single([1.0, 2.0]), total_squares=math.inf, products=math.inf)
    assert estimate(Kind.RATIO, broken) is Uncomputable.VALUE_TOO_LARGE


@pytest.mark.parametrize("value", [0.0, 0.1, 1e100, -1 / 3])
def test_units_that_are_all_the_same_have_no_variance(value: float) -> None:
    same = estimated(Kind.MEAN, [[value]] * 7)
    assert compare(same, same, 0.05) is Uncomputable.NO_VARIANCE
    ratios = estimated(Kind.RATIO, [[value] * count for count in (1, 2, 5, 3, 3)])
    assert compare(ratios, ratios, 0.05) is Uncomputable.NO_VARIANCE


def test_a_baseline_near_zero_has_no_relative_difference() -> None:
    control, variant = (estimated(Kind.MEAN, arm) for arm in ([[-1.0], [1.0], [0.5]], [[4.0], [5.0], [6.0]]))
    assert effect(control, variant).relative is Uncomputable.ZERO_BASELINE
    zeros = estimated(Kind.MEAN, [[0.0]] * 5)
    assert effect(zeros, variant).relative is Uncomputable.ZERO_BASELINE


# To three places: squares of much smaller numbers vanish, and with them the laws.
values = st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 3)), min_size=2, max_size=20)


# A busy machine is slow at times.
@settings(deadline=None)
@given(values, values, st.floats(1e-3, 1e3))
def test_laws_of_a_comparison(first: list[float], second: list[float], scale: float) -> None:
    one, other = estimate(Kind.MEAN, single(first)), estimate(Kind.MEAN, single(second))
    assert isinstance(one, Estimate)
    assert isinstance(other, Estimate)
    found, mirrored = compare(one, other, 0.05), compare(other, one, 0.05)
    if isinstance(found, Uncomputable) or isinstance(mirrored, Uncomputable):
        assert found is mirrored
        return
    assert mirrored.difference == -found.difference
    assert mirrored.p_value == found.p_value
    assert 0 <= found.p_value <= 1
    assert all(math.isfinite(end) for end in (found.interval.lower, found.interval.upper))
    assert (found.p_value < 0.05) is (not found.interval.lower <= 0 <= found.interval.upper) or math.isclose(
        found.p_value, 0.05, rel_tol=1e-6
    )
    larger = [Estimate(each.value * scale, each.variance * scale**2, each.units) for each in (one, other)]
    scaled = compare(larger[0], larger[1], 0.05)
    assert isinstance(scaled, Effect)
    assert scaled.p_value == pytest.approx(found.p_value, rel=1e-6, abs=1e-12)


def test_the_sample_ratio_of_a_known_case() -> None:
    found = sample_ratio([1, 1], [821588, 815482])
    assert isinstance(found, SampleRatio)
    assert f"{found.p_value:.2e}" == "1.82e-06"
    assert found.mismatch


@pytest.mark.parametrize(
    ("weights", "units"), [([1, 1], [520, 480]), ([0.7, 0.2, 0.1], [690, 220, 90]), ([1e6, 1], [10**8, 90])]
)
def test_the_sample_ratio_is_a_chi_square_test(weights: list[float], units: list[int]) -> None:
    expected = stats.chisquare(units, [sum(units) * weight / sum(weights) for weight in weights])
    found = sample_ratio(weights, units)
    assert isinstance(found, SampleRatio)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.mismatch is bool(expected.pvalue < 0.001)


@pytest.mark.parametrize("units", [[0, 0], [4, 4], [9, 0]])
def test_few_units_have_no_sample_ratio(units: list[int]) -> None:
    assert sample_ratio([1, 1], units) is Uncomputable.TOO_FEW_UNITS


def test_corrections_of_a_known_case() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert adjust(Correction.HOLM, p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust(Correction.BENJAMINI_HOCHBERG, p_values) == pytest.approx([0.02, 0.04, 0.04, 0.02])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_laws_of_corrections(p_values: list[float]) -> None:
    holm, hochberg = adjust(Correction.HOLM, p_values), adjust(Correction.BENJAMINI_HOCHBERG, p_values)
    if p_values:
        assert hochberg == pytest.approx(list(stats.false_discovery_control(p_values)))
    for raw, strict, mild in zip(p_values, holm, hochberg, strict=True):
        assert raw <= mild + 1e-15
        assert mild <= strict + 1e-12
        assert strict <= 1


def test_sizes_of_p_values() -> None:
    assert normal_size(0.05) == pytest.approx(1.959963985)
    assert normal_size(1.0) == 0
    assert 37 < normal_size(0.0) < 38
