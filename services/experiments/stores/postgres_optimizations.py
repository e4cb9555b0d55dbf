"""Optimizations in Postgres: rows under leases, and their trials."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from penstock.assignment import Settings
from pydantic import TypeAdapter

from services.chassis.errors import Failure, Reason
from services.chassis.postgres import outages, transaction
from services.experiments.optimization.measuring import Measures
from services.experiments.optimization.optimizations import Caller, Design, Optimization, Page, State, Trial
from services.experiments.optimization.worker import Job
from services.experiments.stores.refusals import request_id_reused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from services.chassis.postgres import Pool

_DESIGN: Final = TypeAdapter(Design)
_CALLER: Final = TypeAdapter(Caller)
_SETTINGS: Final = TypeAdapter(Settings)
_MEASURES: Final = TypeAdapter(Measures)

_CREATE: Final = """
INSERT INTO optimizations (tenant, optimization, design, caller, planned, request_id, fingerprint)
VALUES ($1, $2, $3::jsonb, $4::jsonb, $5, nullif($6, ''), $7) ON CONFLICT DO NOTHING RETURNING *
"""
_EARLIER: Final = "SELECT * FROM optimizations WHERE tenant = $1 AND request_id = $2"
_GET: Final = "SELECT * FROM optimizations WHERE tenant = $1 AND optimization = $2"
_PAGE: Final = """
SELECT *, (SELECT count(*) FROM optimization_trials WHERE optimization_uid = uid) AS finished
FROM optimizations WHERE tenant = $1 AND ($3::bigint IS NULL OR uid < $3) ORDER BY uid DESC LIMIT $2
"""
_TRIALS: Final = "SELECT * FROM optimization_trials WHERE optimization_uid = $1 ORDER BY held_out, trial"
_CANCEL: Final = """
UPDATE optimizations SET state = 'CANCELLED', end_time = clock_timestamp(), lease = NULL, leased_until = NULL, note = ''
WHERE tenant = $1 AND optimization = $2 AND end_time IS NULL
"""
_CLAIM: Final = """
UPDATE optimizations SET lease = $1, leased_until = now() + make_interval(secs => $2) WHERE uid = (
    SELECT uid FROM optimizations WHERE end_time IS NULL AND coalesce(leased_until <= now(), true)
    ORDER BY leased_until NULLS FIRST, uid LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING *
"""
_RENEW: Final = """
UPDATE optimizations SET leased_until = now() + make_interval(secs => $3)
WHERE uid = $1 AND lease = $2 AND end_time IS NULL RETURNING true
"""
_RELEASE: Final = """
UPDATE optimizations SET lease = NULL, leased_until = now() + make_interval(secs => $3), note = $4
WHERE uid = $1 AND lease = $2 AND end_time IS NULL
"""
# Whoever has lost the lease, and whose optimization was cancelled, writes nothing.
_HELD: Final = "SELECT true FROM optimizations WHERE uid = $1 AND lease = $2 AND end_time IS NULL FOR UPDATE"
_MOVE: Final = "UPDATE optimizations SET state = $2, note = '' WHERE uid = $1"
_ADD: Final = """
INSERT INTO optimization_trials (optimization_uid, held_out, trial, settings, measures)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb) ON CONFLICT DO NOTHING
"""
_END: Final = """
UPDATE optimizations SET state = $3, note = $4, winner = $5, experiment = $6, end_time = clock_timestamp(), lease = NULL,
    leased_until = NULL
