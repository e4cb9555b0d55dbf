"""Requests whose difficulty is known, and models whose chances of answering them well are."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp
from random import Random
from typing import TYPE_CHECKING

from services.inference.auto.chooser import Candidate
from services.inference.auto.features import Features
from services.inference.auto.records import Ending, Outcome
from services.inference.engine import Capability, Model
from services.inference.policy import WeightedModel

if TYPE_CHECKING:
    from services.inference.auto.decision import Decision

# Strength in logits, and price.
MODELS = {"small": (3.5, 1.0), "middle": (5.0, 5.0), "large": (7.0, 25.0)}


def dice(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - to be repeatable


def request(rng: Random) -> Features:
    tokens = int(2 ** rng.uniform(2, 10))
    return Features(
        question_tokens=tokens,
        total_tokens=tokens + int(2 ** rng.uniform(0, 12)),
        turns=rng.randint(1, 8),
        questions=rng.randint(0, 3),
        steps=rng.choice((0, 0, 0, 1, 2, 4)),
        reasons=rng.choice((0, 0, 1, 2, 3)),
        has_code=rng.random() < 0.3,
        has_maths=rng.random() < 0.2,
        cyrillic=rng.choice((0.0, 0.0, 0.8)),
        han=rng.choice((0.0, 0.0, 0.9)),
    )


def difficulty(features: Features) -> float:
    vector = features.vector()
    return 2.0 * vector[1] + 3.0 * vector[5] + 2.5 * vector[6] + 1.0 * features.has_code + 1.5 * features.has_maths


def chance(model: str, features: Features) -> float:
    return 1 / (1 + exp(difficulty(features) - MODELS[model][0]))


def candidates(*, with_prices: bool = True) -> list[Candidate]:
    return [
        Candidate(
            WeightedModel(name, output_price=price if with_prices else 0.0), Model(name, "openai", (Capability.GENERATION,))
        )
        for name, (_, price) in MODELS.items()
    ]


@dataclass
class Traffic:
    """Takes decisions in, and gives outcomes: some answers fail, and of the others a share is judged."""

    rng: Random
    judged: float = 0.4
    failures: float = 0.02
    outcomes: list[Outcome] = field(default_factory=list)

    def answer(self, decision: Decision, features: Features, likely: float) -> None:
        is_good = self.rng.random() < likely
        is_failed = not is_good and self.rng.random() < self.failures
        reward = float(is_good) if not is_failed and self.rng.random() < self.judged else None
        ending = Ending.FAILED if is_failed else Ending.WELL
        self.outcomes.append(Outcome(decision.model, decision.why, decision.propensity, features.vector(), ending, 100, reward))
