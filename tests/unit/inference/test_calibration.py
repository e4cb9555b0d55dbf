"""Calibration against traffic whose truth is known. Seeds are fixed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, minimize

from services.inference.auto.calibration import Judged, calibrate, descending, logistic, telling
from services.inference.auto.chooser import Chooser
from services.inference.auto.decision import Why
from services.inference.auto.fitting import Curve
from services.inference.auto.learning import fit
from services.inference.auto.records import Ending, Outcome
from services.inference.policy import Routing, Strategy
from tests.unit.inference.simulated_traffic import Traffic, candidates, chance, dice, difficulty, request

if TYPE_CHECKING:
    from services.inference.auto.fitting import Fitted

ROUTING = Routing(Strategy.COMPLEXITY, target=0.8, explore=0.5)


def traffic(seed: int, count: int, judged: float = 0.4) -> Traffic:
    rng = dice(seed)
    made = Traffic(rng, judged)
    chooser = Chooser(draw=rng.random)
    for _ in range(count):
        features = request(rng)
        decision = chooser.choose("auto", ROUTING, candidates(), features)
        made.answer(decision, features, chance(decision.model, features))
    return made


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(traffic(1, 6000).outcomes, ROUTING, 1)


def test_the_score_ranks_by_difficulty(fitted: Fitted) -> None:
    assert fitted.calibration is not None
    rng = dice(2)
    requests = [request(rng) for _ in range(500)]
    scores = np.argsort(np.argsort([fitted.calibration.score(one.vector()) for one in requests]))
    truth = np.argsort(np.argsort([difficulty(one) for one in requests]))
    assert np.corrcoef(scores, truth)[0, 1] > 0.9
    assert fitted.calibration.brier < fitted.calibration.brier_of_means


def test_what_is_expected_comes_true(fitted: Fitted) -> None:
    assert fitted.calibration is not None
    rng = dice(3)
    requests = [request(rng) for _ in range(2000)]
    for model, curve in fitted.calibration.curves.items():
        expected = np.array([curve.at(fitted.calibration.score(one.vector())) for one in requests])
        truth = np.array([chance(model, one) for one in requests])
        # In the mean, and in each fifth of the requests, though only 40 % of the answers were judged, and all failures were.
        assert abs(float((expected - truth).mean())) < 0.05
        for part in np.array_split(np.argsort(expected), 5):
            assert abs(float((expected[part] - truth[part]).mean())) < 0.12


def test_the_cheapest_that_is_good_enough_is_taken_and_the_target_is_met(fitted: Fitted) -> None:
    chooser = Chooser(lambda _: fitted, dice(4).random)
    rng = dice(5)
    routing = replace_explore(0.0)
    requests = [request(rng) for _ in range(2000)]
    decisions = [chooser.choose("auto", routing, candidates(), one) for one in requests]
    assert {one.why for one in decisions} <= {Why.GOOD_ENOUGH, Why.BEST_EXPECTED}
    assert {one.model for one in decisions} == {"small", "middle", "large"}
    reached = [
        chance(one.model, features) for one, features in zip(decisions, requests, strict=True) if one.why is Why.GOOD_ENOUGH
    ]
    assert sum(reached) / len(reached) > 0.8
    cost = sum(next(option.cost or 0 for option in one.options if option.model == one.model) for one in decisions)
    always = sum(one.options[-1].cost or 0 for one in decisions)
    assert cost < 0.75 * always
    assert all(one.fit == fitted.revision and one.score is not None and one.propensity == 1 for one in decisions)


def test_where_none_is_good_enough_the_best_is_taken(fitted: Fitted) -> None:
    routing = Routing(Strategy.COMPLEXITY, target=0.999, explore=0.0)
    decision = Chooser(lambda _: fitted).choose("auto", routing, candidates(), request(dice(1)))
    assert (decision.why, decision.model) == (Why.BEST_EXPECTED, "large")


def test_thresholds_come_from_the_traffic() -> None:
    easy, hard = traffic(6, 3000), traffic(6, 3000)
    hard.outcomes = [
        replace(one, reward=0.0 if index % 3 == 0 and one.reward else one.reward) for index, one in enumerate(hard.outcomes)
    ]
    thresholds = []
    for made in (easy, hard):
        calibration = fit(made.outcomes, ROUTING, 1).calibration
        assert calibration is not None
        thresholds.append([calibration.curves[model].threshold(0.6) or 0.0 for model in ("small", "middle", "large")])
    assert all(first > second for first, second in zip(*thresholds, strict=True))
    assert thresholds[0] == sorted(thresholds[0])


def test_it_says_so_while_too_little_is_known() -> None:
    routing = replace_explore(0.0)
    assert Chooser().choose("auto", routing, candidates(), request(dice(1))).why is Why.UNCALIBRATED
    few = fit(traffic(7, 300, judged=0.1).outcomes, ROUTING, 1)
    decision = Chooser(lambda _: few).choose("auto", routing, candidates(), request(dice(1)))
    assert (decision.why, decision.model, decision.score, decision.fit) == (Why.UNCALIBRATED, "small", None, "")
    assert [one.expected for one in decision.options] == [None, None, None]


def test_a_fit_under_another_idea_of_good_does_not_count(fitted: Fitted) -> None:
    routing = Routing(Strategy.COMPLEXITY, target=0.8, good=0.9, explore=0.0)
    assert Chooser(lambda _: fitted).choose("auto", routing, candidates(), request(dice(1))).why is Why.UNCALIBRATED


def test_models_without_prices_go_by_tier_then_by_the_policys_order(fitted: Fitted) -> None:
    calibration = fitted.calibration
    assert calibration is not None
    sure = replace(calibration, curves={model: Curve(500, 0.95, (0.5,), (0.95,)) for model in calibration.curves})
    chooser = Chooser(lambda _: replace(fitted, calibration=sure))
    plain = candidates(with_prices=False)
    features = request(dice(1))
    decision = chooser.choose("auto", replace_explore(0.0), plain, features)
    assert (decision.model, decision.options[0].cost) == ("small", None)
    tiers = [
        replace(one, declared=one.declared.__class__(one.declared.model, tier=3 - place)) for place, one in enumerate(plain)
    ]
    assert chooser.choose("auto", replace_explore(0.0), tiers, features).model == "large"


def test_exploring_goes_to_all_alike_and_says_how_likely_that_was(fitted: Fitted) -> None:
    rng = dice(8)
    chooser = Chooser(lambda _: fitted, rng.random)
    features = request(rng)
    decisions = [chooser.choose("auto", replace_explore(0.3), candidates(), features) for _ in range(3000)]
    explored = [one.model for one in decisions if one.why is Why.EXPLORED]
    # Binomial: 900 of 3000 with a standard deviation of 25, and 300 of each with one of 16; five of them fail once in 10^6.
    assert abs(len(explored) - 900) < 126
    assert all(abs(explored.count(model) - len(explored) / 3) < 80 for model in ("small", "middle", "large"))
    assert all(sum(one.propensity for one in decision.options) == pytest.approx(1) for decision in decisions[:50])
    assert all(
        decision.propensity == next(one.propensity for one in decision.options if one.model == decision.model)
        for decision in decisions[:50]
    )


def test_failures_alone_say_nothing_of_a_model_whose_good_answers_nobody_judges() -> None:
    vector = request(dice(1)).vector()
    well = [Outcome("a", "explored", 0.5, vector, Ending.WELL, 5, None)] * 100
    failed = [Outcome("a", "explored", 0.5, vector, Ending.FAILED, 0, None)] * 100
    assert calibrate(well + failed, Judged(well + failed), 0.5) is None
    # One that only ever fails is known.
    only = calibrate(failed, Judged(failed), 0.5)
    assert only is not None
    assert only.curves["a"].good == 0
    # One judged answer that stands for a hundred tells as much as one.
    judged = [*well, Outcome("a", "explored", 0.5, vector, Ending.WELL, 5, 1.0), *failed]
    rare = calibrate(judged, Judged(judged), 0.5)
    assert rare is not None
    assert rare.curves["a"].outcomes < 5
    assert rare.curves["a"].good == pytest.approx(101 / 201)


def test_a_bad_end_counts_as_bad_until_someone_judges_such_ends_otherwise() -> None:
    vector = request(dice(1)).vector()
    good = [Outcome("a", "explored", 0.5, vector, Ending.WELL, 5, 1.0)] * 60
    cut = [Outcome("a", "explored", 0.5, vector, Ending.CUT, 5, None)] * 40
    unjudged = calibrate(good + cut, Judged(good + cut), 0.5)
    assert unjudged is not None
    assert unjudged.curves["a"].good == pytest.approx(0.6)
    liked = [*good, *cut[:30], *[replace(cut[0], reward=1.0)] * 8, *[replace(cut[0], reward=0.0)] * 2]
    judged = calibrate(liked, Judged(liked), 0.5)
    assert judged is not None
    assert judged.curves["a"].good == pytest.approx(0.6 + 0.4 * 0.8)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=40))
def test_isotonic_regression_is_scipys(pairs: list[tuple[float, float]]) -> None:
    values, weights = np.array([one for one, _ in pairs]), np.array([one for _, one in pairs])
    assert descending(values, weights) == pytest.approx(isotonic_regression(values, weights=weights, increasing=False).x)


def test_logistic_regression_is_where_the_likelihood_is_highest() -> None:
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(300, 4))
    positive = (rng.random(300) < 1 / (1 + np.exp(-columns @ np.array([1.0, -2.0, 0.0, 0.5])))).astype(float)
    weights = rng.uniform(0.5, 2, 300)

    def loss(coefficients: np.ndarray) -> float:
        logits = columns @ coefficients
        return float((weights * (np.logaddexp(0, logits) - positive * logits)).sum() + 0.5 * (coefficients**2).sum())

    assert logistic(columns, positive, weights) == pytest.approx(minimize(loss, np.zeros(4)).x, abs=1e-3)
    # Separable data, where plain Newton steps diverge.
    assert np.isfinite(logistic(columns * 100, (columns[:, 0] > 0).astype(float), weights)).all()


def test_as_many_outcomes_of_one_weight_tell_as_much() -> None:
    assert telling(np.ones(7)) == pytest.approx(7)
    assert telling(np.array([100.0, *[0.0001] * 50])) == pytest.approx(1, abs=0.01)


def test_a_curve_between_and_beyond_its_places() -> None:
    curve = Curve(100, 0.5, (0.2, 0.6), (0.9, 0.3))
    assert [curve.at(score) for score in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([0.9, 0.9, 0.6, 0.3, 0.3])
    assert curve.threshold(0.6) == pytest.approx(0.4)
    assert (curve.threshold(0.95), curve.threshold(0.2)) == (None, 1.0)


def replace_explore(share: float) -> Routing:
    return Routing(Strategy.COMPLEXITY, target=0.8, explore=share)
