"""Makes one ranking of two: by meaning and by words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

# Cormack's constant of reciprocal rank fusion. Qdrant's default of 2 lets the first places of one leg outvote agreement.
RRF_K: Final = 60
DENSE_WEIGHT: Final = 0.7
SPARSE_WEIGHT: Final = 0.3
# Standard deviations on each side of the mean that make up the scale of DBSF.
_DEVIATIONS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Rrf:
    """Reciprocal rank fusion: 1 / (k + place), places counting from 0."""

    k: int = RRF_K


@dataclass(frozen=True, slots=True)
class Dbsf:
    """Distribution-based: a score's place between three standard deviations below and above its ranking's mean."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A score's place between the lowest and the highest of its ranking, times the ranking's weight; one is above 0."""

    dense: float = DENSE_WEIGHT
    sparse: float = SPARSE_WEIGHT


Fusion: TypeAlias = Rrf | Dbsf | Weighted


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chunk in one ranking."""

    uid: UUID
    score: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk stands in one ranking: its place from 1, its score, and what the score counts for."""

    rank: int
    score: float
    normalized: float


@dataclass(frozen=True, slots=True)
class Fused:
    """A chunk in the common ranking, with its places in the two it came from."""

    uid: UUID
    score: float
    dense: Place | None
    sparse: Place | None


def fuse(dense: Sequence[Ranked], sparse: Sequence[Ranked], fusion: Fusion) -> list[Fused]:
    """The common ranking, best first; equal scores go by the better place, then by id."""
    by_meaning, by_words = _places(dense, fusion), _places(sparse, fusion)
    weights = (1.0, 1.0)
    if isinstance(fusion, Weighted):
        whole = fusion.dense + fusion.sparse
        weights = (fusion.dense / whole, fusion.sparse / whole)
    fused = [
        Fused(
            uid,
            sum(
                weight * place.normalized
                for weight, place in zip(weights, (by_meaning.get(uid), by_words.get(uid)), strict=True)
                if place
            ),
            by_meaning.get(uid),
            by_words.get(uid),
        )
        for uid in by_meaning | by_words
    ]
    return sorted(fused, key=_order)


def ranked_alone(leg: Sequence[Ranked], *, by_meaning: bool) -> list[Fused]:
    """One ranking by itself, in the form of the common one: its scores stay as they are."""
    places = _places(leg, Weighted())
    return [Fused(uid, place.score, *((place, None) if by_meaning else (None, place))) for uid, place in places.items()]


def spread(scores: Sequence[float]) -> list[float]:
    """Each score's place between the lowest, 0, and the highest, 1; all 1 where they are equal."""
    lowest, highest = min(scores, default=0.0), max(scores, default=0.0)
    width = highest - lowest
    return [(score - lowest) / width if width > 0 else 1.0 for score in scores]


def _order(fused: Fused) -> tuple[float, int, UUID]:
    return -fused.score, min(place.rank for place in (fused.dense, fused.sparse) if place), fused.uid


def _places(leg: Sequence[Ranked], fusion: Fusion) -> dict[UUID, Place]:
    normalized = _normalized([one.score for one in leg], fusion)
    return {one.uid: Place(place + 1, one.score, normalized[place]) for place, one in enumerate(leg)}


def _normalized(scores: Sequence[float], fusion: Fusion) -> list[float]:
    match fusion:
        case Rrf(k):
            return [1 / (k + place) for place in range(len(scores))]
        case Dbsf():
            return _by_distribution(scores)
        case Weighted():
            return spread(scores)


def _by_distribution(scores: Sequence[float]) -> list[float]:
    """0.5 where a distribution has no width: a single score, or equal ones."""
    mean = math.fsum(scores) / len(scores) if scores else 0.0
    squares = math.fsum((score - mean) ** 2 for score in scores)
    deviation = math.sqrt(squares / (len(scores) - 1)) if len(scores) > 1 else 0.0
    if deviation <= 1e-12 * max(1.0, abs(mean)):
        return [0.5] * len(scores)
    return [min(1.0, max(0.0, (score - mean) / (2 * _DEVIATIONS * deviation) + 0.5)) for score in scores]