WHERE uid = $1 AND lease = $2 AND end_time IS NULL
"""


class PostgresOptimizations:
    """See `optimizations.Records` and `worker.Jobs`.

    Args:
        pool: Connections.
        lease_seconds: How long a worker that died holds its optimization.
    """

    def __init__(self, pool: Pool, lease_seconds: float) -> None:
        self._pool = pool
        self._lease_seconds = lease_seconds

    async def create(self, design: Design, caller: Caller, request_id: str, fingerprint: str) -> Optimization:
        """See `Records.create`."""
        written = (_DESIGN.dump_json(design).decode(), _CALLER.dump_json(caller).decode())
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(
                _CREATE, caller.tenant, design.optimization, *written, design.planned(), request_id, fingerprint
            )
            if row is None and request_id:
                row = await connection.fetchrow(_EARLIER, caller.tenant, request_id)
                if row is not None and row["fingerprint"] != fingerprint:
                    raise request_id_reused(request_id)
        if row is None:
            raise Failure(
                Reason.OPTIMIZATION_ALREADY_EXISTS,
                f"there is an optimization {design.optimization!r} already; take another id",
                metadata={"optimization": design.optimization},
            )
        return _optimization(row, [])

    async def get(self, tenant: str, optimization: str) -> Optimization | None:
        """See `Records.get`."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_GET, tenant, optimization)
            return None if row is None else _optimization(row, await connection.fetch(_TRIALS, row["uid"]))

    async def page(self, tenant: str, size: int, before: int | None) -> Page:
        """See `Records.page`."""
        with outages():
            rows = await self._pool.fetch(_PAGE, tenant, size + 1, before)
        found = tuple(replace(_optimization(row, []), finished=row["finished"]) for row in rows[:size])
        return Page(found, found[-1].uid if len(rows) > size else None)

    async def cancel(self, tenant: str, optimization: str) -> None:
        """See `Records.cancel`."""
        with outages():
            await self._pool.execute(_CANCEL, tenant, optimization)

    async def claim(self) -> Job | None:
        """See `Jobs.claim`."""
        lease = uuid4()
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_CLAIM, lease, self._lease_seconds)
            if row is None:
                return None
            return Job(_optimization(row, await connection.fetch(_TRIALS, row["uid"])), lease)

    async def renew(self, job: Job) -> bool:
        """See `Jobs.renew`."""
        with outages():
            return bool(await self._pool.fetchval(_RENEW, job.optimization.uid, job.lease, self._lease_seconds))

    async def release(self, job: Job, delay: float, note: str) -> None:
        """See `Jobs.release`."""
        with outages():
            await self._pool.execute(_RELEASE, job.optimization.uid, job.lease, delay, note)

    async def move(self, job: Job, state: State) -> bool:
        """See `Jobs.move`."""
        async with transaction(self._pool) as connection:
            held = await connection.fetchval(_HELD, job.optimization.uid, job.lease)
            if held:
                await connection.execute(_MOVE, job.optimization.uid, state)
        return bool(held)

    async def add(self, job: Job, trial: Trial, *, held_out: bool) -> bool:
        """See `Jobs.add`."""
        written = (_SETTINGS.dump_json(trial.settings).decode(), _MEASURES.dump_json(trial.measures).decode())
        async with transaction(self._pool) as connection:
            held = await connection.fetchval(_HELD, job.optimization.uid, job.lease)
            if held:
                await connection.execute(_ADD, job.optimization.uid, held_out, trial.trial, *written)
        return bool(held)

    async def end(self, job: Job, state: State, note: str, winner: int | None = None, experiment: str = "") -> None:
        """See `Jobs.end`."""
        with outages():
            await self._pool.execute(_END, job.optimization.uid, job.lease, state, note, winner, experiment)


def _optimization(row: Record, trials: Sequence[Record]) -> Optimization:
    measured: dict[bool, list[Trial]] = {False: [], True: []}
    for one in trials:
        measured[one["held_out"]].append(_trial(one))
    return Optimization(
        uid=row["uid"],
        design=_DESIGN.validate_json(row["design"]),
        caller=_CALLER.validate_json(row["caller"]),
        state=State(row["state"]),
        create_time=row["create_time"],
        end_time=row["end_time"],
        trials=tuple(measured[False]),
        finals=tuple(measured[True]),
        winner=row["winner"],
        experiment=row["experiment"],
        note=row["note"],
        finished=len(trials),
    )


def _trial(row: Record) -> Trial:
    settings, measures = _SETTINGS.validate_json(row["settings"]), _MEASURES.validate_json(row["measures"])
    return Trial(row["trial"], settings, measures, row["finish_time"])
