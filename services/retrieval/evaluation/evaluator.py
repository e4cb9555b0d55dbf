"""Runs queries whose relevant documents are known against collections under several settings, side by side."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure
from services.retrieval.evaluation.measures import DEPTH, Interval, Measure, intervals, measured
from services.retrieval.passages import DEFAULTS, SearchMode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.retrieval.catalog import Collection
    from services.retrieval.evaluation.queries import Judged
    from services.retrieval.passages import Found, Options

# Chunks asked for, so that ten different documents are among them.
CHUNKS: Final = 40
_AT_ONCE: Final = 4
_MEDIAN: Final = 0.5
_SLOW: Final = 0.95


class SearchesIn(Protocol):
    """Whatever finds passages in collections that are already found; `search.Searcher` does."""

    async def search_in(
        self, targets: Sequence[Collection], query: str, top_k: int, mode: SearchMode, options: Options
    ) -> Found:
        """See `Searcher.search_in`."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to search: what is asked for beside the query, and of which collection."""

    name: str
    target: Collection
    mode: SearchMode = SearchMode.HYBRID
    options: Options = DEFAULTS


@dataclass(frozen=True, slots=True)
class Score:
    """How good one setting is.

    Attributes:
        name: The setting's.
        measures: The mean of each measure, with its interval.
        differences: Those less those of the first setting, query by query; empty for the first setting itself.
        by_words_alone: Queries that were served by words alone though the setting asked for more.
        p50_ms: Median time of a search, milliseconds.
        p95_ms: The time that 95 of 100 searches stay below, milliseconds.
    """

    name: str
    measures: Mapping[Measure, Interval]
    differences: Mapping[Measure, Interval]
    by_words_alone: int
    p50_ms: float
    p95_ms: float


@dataclass(slots=True)
class _Run:
    rows: list[dict[Measure, float]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    by_words_alone: int = 0


async def evaluate(searches: SearchesIn, settings: Sequence[Setting], queries: Sequence[Judged]) -> list[Score]:
    """Scores each setting. Queries have at least one relevant document each; there is at least one of either.

    Raises:
        Failure: what a search raises; nothing is measured then.
    """
    runs = [await _run(searches, setting, queries) for setting in settings]
    columns: dict[str, list[float]] = {}
    for number, run in enumerate(runs):
        for measure in Measure:
            columns[f"{number} {measure}"] = [row[measure] for row in run.rows]
            both = zip(run.rows, runs[0].rows, strict=True)
            columns[f"{number} {measure} more"] = [row[measure] - base[measure] for row, base in both]
    sure = await asyncio.to_thread(intervals, columns)
    return [
        Score(
            name=setting.name,
            measures={measure: sure[f"{number} {measure}"] for measure in Measure},
            differences={measure: sure[f"{number} {measure} more"] for measure in Measure} if number else {},
            by_words_alone=run.by_words_alone,
            p50_ms=_part(run.times, _MEDIAN),
            p95_ms=_part(run.times, _SLOW),
        )
        for number, (setting, run) in enumerate(zip(settings, runs, strict=True))
    ]


async def _run(searches: SearchesIn, setting: Setting, queries: Sequence[Judged]) -> _Run:
    run = _Run(rows=[{} for _ in queries])
    waiting = iter(enumerate(queries))
    # A threshold would leave out passages that are to be ranked; neighbors are of no use here.
    options = replace(setting.options, neighbors=0, explain=False)

    async def client() -> None:
        for number, judged in waiting:
            started = time.perf_counter()
            found = await searches.search_in([setting.target], judged.query, CHUNKS, setting.mode, options)
            run.times.append((time.perf_counter() - started) * 1000)
            run.by_words_alone += found.mode != setting.mode
            ranked = list(dict.fromkeys(hit.document for hit in found.hits))[:DEPTH]
            run.rows[number] = measured(ranked, frozenset(judged.relevant))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(client())
    except* Failure as failures:
        # All suffer from one thing; the caller is told once.
        first = failures.exceptions[0]
        raise first from None
    return run


def _part(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
