"""How many units an experiment needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from services.experiments.analysis import PowerQuestion
from services.experiments.power import NoAnswerError, compute, power


def test_the_known_number_of_units() -> None:
    found = compute(PowerQuestion(standard_deviation=1, minimal_effect=0.2))
    assert round(found.units, 2) == 393.41
    assert found.power == pytest.approx(0.8)


def test_units_for_proportions() -> None:
    # By hand: 1.959964 and 0.841621, summed and squared, times .09 and .1056 summed, over .02 squared.
    assert compute(PowerQuestion(baseline=0.1, minimal_effect=0.02)).units == pytest.approx(3838.09, abs=0.01)


QUESTIONS = [
    PowerQuestion(standard_deviation=1),
    PowerQuestion(standard_deviation=30, significance=0.001, ratio=3),
    PowerQuestion(standard_deviation=0.01, ratio=0.2),
    PowerQuestion(baseline=0.5),
    PowerQuestion(baseline=0.003, significance=0.2, ratio=2),
]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("wanted", [0.3, 0.8, 0.99])
def test_the_three_questions_agree(question: PowerQuestion, wanted: float) -> None:
    effect = compute(replace(question, units=500.0, power=wanted)).minimal_effect
    assert compute(replace(question, units=500.0, minimal_effect=effect)).power == pytest.approx(wanted, rel=1e-6)
    assert compute(replace(question, minimal_effect=effect, power=wanted)).units == pytest.approx(500, rel=1e-6)


def test_power_is_that_of_the_noncentral_t() -> None:
    question = PowerQuestion(standard_deviation=2.0, ratio=2.0)
    shift, freedom = 0.5 / 2 / (1 / 100 + 1 / 200) ** 0.5, 298
    bound = stats.t.ppf(0.975, freedom)
    expected = stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift)
    assert power(question, 100, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize("question", QUESTIONS)
def test_more_units_have_more_power(question: PowerQuestion) -> None:
    effect = 0.001 if question.baseline else question.standard_deviation or 0
    powers = [power(question, units, effect) for units in (2, 3, 10, 1e3, 1e6, 1e12)]
    assert powers == sorted(powers)
    assert all(0 <= one <= 1 for one in powers)


@pytest.mark.parametrize(
    ("question", "field"),
    [
        (PowerQuestion(baseline=0.9, minimal_effect=0.1), "minimal_effect"),
        (PowerQuestion(baseline=0.9, minimal_effect=0.2, units=100), "minimal_effect"),
        (PowerQuestion(standard_deviation=1e305, units=100), "minimal_effect"),
        (PowerQuestion(baseline=0.5, units=2, power=0.9999, significance=0.0001, ratio=0.001), "power"),
        (PowerQuestion(standard_deviation=1e300, minimal_effect=1e-300), "power"),
    ],
)
def test_what_has_no_answer_says_so(question: PowerQuestion, field: str) -> None:
    with pytest.raises(NoAnswerError, match=f"^{field}: "):
        compute(question)


@pytest.mark.parametrize(
    "question",
    [
        PowerQuestion(baseline=5e-324, minimal_effect=5e-324, ratio=0.001),
        PowerQuestion(standard_deviation=5e-324, units=100.0),
        PowerQuestion(standard_deviation=1e308, minimal_effect=5e-324),
    ],
)
def test_numbers_out_of_reach_have_no_answer(question: PowerQuestion) -> None:
    with pytest.raises(NoAnswerError):
        compute(question)
