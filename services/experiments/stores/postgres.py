"""The store in PostgreSQL, the system of record. Its schema is made by `migrations`."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from services.chassis.errors import Failure
from services.chassis.postgres import outages, transaction
from services.experiments.analysis import Covariate
from services.experiments.experiments import NOBODY, Page, State
from services.experiments.store import MOST_SQUARED, Configuration, Exposure, Outcome, OutcomeTally, Tally
from services.experiments.stores.postgres_rows import (
    arm_to_json,
    audience_to_json,
    change_of,
    conclusion_to_json,
    evidence_of,
    execution_to_json,
    experiment_of,
    promotion_of,
)
from services.experiments.stores.refusals import already_exists, request_id_reused
from services.experiments.stores.wordings import holdout_set, promoted, taken_back

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from asyncpg import Record

    from services.chassis.postgres import Connection, Pool
    from services.experiments.experiments import Author, Change, Experiment, Promotion
    from services.experiments.store import Step

_log = logging.getLogger(__name__)

_CHANNEL: Final = "experiments_configuration"
# A connection that died without a word is found by a query this often.
_CHECK_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.3

_CREATE: Final = """
INSERT INTO experiments (experiment, hypothesis, unit, variants, metrics, request_types, state, hash_version, salt, create_time,
                         request_id, fingerprint, analysis, audience, traffic)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7, $8, $9, $10, nullif($11, ''), $12, $13::jsonb, $14::jsonb, $15)
ON CONFLICT DO NOTHING
RETURNING *
"""
_ALIVE: Final = "SELECT * FROM experiments WHERE state IN ('RUNNING', 'PAUSED') AND experiment <> $1"
_CHANGE: Final = """
UPDATE experiments SET
    state = $2, start_time = $3, stop_time = $4, traffic = $5, stage_time = $6, layer_start = $7, paused = $8,
    conclusion = $9::jsonb,
    start_revision = CASE WHEN $2 = 'RUNNING' THEN coalesce(start_revision, $10) ELSE start_revision END
WHERE experiment = $1
"""
_NOTE: Final = """
INSERT INTO changes (experiment, before, after, who, why, request_id, what) VALUES (nullif($1, ''), $2, $3, $4, $5, $6, $7)
"""
_CHANGES: Final = """
SELECT * FROM changes WHERE ($1 = '' OR experiment = $1) AND change > $3 ORDER BY change LIMIT $2
"""
_RUNNING: Final = "SELECT * FROM experiments WHERE state = 'RUNNING' ORDER BY start_revision"
_HOLDING: Final = "SELECT * FROM promotions WHERE revert_time IS NULL ORDER BY promotion"
_PROMOTE: Final = """
INSERT INTO promotions (experiment, variant, request_types, promote_time) VALUES ($1, $2::jsonb, $3, $4) RETURNING *
"""
_REVERT: Final = """
UPDATE promotions SET revert_time = clock_timestamp() WHERE promotion = $1 AND revert_time IS NULL RETURNING *
"""
_PROMOTIONS: Final = """
SELECT * FROM promotions WHERE $2::bigint IS NULL OR promotion < $2 ORDER BY promotion DESC LIMIT $1
"""
_RECORD_EXPOSURES: Final = """
INSERT INTO exposures (exposure, assignment, experiment, variant, unit_id, event_time, request_id, model, engine,
                       execution, fell_back)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[],
                     $7::text[], $8::text[], $9::text[], $10::jsonb[], $11::boolean[])
