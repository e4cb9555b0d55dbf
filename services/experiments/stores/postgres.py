"""The store in PostgreSQL, the system of record. Its schema is made by `migrations`."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from services.chassis.errors import Failure
from services.chassis.postgres import outages, transaction
from services.experiments.experiments import NOBODY, Page
from services.experiments.store import MOST_SQUARED, Configuration, Exposure, Outcome, OutcomeTally, Tally
from services.experiments.stores.postgres_rows import arm_to_json, change_of, evidence_of, experiment_of
from services.experiments.stores.refusals import already_exists, request_id_reused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
    from datetime import datetime

    from asyncpg import Record

    from services.chassis.postgres import Connection, Pool
    from services.experiments.experiments import Author, Change, Experiment, State

_log = logging.getLogger(__name__)

_CHANNEL: Final = "experiments_configuration"
# A connection that died without a word is found by a query this often.
_CHECK_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.3

_CREATE: Final = """
INSERT INTO experiments (experiment, hypothesis, unit, variants, metrics, request_types, state, hash_version, salt, create_time,
                         request_id, fingerprint, analysis)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7, $8, $9, $10, nullif($11, ''), $12, $13::jsonb)
ON CONFLICT DO NOTHING
RETURNING *
"""
_LOCK: Final = "SELECT state FROM experiments WHERE experiment = $1 AND state = ANY($2::text[]) FOR UPDATE"
_MOVE: Final = """
UPDATE experiments SET
    state = $2,
    start_time = CASE WHEN $2 = 'RUNNING' THEN coalesce(start_time, clock_timestamp()) ELSE start_time END,
    start_revision = CASE WHEN $2 = 'RUNNING' THEN coalesce(start_revision, $3) ELSE start_revision END,
    stop_time = CASE WHEN $2 = 'STOPPED' THEN clock_timestamp() END
WHERE experiment = $1
"""
_NOTE: Final = "INSERT INTO changes (experiment, before, after, who, why, request_id) VALUES ($1, $2, $3, $4, $5, $6)"
_CONFIGURATION: Final = """
SELECT configuration.revision, experiments.*
FROM configuration LEFT JOIN experiments ON experiments.state = 'RUNNING'
ORDER BY experiments.start_revision
"""
_RECORD_EXPOSURES: Final = """
INSERT INTO exposures (exposure, assignment, experiment, variant, unit_id, event_time, request_id, model, engine)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[],
                     $7::text[], $8::text[], $9::text[])
ON CONFLICT (exposure) DO NOTHING
"""
_RECORD_OUTCOMES: Final = """
INSERT INTO outcomes (outcome, assignment, experiment, variant, metric, value, event_time)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::timestamptz[])
ON CONFLICT (outcome) DO NOTHING
"""
# In two steps, since count(DISTINCT) would sort all texts.
_TALLY_EXPOSURES: Final = """
SELECT variant, sum(exposures)::bigint AS exposures, count(*) AS units
FROM (SELECT variant, count(*) AS exposures FROM exposures WHERE experiment = $1 GROUP BY variant, unit_id) AS units
GROUP BY variant
"""
# By way of text the sum is that of the numbers as people write them, and does not depend on their order.
_TALLY_OUTCOMES: Final = """
WITH units AS (
    SELECT variant, metric, count(*) AS outcomes, sum(value::text::numeric) AS exact,
           min(value) AS lowest, max(value) AS highest
    FROM outcomes WHERE experiment = $1 AND ($2::timestamptz IS NULL OR record_time <= $2) GROUP BY variant, metric, assignment
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
            )
            if row is not None:
                await _note(connection, experiment.id, None, experiment.state, author)
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

    async def move(self, experiment: str, sources: Collection[State], target: State, author: Author = NOBODY) -> bool:
        """See `Store`."""
        async with transaction(self._pool) as connection:
            before = await connection.fetchval(_LOCK, experiment, [source.value for source in sources])
            if before is None:
                return False
            revision = await connection.fetchval("UPDATE configuration SET revision = revision + 1 RETURNING revision")
            await connection.execute(_MOVE, experiment, target.value, revision)
            await _note(connection, experiment, before, target, author)
            # Heard by all processes of this service once, and only if, this commits.
            await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, str(revision))
        return True

    async def list_changes(self, experiment: str, size: int, after: int) -> tuple[Change, ...]:
        """See `Store`."""
        query = "SELECT * FROM changes WHERE experiment = $1 AND change > $3 ORDER BY change LIMIT $2"
        return tuple(change_of(row) for row in await self._fetch(query, experiment, size, after))

    async def configuration(self) -> Configuration:
        """See `Store`."""
        rows = await self._fetch(_CONFIGURATION)
        return Configuration(rows[0]["revision"], tuple(experiment_of(row) for row in rows if row["experiment"] is not None))

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
        return await self._insert(_RECORD_EXPOSURES, ordered, names)

    async def record_outcomes(self, outcomes: Sequence[Outcome]) -> int:
        """See `Store`."""
        ordered = sorted(outcomes, key=lambda one: one.outcome)
        names = ("outcome", "assignment", "experiment", "variant", "metric", "value", "event_time")
        return await self._insert(_RECORD_OUTCOMES, ordered, names)

    async def tally(self, experiment: str, look: datetime | None = None) -> Tally:
        """See `Store`."""
        async with transaction(self._pool) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # Units are counted by hashing; with less memory they are sorted on disk, which takes twice as long.
            await connection.execute("SET LOCAL work_mem = '64MB'")
            exposed = await connection.fetch(_TALLY_EXPOSURES, experiment)
            measured = await connection.fetch(_TALLY_OUTCOMES, experiment, None, MOST_SQUARED)
            seen = [] if look is None else await connection.fetch(_TALLY_OUTCOMES, experiment, look, MOST_SQUARED)
        return Tally(
            exposures={row["variant"]: (row["exposures"], row["units"]) for row in exposed},
            outcomes={
                (row["variant"], row["metric"]): OutcomeTally(row["outcomes"], row["units"], row["sum"]) for row in measured
            },
            evidence=evidence_of(measured),
            seen=evidence_of(seen),
        )

    async def _fetch(self, query: str, *arguments: Any) -> list[Record]:
        with outages():
            async with self._pool.acquire(timeout=5) as connection:
                return await connection.fetch(query, *arguments)

    async def _insert(self, query: str, rows: Sequence[object], names: tuple[str, ...]) -> int:
        columns = [[getattr(row, name) for row in rows] for name in names]
        async with transaction(self._pool) as connection:
            tag = await connection.execute(query, *columns)
        # The command tag reads `INSERT 0 <rows>`.
        return int(tag.rsplit(" ", 1)[1])


async def _note(connection: Connection, experiment: str, before: str | None, after: State, author: Author) -> None:
    await connection.execute(_NOTE, experiment, before, after.value, author.who, author.why, author.request_id)


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
