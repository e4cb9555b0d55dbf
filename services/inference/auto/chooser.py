"""Chooses one of an alias's models for a request."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.inference.auto.decision import Decision, Option, Why
from services.inference.auto.exploration import drawn, shares
from services.inference.engine import Capability
from services.inference.policy import Strategy
from services.inference.requirements import needed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.inference.auto.features import Features
    from services.inference.auto.fitting import Fitted
    from services.inference.engine import Generation, Model
    from services.inference.policy import Routing, WeightedModel

# Tokens of an answer, where neither the request nor the records tell.
_USUAL_ANSWER: Final = 256.0
_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that the policy names, as it is in reach now."""

    declared: WeightedModel
    model: Model


def able(candidates: Sequence[Candidate], generation: Generation, features: Features) -> list[Candidate]:
    """Those that can do at all what is asked for, and into whose context it fits."""
    wanted = set(needed(generation))
    if not generation.passages:
        # There is nothing that an extractor could answer from.
        wanted.add(Capability.GENERATION)
    tokens = features.total_tokens + features.max_tokens
    return [
        one
        for one in candidates
        if wanted.issubset(one.model.capabilities) and (not one.model.context_tokens or tokens <= one.model.context_tokens)
    ]


class Chooser:
    """Chooses models.

    Args:
        fitted: Gives what the records of an alias have taught.
        draw: Gives numbers from 0 to 1, below 1.
    """

    def __init__(
        self,
        fitted: Callable[[str], Fitted | None] = lambda _: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._fitted = fitted
        self._draw = draw

    def choose(self, alias: str, routing: Routing, candidates: Sequence[Candidate], features: Features) -> Decision:
        """Chooses one of the candidates, of which there is one at least and each can do what is asked for."""
        if len(candidates) == 1:
            name = candidates[0].declared.model
            return Decision(Why.ONLY_ABLE, name, features=features, options=(Option(name, 1.0),))
        fitted = self._fitted(alias)
        if fitted is not None and fitted.good != routing.good:
            # Made under another idea of what is good enough. The next one will not be.
            fitted = None
        if routing.strategy is Strategy.FEEDBACK:
            return self._learned(routing, candidates, features, fitted)
        return self._by_complexity(routing, candidates, features, fitted)

    def _by_complexity(
        self, routing: Routing, candidates: Sequence[Candidate], features: Features, fitted: Fitted | None
    ) -> Decision:
        calibration = fitted.calibration if fitted else None
        score = None if calibration is None else calibration.score(features.vector())
        expected: list[float | None] = []
        costs: list[float] = []
        for one in candidates:
            curve = calibration.curves.get(one.declared.model) if calibration else None
            is_known = curve is not None and score is not None and curve.outcomes >= routing.outcomes
            expected.append(curve.at(score) if is_known and curve is not None and score is not None else None)
            costs.append(_cost(one.declared, features, curve.output_tokens if curve else 0.0))
        chosen, why = _cheapest(routing.target or 0.0, candidates, expected, costs)
        is_calibrated = any(one is not None for one in expected)
        even = routing.explore / len(candidates)
        propensities = [even + (1 - routing.explore) * (place == chosen) for place in range(len(candidates))]
        number = self._draw()
        if number < routing.explore:
            chosen, why = min(int(number / even), len(candidates) - 1), Why.EXPLORED
        return Decision(
            why,
            candidates[chosen].declared.model,
            propensities[chosen],
            score if is_calibrated else None,
            features,
            _options(candidates, propensities, expected, costs),
            fitted.revision if fitted and is_calibrated else "",
        )

    def _learned(
        self, routing: Routing, candidates: Sequence[Candidate], features: Features, fitted: Fitted | None
    ) -> Decision:
        lesson = fitted.lesson if fitted else None
        names = [one.declared.model for one in candidates]
        vector = features.vector()
        length = fitted.calibration.curves if fitted and fitted.calibration else {}
        costs = [
            _cost(one.declared, features, length[name].output_tokens if name in length else 0.0)
            for name, one in zip(names, candidates, strict=True)
        ]
        expected = [lesson.expected(name, vector) if lesson else 0.0 for name in names]
        worth = [one - routing.cost_weight * cost for one, cost in zip(expected, costs, strict=True)]
        # A model that is hardly known is tried as if no more was known of the others.
        known = [lesson.known.get(name, 0) if lesson else 0 for name in names]
        parts = shares(worth, [lesson.rewards if lesson and one >= routing.outcomes else one for one in known])
        # Until it is known which is best for all, the policy's first one is taken for it.
        static = names.index(lesson.static) if lesson and lesson.static in names else 0
        holdout = routing.holdout
        propensities = [(1 - holdout) * share + holdout * (place == static) for place, share in enumerate(parts)]
        number = self._draw()
        if number < holdout:
            chosen, why = static, Why.HOLDOUT
        else:
            chosen, why = drawn(parts, (number - holdout) / (1 - holdout)), Why.LEARNED
        return Decision(
            why,
            names[chosen],
            propensities[chosen],
            None,
            features,
            _options(candidates, propensities, expected if lesson else [None] * len(names), costs),
            fitted.revision if fitted and lesson else "",
        )


def _cheapest(
    target: float, candidates: Sequence[Candidate], expected: Sequence[float | None], costs: Sequence[float]
) -> tuple[int, Why]:
    """Which of them, and why."""
    order = sorted(range(len(candidates)), key=lambda place: (candidates[place].declared.tier, costs[place], place))
    for place in order:
        hoped = expected[place]
        if hoped is not None and hoped >= target:
            return place, Why.GOOD_ENOUGH
    if any(one is None for one in expected):
        # One of which too little is known may be the one that is good enough.
        return 0, Why.UNCALIBRATED
    return max(order, key=lambda place: expected[place] or 0.0), Why.BEST_EXPECTED


def _cost(declared: WeightedModel, features: Features, usual_tokens: float) -> float:
    """In the policy's currency."""
    if not (declared.input_price or declared.output_price):
        return 0.0
    output = usual_tokens or _USUAL_ANSWER
    if features.max_tokens:
        output = min(output, features.max_tokens)
    return (features.total_tokens * declared.input_price + output * declared.output_price) / _MILLION


def _options(
    candidates: Sequence[Candidate],
    propensities: Sequence[float],
    expected: Sequence[float | None],
    costs: Sequence[float],
) -> tuple[Option, ...]:
    has_prices = any(one.declared.input_price or one.declared.output_price for one in candidates)
    return tuple(
        Option(one.declared.model, propensity, hoped, cost if has_prices else None)
        for one, propensity, hoped, cost in zip(candidates, propensities, expected, costs, strict=True)
    )