ON CONFLICT (exposure) DO NOTHING
"""
_RECORD_OUTCOMES: Final = """
INSERT INTO outcomes (outcome, assignment, experiment, variant, metric, value, event_time, covariate)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::timestamptz[], $8::boolean[])
ON CONFLICT (outcome) DO NOTHING
"""
# In two steps, since count(DISTINCT) would sort all texts.
_TALLY_EXPOSURES: Final = """
SELECT variant, sum(exposures)::bigint AS exposures, count(*) AS units, count(*) FILTER (WHERE fell_back) AS fell_back
FROM (
    SELECT variant, count(*) AS exposures, bool_or(fell_back) AS fell_back
    FROM exposures WHERE experiment = $1 GROUP BY variant, unit_id
) AS units
GROUP BY variant
"""
# By way of text the sum is that of the numbers as people write them, and does not depend on their order.
_TALLY_OUTCOMES: Final = """
WITH units AS (
    SELECT variant, metric, count(*) AS outcomes, sum(value::text::numeric) AS exact,
           min(value) AS lowest, max(value) AS highest
    FROM outcomes
    WHERE experiment = $1 AND NOT covariate AND ($2::timestamptz IS NULL OR record_time <= $2)
        AND (NOT $4 OR assignment NOT IN (SELECT assignment FROM exposures WHERE experiment = $1 AND fell_back))
    GROUP BY variant, metric, assignment
), numbers AS (
    SELECT *, CASE WHEN greatest(abs(lowest), abs(highest)) <= $3 THEN exact::float8 END AS total FROM units
)
SELECT variant, metric, sum(outcomes)::bigint AS outcomes, count(*) AS units, sum(exact)::float8 AS sum,
       avg(total / outcomes) AS mean, regr_sxx(total / outcomes, total / outcomes) AS squares,
       avg(total) AS total, avg(outcomes)::float8 AS count, regr_sxx(total, total) AS total_squares,
       regr_sxx(outcomes, outcomes) AS count_squares, regr_sxy(total, outcomes) AS products,
       min(lowest) AS lowest, max(highest) AS highest
FROM numbers GROUP BY variant, metric
"""


# Units without a covariate have the mean of the units that have one, over all variants.
_TALLY_COVARIATES: Final = """
WITH units AS (
    SELECT variant, metric, avg(value) FILTER (WHERE NOT covariate) AS after, avg(value) FILTER (WHERE covariate) AS before
    FROM outcomes WHERE experiment = $1 AND abs(value) <= $2 GROUP BY variant, metric, assignment
), filled AS (
    SELECT *, coalesce(before, avg(before) OVER (PARTITION BY metric)) AS filled FROM units WHERE after IS NOT NULL
)
SELECT variant, metric, count(*) AS units, count(before) AS known, avg(filled) AS mean,
       regr_sxx(filled, filled) AS squares, regr_sxy(filled, after) AS products
