"""How long the results of an experiment with many outcomes take, over a PostgreSQL of its own.

.venv/bin/python -m benchmarks.analysis_speed
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from penstock.assignment import Arm, Unit

from benchmarks.table import render
from services.chassis.postgres import open_pool
from services.experiments.analysis import Metric, Plan, Role
from services.experiments.analyst import Analyst
from services.experiments.experiments import Design
from services.experiments.lifecycle import Experiments
from services.experiments.results import results
from services.experiments.stores.postgres import PostgresStore
from tests.support.postgres import Postgres

_OUTCOMES: Final = """
INSERT INTO outcomes (outcome, assignment, experiment, variant, metric, value, event_time)
SELECT 'o' || n, '1~e~' || v || '~' || left(md5(u || v), 22), 'e', v, 'm', random(), now()
FROM (SELECT n, (ARRAY['a', 'b'])[1 + n % 2] AS v, n / 2 % $2::int AS u FROM generate_series(1, $1::int) AS n) AS made
"""
_EXPOSURES: Final = """
INSERT INTO exposures (exposure, assignment, experiment, variant, unit_id, event_time, request_id, model, engine)
SELECT 'x' || n, '1~e~' || v || '~' || left(md5(u || v), 22), 'e', v, u || v, now(), '', '', ''
FROM (SELECT n, (ARRAY['a', 'b'])[1 + n % 2] AS v, n / 2 % $2::int AS u FROM generate_series(1, $1::int) AS n) AS made
"""


async def measure(outcomes: int, units: int) -> list[tuple[str, str]]:
    """Seconds of the first call, which starts the analysis process, and of later ones."""
    async with AsyncExitStack() as stack:
        server = Postgres(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        server.start()
        stack.callback(server.stop)
        url = await server.new_database("experiments")
        pool = await stack.enter_async_context(open_pool(url, schema="experiments"))
        store, analyst = PostgresStore(pool), Analyst()
        stack.push_async_callback(analyst.close)
        arms, metrics = (Arm("a", 1), Arm("b", 1)), (Metric("m", role=Role.PRIMARY),)
        # One look, long past: its data is summed up a second time.
        await Experiments(store).create(Design("e", "", Unit.USER, arms, metrics, analysis=Plan(duration=1e-3)))
        await Experiments(store).start("e")
        for query in (_OUTCOMES, _EXPOSURES):
            await pool.execute(query, outcomes, units // 2, timeout=600)
        await pool.execute("ANALYZE", timeout=600)
        rows = []
        for name in ("first call", "second call", "third call"):
            began = time.perf_counter()
            await results(store, analyst, "e")
            rows.append((name, f"{time.perf_counter() - began:.2f}"))
        return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=int, default=1_000_000, help="outcomes, and as many exposures")
    parser.add_argument("--units", type=int, default=200_000)
    options = parser.parse_args()
    rows = asyncio.run(measure(options.outcomes, options.units))
    print(render((f"{options.outcomes} outcomes of {options.units} units", "seconds"), rows))


if __name__ == "__main__":
    main()
