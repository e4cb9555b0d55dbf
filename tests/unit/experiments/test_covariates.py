"""Differences adjusted by covariates, held to gbstats and to laws."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from services.experiments.analysis import Adjusted, Covariate, Effect, Kind, Moments, Uncomputable
from services.experiments.covariates import adjusted
from services.experiments.statistics import compare, estimate
from tests.unit.experiments.gbstats_oracle import EXPECTED, adjusting
from tests.unit.experiments.moments import single

if TYPE_CHECKING:
    from collections.abc import Sequence

ORACLE: dict[str, Any] = json.loads(EXPECTED.read_text())["ADJUSTED"]


def arm(units: Sequence[tuple[float, float]]) -> tuple[Moments, Covariate]:
    after, before = (np.array(one) for one in zip(*units, strict=True))
    squares = float(((before - before.mean()) ** 2).sum())
    products = float(((before - before.mean()) * (after - after.mean())).sum())
    return single(list(after)), Covariate(len(units), len(units), float(before.mean()), squares, products)


def ask(kind: Kind, control: tuple[Moments, Covariate], variant: tuple[Moments, Covariate]) -> Adjusted | Uncomputable:
    estimates = [estimate(kind, one) for one, _ in (control, variant)]
    assert not isinstance(estimates[0], Uncomputable)
    assert not isinstance(estimates[1], Uncomputable)
    plain = compare(estimates[0], estimates[1], 0.05)
    assert isinstance(plain, Effect)
    return adjusted(kind, control, variant, plain, 0.05)


@pytest.mark.parametrize("name", ORACLE)
def test_it_agrees_with_gbstats(name: str) -> None:
    control, variant = (arm(units) for units in adjusting()[name])
    found, expected = ask(Kind.MEAN, control, variant), ORACLE[name]
    assert isinstance(found, Adjusted)
    assert found.slope == pytest.approx(expected["slope"], rel=1e-9)
    assert found.effect.difference == pytest.approx(expected["difference"], rel=1e-6)
    assert [found.effect.interval.lower, found.effect.interval.upper] == pytest.approx(expected["interval"], rel=1e-6)
    assert found.effect.p_value == pytest.approx(expected["p_value"], rel=1e-6)


def test_a_covariate_that_explains_takes_the_noise_away() -> None:
    strong, weak = (ask(Kind.MEAN, *(arm(units) for units in adjusting()[name])) for name in ("strong", "weak"))
    assert isinstance(strong, Adjusted)
    assert isinstance(weak, Adjusted)
    # With slope 1.5, a covariate's standard deviation of 4 and noise of 2 it explains 36 / 40 of the variance.
    assert strong.variance_reduction == pytest.approx(0.9, abs=0.02)
    assert weak.variance_reduction < 0.1
    assert strong.known == 1


def test_only_means_and_only_what_chance_could_have_split() -> None:
    control, variant = (arm(units) for units in adjusting()["strong"])
    assert ask(Kind.RATIO, control, variant) is Uncomputable.NOT_ADJUSTABLE
    shifted = arm([(after, before + 5) for after, before in adjusting()["strong"].variant])
    assert ask(Kind.MEAN, control, shifted) is Uncomputable.COVARIATE_IMBALANCE
    constant = [arm([(after, 1.0) for after, _ in units]) for units in adjusting()["strong"]]
    assert ask(Kind.MEAN, *constant) is Uncomputable.NO_VARIANCE


def test_without_an_effect_it_finds_one_as_rarely_as_it_says() -> None:
    source = np.random.default_rng(7)
    runs, found = 600, 0
    for _ in range(runs):
        before = source.normal(0, 1, (2, 200))
        after = 2 * before + source.normal(0, 1, (2, 200))
        arms = [arm(list(zip(after[place], before[place], strict=True))) for place in (0, 1)]
        one = ask(Kind.MEAN, *arms)
        found += isinstance(one, Adjusted) and one.effect.p_value <= 0.05
    # A false alarm of this test in one run of ten thousand.
    assert stats.binomtest(found, runs, 0.05).pvalue > 1e-4
