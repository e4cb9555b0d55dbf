"""How often each model is tried, given the rewards that can be expected.

Inverse gap weighting (Foster and Rakhlin, "Beyond UCB: optimal and efficient contextual bandits with regression oracles",
2020): the seemingly best model gets most requests, each other one the fewer, the further it is behind, and the more is known.
Unlike upper confidence bounds it draws, and unlike Thompson's sampling it knows with which probability it drew: from that
the records can tell what any other rule would have earned.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# How fast exploring gives way to what has been learned, by the square root of the number of rewards.
_SCALE: Final = 10.0


def shares(expected: Sequence[float], rewards: Sequence[int]) -> list[float]:
    """How likely each model is to be chosen, by the rewards to be expected and how many these rest on."""
    count = len(expected)
    best = max(range(count), key=expected.__getitem__)
    given = [
        1 / (count + _SCALE * sqrt(rested) * (expected[best] - one)) for one, rested in zip(expected, rewards, strict=True)
    ]
    given[best] = 0.0
    given[best] = 1 - sum(given)
    return given


def drawn(shares: Sequence[float], number: float) -> int:
    """Which of them a number from 0 to 1, below 1, stands for."""
    for place, share in enumerate(shares):
        number -= share
        if number < 0:
            return place
    # Sums of fractions may fall short of 1 by a hair.
    return max(range(len(shares)), key=shares.__getitem__)
