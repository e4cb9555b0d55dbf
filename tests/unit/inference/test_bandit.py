"""The learned router against traffic whose truth is known.

Seeds are fixed. Bounds are five standard deviations away, so that a right router fails one of them in less than 10^-5 of
all seeds.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.auto.chooser import Chooser
from services.inference.auto.decision import Why
from services.inference.auto.exploration import drawn, shares
from services.inference.auto.learning import fit
from services.inference.policy import Routing, Strategy, WeightedModel
from tests.unit.inference.simulated_traffic import Traffic, candidates, dice, request

if TYPE_CHECKING:
    from services.inference.auto.decision import Decision
    from services.inference.auto.features import Features
    from services.inference.auto.fitting import Fitted

ROUTING = Routing(Strategy.FEEDBACK, holdout=0.1, outcomes=50)
ROUNDS, BATCH = 6000, 250
# Chances of a good answer, without code and with it. Over all requests, 30 % of which are about code, `middle` is best.
SUITED = {"small": (0.35, 0.35), "middle": (0.8, 0.4), "large": (0.5, 0.85)}
ALIKE = {"small": (0.4, 0.4), "middle": (0.7, 0.7), "large": (0.55, 0.55)}


class Run:
    """So many rounds, with a fit after every batch, as the service does it."""

    def __init__(self, truth: dict[str, tuple[float, float]], seed: int) -> None:
        rng = dice(seed)
        self.truth = truth
        self.traffic = Traffic(rng, judged=0.5)
        self.fitted: Fitted | None = None
        self.rounds: list[tuple[Decision, Features]] = []
        chooser = Chooser(lambda _: self.fitted, rng.random)
        for number in range(ROUNDS):
            features = request(rng)
            decision = chooser.choose("auto", ROUTING, candidates(), features)
            self.traffic.answer(decision, features, self.chance(decision.model, features))
            self.rounds.append((decision, features))
            if number % BATCH == BATCH - 1:
                self.fitted = fit(self.traffic.outcomes, ROUTING, number)

    def chance(self, model: str, features: Features) -> float:
        return self.truth[model][features.has_code]

    def earned(self, first: int, last: int, *, why: Why) -> float:
        """Mean chance of a good answer, without the noise of rewards."""
        mine = [(one, features) for one, features in self.rounds[first:last] if one.why is why]
        return sum(self.chance(one.model, features) for one, features in mine) / len(mine)

    def static(self, model: str) -> float:
        return sum(self.chance(model, features) for _, features in self.rounds) / len(self.rounds)


@pytest.fixture(scope="module")
def suited() -> Run:
    return Run(SUITED, 11)


@pytest.fixture(scope="module")
def alike() -> Run:
    return Run(ALIKE, 12)


def test_it_learns_which_model_suits_which_request(suited: Run) -> None:
    late = [(one, features) for one, features in suited.rounds[ROUNDS * 2 // 3 :] if one.why is Why.LEARNED]
    for has_code, best in ((False, "middle"), (True, "large")):
        mine = [one.model for one, features in late if features.has_code is has_code]
        assert mine.count(best) / len(mine) > 0.85


def test_it_earns_more_than_the_best_static_model(suited: Run) -> None:
    best = max(SUITED, key=suited.static)
    assert best == "middle"
    # The best that can be had is 0.3 * 0.85 + 0.7 * 0.8 = 0.815, `middle` alone has 0.68.
    assert suited.earned(ROUNDS * 2 // 3, ROUNDS, why=Why.LEARNED) > 0.79
    # Over the whole run too, what exploring cost at the beginning included.
    assert suited.earned(0, ROUNDS, why=Why.LEARNED) > suited.static(best) + 0.05


def test_where_one_model_is_best_for_all_little_is_lost_and_ever_less(alike: Run) -> None:
    regrets = [0.7 - alike.earned(part * ROUNDS // 4, (part + 1) * ROUNDS // 4, why=Why.LEARNED) for part in range(4)]
    assert regrets[3] < 0.02
    assert regrets[3] < 0.5 * regrets[0]
    # Foster and Rakhlin's bound grows by the root of the rounds: here it would be 0.7 * sqrt(models * features / rounds).
    assert sum(regrets) / 4 < 0.7 * sqrt(3 * 16 / ROUNDS)


@pytest.mark.parametrize("name", ["suited", "alike"])
def test_the_holdout_is_never_dropped(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    for first in range(0, ROUNDS, 1000):
        held = sum(one.why is Why.HOLDOUT for one, _ in run.rounds[first : first + 1000])
        # Binomial: 100 with a standard deviation of 9.5.
        assert abs(held - 100) < 5 * 9.5
    assert {one.model for one, _ in run.rounds[ROUNDS // 2 :] if one.why is Why.HOLDOUT} == {"middle"}
    assert {one.model for one, _ in run.rounds[:BATCH] if one.why is Why.HOLDOUT} == {"small"}
    late = [{option.model: option.propensity for option in one.options} for one, _ in run.rounds[ROUNDS // 2 :]]
    assert all(one["middle"] >= 0.1 for one in late)


def test_propensities_are_how_often_it_really_draws(suited: Run) -> None:
    fitted = suited.fitted
    features = request_without_code()
    chooser = Chooser(lambda _: fitted, dice(3).random)
    decisions = [chooser.choose("auto", ROUTING, candidates(), features) for _ in range(20_000)]
    for option in decisions[0].options:
        often = sum(one.model == option.model for one in decisions) / len(decisions)
        deviation = sqrt(option.propensity * (1 - option.propensity) / len(decisions))
        assert abs(often - option.propensity) < 5 * deviation + 1e-9
    assert all(sum(option.propensity for option in one.options) == pytest.approx(1) for one, _ in suited.rounds[::100])


def test_the_records_tell_what_other_rules_would_have_earned(suited: Run) -> None:
    assert suited.fitted is not None
    lesson = suited.fitted.lesson
    assert lesson is not None
    assert lesson.static == "middle"
    for model, value in lesson.values.items():
        assert abs(value.mean - suited.static(model)) < 5 * value.error + 0.01
    assert lesson.learned is not None
    assert lesson.holdout is not None
    assert lesson.learned.mean - 2 * lesson.learned.error > lesson.holdout.mean + 2 * lesson.holdout.error - 0.05


def test_an_unknown_model_is_tried() -> None:
    run = Run.__new__(Run)
    run.truth = ALIKE
    traffic = Traffic(dice(1), judged=1.0)
    two = candidates()[:2]
    chooser = Chooser(draw=dice(2).random)
    for _ in range(400):
        features = request(traffic.rng)
        decision = chooser.choose("auto", ROUTING, two, features)
        traffic.answer(decision, features, run.chance(decision.model, features))
    fitted = fit(traffic.outcomes, ROUTING, 1)
    decision = Chooser(lambda _: fitted).choose("auto", ROUTING, candidates(), request_without_code())
    assert {one.model: one.propensity for one in decision.options}["large"] > 0.25


def test_cost_counts_as_much_as_the_policy_says(suited: Run) -> None:
    fitted, features = suited.fitted, request_without_code()
    routing = Routing(Strategy.FEEDBACK, holdout=0.01, cost_weight=1000.0)
    priced = [
        replace(one, declared=WeightedModel(one.declared.model, output_price=1000.0 * (one.declared.model != "small")))
        for one in candidates()
    ]
    options = Chooser(lambda _: fitted).choose("auto", routing, priced, features).options
    assert max(options, key=lambda one: one.propensity).model == "small"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=16), st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_shares_are_a_distribution(expected: list[float], rewards: int, number: float) -> None:
    parts = shares(expected, [rewards] * len(expected))
    assert sum(parts) == pytest.approx(1)
    assert all(part > 0 for part in parts)
    assert max(parts) == parts[expected.index(max(expected))] or rewards == 0
    assert 0 <= drawn(parts, number) < len(parts)


def request_without_code() -> Features:
    rng = dice(9)
    return next(one for one in iter(lambda: request(rng), None) if not one.has_code)
