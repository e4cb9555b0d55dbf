"""What the analyst's child is asked about a search. Light, so that the serving process can hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.experiments.optimization.space import Space, Value


@dataclass(frozen=True, slots=True)
class Proposal:
    """Asks for the point to try next.

    Attributes:
        space: What may be tried.
        objectives: How many losses each trial has.
        tried: The points that were measured, in their order, with their losses; None where one of them is unknown.
        planned: How many will be tried.
        seed: What chance begins from.
    """

    space: Space
    objectives: int
    tried: tuple[tuple[dict[str, Value], tuple[float, ...] | None], ...]
    planned: int
    seed: int


@dataclass(frozen=True, slots=True)
class Proposed:
    """The point to try next; None where all have been tried."""

    point: dict[str, Value] | None
