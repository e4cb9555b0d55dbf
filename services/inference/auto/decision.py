"""What was decided for a request, by what, and how likely it was: enough to judge other ways of deciding by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.inference.auto.features import Features


class Why(StrEnum):
    """Why a request goes to its model."""

    ASSIGNED = "assigned"
    WEIGHT = "weight"
    ENGINE_ORDER = "engine_order"
    ONLY_ABLE = "only_able"
    NONE_ABLE = "none_able"
    UNCALIBRATED = "uncalibrated"
    GOOD_ENOUGH = "good_enough"
    BEST_EXPECTED = "best_expected"
    EXPLORED = "explored"
    LEARNED = "learned"
    HOLDOUT = "holdout"


@dataclass(frozen=True, slots=True)
class Option:
    """One model that could have been chosen.

    Attributes:
        model: Its name.
        propensity: How likely it was to be chosen, 0 to 1; those of all options add up to 1.
        expected: How likely its answer is to be good enough, or the reward to be expected; None while unknown.
        cost: What the answer is expected to cost, in the policy's currency; None where the policy has no prices.
    """

    model: str
    propensity: float
    expected: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided.

    Attributes:
        why: The reason.
        model: The model chosen. Another one may answer where it fails.
        propensity: How likely it was to be chosen, by whatever arm, 0 to 1.
        score: How hard the request looks, as the share of recorded requests that look easier; None while uncalibrated.
        features: What it looks like; None where nothing was decided by that.
        options: What could have been chosen.
        fit: Which fit of the records it was decided by; empty for none.
    """

    why: Why
    model: str
    propensity: float = 1.0
    score: float | None = None
    features: Features | None = None
    options: tuple[Option, ...] = ()
    fit: str = ""
