"""Where series of daily values are going: the question and its answer, which travel to the analysis process and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Series: TypeAlias = tuple[tuple[float, float], ...]
"""Day and value of each day, in the order of days."""


@dataclass(frozen=True, slots=True)
class Trends:
    """Asks for the trends of series."""

    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Trend:
    """A slope a day with its 95 % interval, Kendall's tau, and the p-value of the Mann-Kendall test."""

    slope: float
    lower: float
    upper: float
    tau: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Trended:
    """A trend for each series; None for one of fewer than 4 days."""

    trends: tuple[Trend | None, ...]
