"""Recorded assessments in Postgres: a row a criterion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.chassis.postgres import outages, transaction
from services.experiments.quality.assessment import FORMULA_VERSION, Criterion, State
from services.experiments.quality.records import MOST_GROUPS, Day, Grouping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.chassis.postgres import Pool
    from services.experiments.quality.assessment import Assessment
    from services.experiments.quality.records import Origin, Wanted

_RECORD: Final = """
INSERT INTO quality_assessments (assessment, model, prompt, variant, formula_version) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING uid
"""
_SCORES: Final = """
INSERT INTO quality_scores (uid, criterion, state, score)
SELECT $1, * FROM unnest($2::smallint[], $3::smallint[], $4::double precision[])
"""
# The columns' names come from `_COLUMN` alone.
_DAYS: Final = """
WITH asked AS (
    SELECT uid, {group} AS "group", (assess_time AT TIME ZONE 'UTC')::date AS day FROM quality_assessments
    WHERE assess_time >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - make_interval(days => $1 - 1)
        AND formula_version = $2
        AND ($3::text IS NULL OR model = $3) AND ($4::text IS NULL OR prompt = $4) AND ($5::text IS NULL OR variant = $5)
), largest AS (
    SELECT "group" FROM asked GROUP BY "group" ORDER BY count(*) DESC, "group" LIMIT $6
)
SELECT "group", criterion, day, count(score) AS scored, count(*) FILTER (WHERE state = $7) AS abstained,
    count(*) FILTER (WHERE state = $8) AS failed, coalesce(sum(score), 0) AS total
FROM asked JOIN largest USING ("group") JOIN quality_scores USING (uid)
GROUP BY "group", criterion, day ORDER BY "group", criterion, day
"""
_COLUMN: Final = {Grouping.ALL: "''", Grouping.MODEL: "model", Grouping.PROMPT: "prompt", Grouping.VARIANT: "variant"}


class PostgresQuality:
    """Keeps assessments, and counts them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, assessment: str, origin: Origin, assessed: Assessment) -> bool:
        """See `Records.record`."""
        async with transaction(self._pool) as connection:
            uid = await connection.fetchval(_RECORD, assessment, origin.model, origin.prompt, origin.variant, FORMULA_VERSION)
            if uid is None:
                return False
            judged = assessed.judgements
            await connection.execute(
                _SCORES,
                uid,
                [one.criterion.value for one in judged],
                [one.state.value for one in judged],
                [one.score for one in judged],
            )
        return True

    async def days(self, wanted: Wanted) -> Sequence[Day]:
        """See `Records.days`."""
        query = _DAYS.format(group=_COLUMN[wanted.grouping])
        origin = (wanted.model, wanted.prompt, wanted.variant)
        states = (State.ABSTAINED.value, State.FAILED.value)
        with outages():
            rows = await self._pool.fetch(query, wanted.days, FORMULA_VERSION, *origin, MOST_GROUPS, *states, timeout=20)
        return [
            Day(
                row["group"],
                Criterion(row["criterion"]),
                row["day"],
                row["scored"],
                row["abstained"],
                row["failed"],
                row["total"],
            )
            for row in rows
        ]
