"""Recorded days that stand in memory."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from services.experiments.quality.assessment import Criterion
from services.experiments.quality.records import Day

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.experiments.quality.assessment import Assessment
    from services.experiments.quality.records import Origin, Wanted


class Kept:
    """Five days of two texts each, of one model, whose readability rises by 0.1 a day."""

    async def record(self, assessment: str, origin: Origin, assessed: Assessment) -> bool:
        raise NotImplementedError

    async def days(self, wanted: Wanted) -> Sequence[Day]:  # noqa: ARG002 - the same for all
        return [
            Day("m", Criterion.READABILITY, date(2026, 1, day), scored=2, abstained=1, failed=0, total=2 * (0.1 + day / 10))
            for day in range(1, 6)
        ]