FROM filled WHERE filled IS NOT NULL GROUP BY variant, metric
"""
_HAS_COVARIATES: Final = "SELECT EXISTS (SELECT FROM outcomes WHERE experiment = $1 AND covariate)"


class PostgresStore:
    """Keeps everything in the schema `experiments`, which must be first on the pool's search path."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, experiment: Experiment, request_id: str, author: Author = NOBODY) -> Experiment:
        """See `Store`."""
        design = experiment.design
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(
                _CREATE,
                design.experiment,
                design.hypothesis,
                design.unit.value,
                json.dumps([arm_to_json(arm) for arm in design.variants]),
                json.dumps([asdict(metric) for metric in design.metrics]),
                [kind.name for kind in design.request_types],
                experiment.state.value,
                experiment.hash_version,
                experiment.salt,
                experiment.create_time,
                request_id,
                design.fingerprint(),
                json.dumps(asdict(design.analysis)),
                json.dumps(audience_to_json(design)),
                experiment.traffic,
            )
            if row is not None:
                await _note(connection, author, experiment.id, (None, experiment.state))
            else:
                row = await connection.fetchrow("SELECT * FROM experiments WHERE request_id = $1", request_id)
                if row is None:
                    raise already_exists(experiment.id)
                if row["fingerprint"] != design.fingerprint():
                    raise request_id_reused(request_id)
            return experiment_of(row)

    async def get(self, experiments: Iterable[str]) -> dict[str, Experiment]:
        """See `Store`."""
        rows = await self._fetch("SELECT * FROM experiments WHERE experiment = ANY($1::text[])", list(experiments))
        return {row["experiment"]: experiment_of(row) for row in rows}

    async def page(self, size: int, before: int | None) -> Page:
        """See `Store`."""
        query = "SELECT * FROM experiments WHERE $2::bigint IS NULL OR number < $2 ORDER BY number DESC LIMIT $1"
        rows = await self._fetch(query, size + 1, before)
        shown = rows[:size]
        return Page(tuple(experiment_of(row) for row in shown), shown[-1]["number"] if len(rows) > size else None)

    async def change(
        self, experiment: str, step: Callable[[Experiment, Sequence[Experiment]], Step], author: Author = NOBODY
    ) -> Experiment | None:
        """See `Store`."""
        async with self._revising() as (connection, revise):
            row = await connection.fetchrow("SELECT * FROM experiments WHERE experiment = $1", experiment)
            if row is None:
                return None
            found = experiment_of(row)
            alive = await connection.fetch(_ALIVE, experiment)
            taken = step(found, [experiment_of(other) for other in alive])
            after = taken.experiment
            if after == found:
                return found
            await connection.execute(
                _CHANGE,
                experiment,
                after.state.value,
                after.start_time,
                after.stop_time,
                after.traffic,
                after.stage_time,
                after.layer_start,
                list(after.paused),
                conclusion_to_json(after.conclusion),
                await revise(),
            )
            await _note(connection, author, experiment, (found.state, after.state), taken.what)
        return after

    @asynccontextmanager
    async def _revising(self) -> AsyncIterator[tuple[Connection, Callable[[], Awaitable[int]]]]:
        """A transaction that has the configuration to itself, and how it makes a new revision."""
        async with transaction(self._pool) as connection:
            before: int = await connection.fetchval("SELECT revision FROM configuration FOR UPDATE")

            async def revise() -> int:
                await connection.execute("UPDATE configuration SET revision = $1", before + 1)
                # Heard by all processes of this service once, and only if, this commits.
                await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, str(before + 1))
                return before + 1

            yield connection, revise

    async def list_changes(self, experiment: str, size: int, after: int) -> tuple[Change, ...]:
        """See `Store`."""
        return tuple(change_of(row) for row in await self._fetch(_CHANGES, experiment, size, after))

    async def promote(self, promotion: Promotion, author: Author = NOBODY) -> Promotion:
        """See `Store`."""
        async with self._revising() as (connection, revise):
            holding = await connection.fetch(_HOLDING)
            for row in holding:
                if row["experiment"] == promotion.experiment:
                    return promotion_of(row)
            types = [kind.name for kind in promotion.request_types]
            arm = json.dumps(arm_to_json(promotion.arm))
            [row] = await connection.fetch(_PROMOTE, promotion.experiment, arm, types, promotion.promote_time)
            stored = promotion_of(row)
            await self._note_promotion(connection, author, stored, promoted(stored))
            await revise()
        return stored

    async def revert(self, promotion: int, author: Author = NOBODY) -> Promotion | None:
        """See `Store`."""
        async with self._revising() as (connection, revise):
            row = await connection.fetchrow(_REVERT, promotion)
            if row is None:
                row = await connection.fetchrow("SELECT * FROM promotions WHERE promotion = $1", promotion)
                return None if row is None else promotion_of(row)
            reverted = promotion_of(row)
            await self._note_promotion(connection, author, reverted, taken_back(reverted))
            await revise()
        return reverted

    async def _note_promotion(self, connection: Connection, author: Author, promotion: Promotion, what: str) -> None:
        state = State(await connection.fetchval("SELECT state FROM experiments WHERE experiment = $1", promotion.experiment))
        await _note(connection, author, promotion.experiment, (state, state), what)

    async def promotions(self, size: int, before: int | None) -> tuple[Promotion, ...]:
        """See `Store`."""
        return tuple(promotion_of(row) for row in await self._fetch(_PROMOTIONS, size, before))

    async def holdout(self) -> float:
        """See `Store`."""
        [(share,)] = await self._fetch("SELECT holdout FROM configuration")
        return float(share)

    async def set_holdout(self, share: float, author: Author = NOBODY) -> None:
        """See `Store`."""
        async with self._revising() as (connection, revise):
            before = await connection.fetchval("SELECT holdout FROM configuration")
            if before != share:
                await connection.execute("UPDATE configuration SET holdout = $1", share)
                await _note(connection, author, "", (None, None), holdout_set(before, share))
                await revise()

    async def configuration(self) -> Configuration:
        """See `Store`."""
        async with transaction(self._pool) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            [(revision, holdout)] = await connection.fetch("SELECT revision, holdout FROM configuration")
            running = await connection.fetch(_RUNNING)
            holding = await connection.fetch(_HOLDING)
        experiments = tuple(experiment_of(row) for row in running)
        return Configuration(revision, experiments, tuple(promotion_of(row) for row in holding), holdout)

    async def changes(self) -> AsyncGenerator[None]:
        """See `Store`."""
        listening = True
        while True:
            try:
                with outages():
                    async with self._pool.acquire(timeout=5) as connection, aclosing(_notices(connection)) as notices:
                        async for _ in notices:
                            listening = True
                            yield
            except Failure:
                if listening:
                    _log.warning("the database does not answer; changes are heard of again once it does")
            listening = False
            await asyncio.sleep(_RETRY_SECONDS)

    async def record_exposures(self, exposures: Sequence[Exposure]) -> int:
        """See `Store`."""
        # In one order, so that two batches with the same keys cannot lock each other out.
        ordered = sorted(exposures, key=lambda one: one.exposure)
        names = ("exposure", "assignment", "experiment", "variant", "unit_id", "event_time", "request_id", "model", "engine")
        columns: list[list[Any]] = [[getattr(row, name) for row in ordered] for name in names]
        columns.append([execution_to_json(row.execution) for row in ordered])
        columns.append([row.execution.fell_back for row in ordered])
        return await self._insert(_RECORD_EXPOSURES, columns)

    async def record_outcomes(self, outcomes: Sequence[Outcome]) -> int:
        """See `Store`."""
        ordered = sorted(outcomes, key=lambda one: one.outcome)
        names = ("outcome", "assignment", "experiment", "variant", "metric", "value", "event_time", "covariate")
        return await self._insert(_RECORD_OUTCOMES, [[getattr(row, name) for row in ordered] for name in names])

    async def tally(self, experiment: str, look: datetime | None = None) -> Tally:
        """See `Store`."""
        async with transaction(self._pool) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # Units are counted by hashing; with less memory they are sorted on disk, which takes twice as long.
            await connection.execute("SET LOCAL work_mem = '64MB'")
            exposed = await connection.fetch(_TALLY_EXPOSURES, experiment)
            measured = await connection.fetch(_TALLY_OUTCOMES, experiment, None, MOST_SQUARED, False)
            seen = [] if look is None else await connection.fetch(_TALLY_OUTCOMES, experiment, look, MOST_SQUARED, False)
            fallen = {row["variant"]: row["fell_back"] for row in exposed if row["fell_back"]}
            served = await connection.fetch(_TALLY_OUTCOMES, experiment, None, MOST_SQUARED, True) if fallen else None
            adjusting = await connection.fetchval(_HAS_COVARIATES, experiment)
            covariates = await connection.fetch(_TALLY_COVARIATES, experiment, MOST_SQUARED) if adjusting else []
        return Tally(
            exposures={row["variant"]: (row["exposures"], row["units"]) for row in exposed},
            outcomes={
                (row["variant"], row["metric"]): OutcomeTally(row["outcomes"], row["units"], row["sum"]) for row in measured
            },
            evidence=evidence_of(measured),
            seen=evidence_of(seen),
            fell_back=fallen,
            covariates={
                (row["variant"], row["metric"]): Covariate(
                    row["units"], row["known"], row["mean"], row["squares"], row["products"]
                )
                for row in covariates
            },
            served=None if served is None else evidence_of(served),
        )

    async def _fetch(self, query: str, *arguments: Any) -> list[Record]:
        with outages():
            async with self._pool.acquire(timeout=5) as connection:
                return await connection.fetch(query, *arguments)

    async def _insert(self, query: str, columns: Sequence[Sequence[object]]) -> int:
        async with transaction(self._pool) as connection:
            tag = await connection.execute(query, *columns)
        # The command tag reads `INSERT 0 <rows>`.
        return int(tag.rsplit(" ", 1)[1])


async def _note(
    connection: Connection, author: Author, experiment: str, states: tuple[State | None, State | None], what: str = ""
) -> None:
    await connection.execute(_NOTE, experiment, *states, author.who, author.why, author.request_id, what)


async def _notices(connection: Connection) -> AsyncGenerator[None]:
    """Yields at first, and at each notice; ends or raises when the connection is lost."""
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await connection.add_listener(_CHANNEL, hear)
    connection.add_termination_listener(hear)
    try:
        heard.set()
        while not connection.is_closed():
            if heard.is_set():
                heard.clear()
                yield
                continue
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await heard.wait()
            except TimeoutError:
                await connection.fetchval("SELECT 1", timeout=_CHECK_SECONDS)
    finally:
        if not connection.is_closed():
            connection.remove_termination_listener(hear)
            await connection.remove_listener(_CHANNEL, hear)
