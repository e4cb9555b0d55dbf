"""Which of several trials are best when more than one thing counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the one is no worse in anything and better in something. Less is better in all."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(items: Sequence[T], losses: Callable[[T], Sequence[float]]) -> list[T]:
    """Those that none dominates, least first loss first, equal ones in their order."""
    chosen: list[tuple[tuple[float, ...], T]] = []
    # What dominates another one comes before it in this order, and so does one of the front that dominates it, too.
    for loss, item in sorted(((tuple(losses(item)), item) for item in items), key=lambda pair: pair[0]):
        if not any(dominates(other, loss) for other, _ in chosen):
            chosen.append((loss, item))
    return [item for _, item in chosen]


def best(items: Sequence[T], losses: Callable[[T], Sequence[float]], most: int) -> list[T]:
    """Up to `most`: the front, then the front of those that remain, and so on."""
    chosen: list[T] = []
    rest = list(items)
    while rest and len(chosen) < most:
        layer = front(rest, losses)
        chosen += layer
        rest = [item for item in rest if all(item is not one for one in layer)]
    return chosen[:most]
