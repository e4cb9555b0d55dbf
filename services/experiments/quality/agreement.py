"""How far two judges agree beyond chance."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


def cohens_kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Agreement of two judges on the same items: 1 is full, 0 what chance gives, at least -1.

    None where it is not defined: without items, or where both always give the same one verdict, so that chance alone agrees.
    Source: J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20 (1960).

    Raises:
        ValueError: The judges did not judge equally many items.
    """
    items = len(one)
    if items != len(other):
        raise ValueError(f"one judge has {items} verdicts, the other {len(other)}")
    if not items:
        return None
    agreed = sum(a == b for a, b in zip(one, other, strict=True))
    first, second = Counter(one), Counter(other)
    # In whole numbers, so that chance of 1 is exactly that.
    by_chance = sum(first[verdict] * second[verdict] for verdict in first)
    return None if by_chance == items * items else (agreed * items - by_chance) / (items * items - by_chance)
