"""Recorded assessments, and statistics of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure, Reason
from services.experiments.quality.trends import Trends

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from services.experiments.analyst import Analyst
    from services.experiments.quality.assessment import Assessment, Criterion
    from services.experiments.quality.trends import Trend

MOST_GROUPS: Final = 100


class Grouping(Enum):
    """By what scores are counted apart."""

    ALL = 0
    MODEL = 1
    PROMPT = 2
    VARIANT = 3


class Missing(Enum):
    """Why there is no trend."""

    NONE = 0
    TOO_FEW_DAYS = 1
    ANALYSIS_UNAVAILABLE = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a text; empty where it is not known."""

    model: str = ""
    prompt: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which assessments are counted: of so many days back, today included, and of an origin; None of a part means all."""

    days: int
    grouping: Grouping
    model: str | None = None
    prompt: str | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """One criterion of one group on one day (UTC). `total` is the sum of the scores."""

    group: str
    criterion: Criterion
    day: date
    scored: int
    abstained: int
    failed: int
    total: float


@dataclass(frozen=True, slots=True)
class Statistic:
    """One criterion of one group over all days."""

    group: str
    criterion: Criterion
    days: tuple[Day, ...]
    trend: Trend | None
    missing: Missing

    @property
    def scored(self) -> int:
        """How many texts have a score."""
        return sum(day.scored for day in self.days)

    @property
    def mean(self) -> float | None:
        """Of all scores; None where there is none."""
        return math.fsum(day.total for day in self.days) / self.scored if self.scored else None


class Records(Protocol):
    """Where assessments are kept."""

    async def record(self, assessment: str, origin: Origin, assessed: Assessment) -> bool:
        """Keeps the scores under the id, and says whether they are new. Durable once it returns.

        Raises:
            Failure: DATABASE_UNAVAILABLE.
        """

    async def days(self, wanted: Wanted) -> Sequence[Day]:
        """By group, criterion and day, in this order; of the groups with the most texts, at most `MOST_GROUPS`.

        Raises:
            Failure: DATABASE_UNAVAILABLE.
        """


async def statistics(records: Records, analyst: Analyst, wanted: Wanted) -> list[Statistic]:
    """Counts, means and trends. Without the analysis process the counts stand."""
    days = await records.days(wanted)
    groups = [(key, tuple(found)) for key, found in groupby(days, key=lambda day: (day.group, day.criterion))]
    series = tuple(
        tuple((float(day.day.toordinal()), day.total / day.scored) for day in found if day.scored) for _, found in groups
    )
    missing = Missing.TOO_FEW_DAYS
    trends: Sequence[Trend | None] = (None,) * len(groups)
    try:
        if groups:
            trends = (await analyst.ask(Trends(series))).trends
    except Failure as failure:
        if failure.reason is not Reason.ANALYSIS_UNAVAILABLE:
            raise
        missing = Missing.ANALYSIS_UNAVAILABLE
    return [
        Statistic(group, criterion, found, trend, Missing.NONE if trend else missing)
        for ((group, criterion), found), trend in zip(groups, trends, strict=True)
    ]
